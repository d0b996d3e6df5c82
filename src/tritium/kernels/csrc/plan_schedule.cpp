// Which operations share a phase, on how many threads it runs, and where its values lie.
#include <algorithm>

#include "plan.h"

namespace tritium {
namespace {

constexpr double kWorthSplitting = 400;    // nanoseconds of work for each thread of a phase
constexpr double kWorthStealing = 20'000;  // nanoseconds of a piece that may be cut smaller
constexpr int kPiecesPerThread = 8;
// Up to here every thread does an operation for itself rather than wait for another to share the result.
constexpr double kWorthReplicating = 1'500;
constexpr int64_t kMostReplicatedRows = 4;
constexpr int64_t kCacheLine = 64;

int64_t whole_lines(int64_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

bool is_cut_alike(const Operation& a, const Operation& b) {
  return a.domain == b.domain && a.rows == b.rows && a.fixed_items == b.fixed_items;
}

}  // namespace

// An epoch begins where, however a run is cut, an operation has to wait for one before it. So a value that is
// read in one epoch for the last time leaves its memory to the next.
void Plan::find_epochs() {
  int epoch = 0;
  for (auto& operation : operations_) {
    for (const int producer : operation->producers) {
      if (producer < 0) continue;
      const Operation& before = *operations_[static_cast<size_t>(producer)];
      if (before.epoch < epoch || before.may_replicate) continue;
      if (!is_cut_alike(*operation, before) || operation->crosses_items(true)) ++epoch;
    }
    operation->epoch = epoch;
  }
  for (auto& operation : operations_) operation->is_replicable = operation->may_replicate;
  for (const auto& operation : operations_) {
    for (const int producer : operation->producers) {
      if (producer < 0) continue;
      Operation& before = *operations_[static_cast<size_t>(producer)];
      before.is_replicable = before.is_replicable && before.epoch == operation->epoch;
    }
  }
  step_.replicates.resize(static_cast<size_t>(epoch) + 1);
  epoch_cost_.resize(static_cast<size_t>(epoch) + 1);
}

void Plan::place_values() {
  std::vector<int> last_read(values_.size(), -1);
  for (const auto& operation : operations_) {
    for (const auto* ids : {&operation->reads, &operation->writes}) {
      for (const ValueId id : *ids) last_read[static_cast<size_t>(id)] = operation->epoch;
    }
  }
  for (const auto& operation : operations_) {
    for (const ValueId id : operation->writes) {
      Value& value = values_[static_cast<size_t>(id)];
      if (id == output_ || value.row_bytes == 0 || value.buffer >= 0) continue;
      if (operation->is_replicable) value.replicable_in = operation->epoch;
      value.buffer = take_buffer(value, operation->is_replicable, operation->epoch);
      buffers_[static_cast<size_t>(value.buffer)].free_from = last_read[static_cast<size_t>(id)] + 1;
    }
  }
  step_.buffers.resize(buffers_.size());
  step_.copy_bytes.resize(buffers_.size());
  stage_of_operation_.resize(operations_.size());
}

int Plan::take_buffer(const Value& value, bool is_replicable, int epoch) {
  for (size_t i = 0; i < buffers_.size(); ++i) {
    Buffer& buffer = buffers_[i];
    if (buffer.free_from <= epoch && buffer.rows == value.rows && buffer.is_replicable == is_replicable) {
      buffer.row_bytes = std::max(buffer.row_bytes, value.row_bytes);
      return static_cast<int>(i);
    }
  }
  buffers_.push_back({value.rows, value.row_bytes, is_replicable, 0});
  return static_cast<int>(buffers_.size() - 1);
}

// Gives every buffer its place for this batch.
void Plan::lay_out(Step& step, int threads) {
  const Batch& batch = step.batch;
  step.is_decode = batch.tokens == batch.sequences;
  if (query_heads > 0) {
    const KvPool& shape = batch.cache->shape;
    step.attention.begin({shape, batch.block_tables, batch.sequence_starts, batch.context_lengths,
                          batch.sequences, batch.table_width, query_heads, true},
                         threads);
    step.is_decode = step.attention.is_by_row();
    while (step.attention_memory.size() < static_cast<size_t>(threads)) {
      step.attention_memory.push_back(std::make_unique<AttentionMemory>(shape.dim));
    }
  }
  int64_t size = 0;
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const int64_t rows = step.count(buffers_[i].rows);
    const int64_t bytes = whole_lines(rows * buffers_[i].row_bytes);
    const bool has_copies = buffers_[i].is_replicable && threads > 1 && rows <= kMostReplicatedRows;
    step.copy_bytes[i] = has_copies ? bytes : 0;
    size += has_copies ? bytes * threads : bytes;
  }
  char* next = arena_.reserve(size);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const int64_t bytes = whole_lines(step.count(buffers_[i].rows) * buffers_[i].row_bytes);
    step.buffers[i] = next;
    next += step.copy_bytes[i] > 0 ? bytes * threads : bytes;
  }
  while (workers_.size() < static_cast<size_t>(threads)) {
    workers_.push_back(
        {-1, std::vector<double>(operations_.size()), std::vector<int64_t>(operations_.size())});
  }
}

void Plan::schedule(int threads) {
  stages_.clear();
  stretches_.clear();
  phases_.clear();
  choose_replication(threads);
  int first = 0, epoch = 0;
  for (size_t i = 0; i < operations_.size(); ++i) {
    const Operation& operation = *operations_[i];
    stage_of_operation_[i] = -1;
    if (operation.items(step_) == 0) continue;
    const bool is_replicated =
        operation.is_replicable && step_.replicates[static_cast<size_t>(operation.epoch)];
    if (operation.epoch != epoch || waits(operation, is_replicated, first)) {
      close_phase(first, threads);
      first = static_cast<int>(stages_.size());
      epoch = operation.epoch;
    }
    stage_of_operation_[i] = static_cast<int>(stages_.size());
    stages_.push_back({static_cast<int>(i), is_replicated});
  }
  close_phase(first, threads);
  for (Worker& worker : workers_) worker.prepared = -1;
}

// The replicable operations of an epoch are replicated together, or not at all: one may read another.
void Plan::choose_replication(int threads) {
  std::fill(epoch_cost_.begin(), epoch_cost_.end(), 0.0);
  for (const auto& operation : operations_) {
    if (!operation->is_replicable) continue;
    const bool has_copies = threads > 1 && step_.count(operation->rows) <= kMostReplicatedRows;
    epoch_cost_[static_cast<size_t>(operation->epoch)] +=
        has_copies ? operation->nanoseconds(step_) : 2 * kWorthReplicating;
  }
  for (size_t i = 0; i < epoch_cost_.size(); ++i) {
    step_.replicates[i] = epoch_cost_[i] > 0 && epoch_cost_[i] <= kWorthReplicating;
  }
}

// Whether an operation needs all of what an operation of the open phase makes.
bool Plan::waits(const Operation& consumer, bool is_replicated, int first_stage) const {
  for (const int producer : consumer.producers) {
    if (producer < 0) continue;
    const int stage = stage_of_operation_[static_cast<size_t>(producer)];
    if (stage < first_stage || stages_[static_cast<size_t>(stage)].is_replicated) continue;
    const Operation& before = *operations_[static_cast<size_t>(producer)];
    if (is_replicated || !is_cut_alike(consumer, before) || consumer.crosses_items(step_.is_decode)) {
      return true;
    }
  }
  return false;
}

// Makes a phase of the stages from `first` on. Phases for one thread that follow each other become one.
void Plan::close_phase(int first, int threads) {
  const int last = static_cast<int>(stages_.size());
  if (first == last) return;
  double cost = 0;
  int64_t most_pieces = 1;
  for (int i = first; i < last; ++i) {
    const Stage& stage = stages_[static_cast<size_t>(i)];
    if (stage.is_replicated) continue;
    const Operation& operation = *operations_[static_cast<size_t>(stage.operation)];
    cost += operation.nanoseconds(step_);
    const int64_t grain = grain_of(operation.domain);
    most_pieces = std::max(most_pieces, (operation.items(step_) + grain - 1) / grain);
  }
  const auto worthwhile = static_cast<int64_t>(cost / kWorthSplitting);
  const int64_t used = std::max<int64_t>(1, std::min({int64_t{threads}, most_pieces, worthwhile}));
  if (used == 1 && !phases_.empty() && phases_.back().pieces == 1) {
    stretches_.back().last = last;
    return;
  }
  const auto finer = static_cast<int64_t>(cost / static_cast<double>(used) / kWorthStealing);
  const int64_t per_thread = used == 1 ? 1 : std::clamp<int64_t>(finer, 1, kPiecesPerThread);
  const int64_t pieces = std::min({most_pieces, used * per_thread, int64_t{kMostPieces}});
  stretches_.push_back({first, last});
  phases_.push_back({static_cast<uint16_t>(pieces), static_cast<uint16_t>((pieces + used - 1) / used)});
}

}  // namespace tritium
