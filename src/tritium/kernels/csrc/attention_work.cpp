#include "attention_work.h"

#include <algorithm>

namespace tritium {
namespace {

constexpr int64_t kEnoughItems = 16;                  // per thread, that they share the work evenly
constexpr double kMultiplicationsPerNanosecond = 60;  // of one thread: an order of magnitude is enough
constexpr double kBytesPerNanosecond = 30;

// The first position that a row sees which ends at `length`.
int32_t start_of(const AttentionLayer& layer, int32_t length) {
  return layer.window > 0 && length > layer.window ? length - static_cast<int32_t>(layer.window) : 0;
}

int64_t up_to(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

void finish(const AttentionLayer& layer, const AttentionTask& task, const AttentionState& state) {
  for (int64_t i = 0; i < task.rows; ++i) {
    float* out = layer.out + (task.q[i] - layer.q);
    table().finish_attention(state.mixed + i * task.padded, state.total[i], task.dim, out);
  }
}

}  // namespace

AttentionMemory::AttentionMemory(int64_t dim) {
  const int64_t padded = up_to(dim, 16) * 16, mixed = kAttentionRows * padded;
  numbers_.reset(new float[static_cast<size_t>(2 * (mixed + 2 * kAttentionRows))]);
  float* next = numbers_.get();
  for (AttentionState* one : {&state, &part}) {
    *one = {next, next + kAttentionRows, next + 2 * kAttentionRows};
    next += mixed + 2 * kAttentionRows;
  }
}

// Rows [first_row, first_row + rows) of a sequence, a row being query position x shared + query head.
struct AttentionWork::Item {
  int64_t index;
  int64_t sequence;
  int64_t head;
  int64_t first_row;
  int64_t rows;
  int64_t segment;
};

int64_t AttentionWork::rows_of(int64_t sequence) const {
  return (call_.query_starts[sequence + 1] - call_.query_starts[sequence]) * shared_;
}

int64_t AttentionWork::splits_of(int64_t sequence) const {
  if (!is_split_ || rows_of(sequence) > kAttentionRows) return 1;
  return up_to(call_.context_lengths[sequence], kSegmentPositions);
}

int64_t AttentionWork::cut() {
  first_item_[0] = 0;
  part_rows_ = 0;
  for (int64_t b = 0; b < call_.sequences; ++b) {
    const int64_t splits = splits_of(b), rows = rows_of(b);
    if (splits > 1) part_rows_ = std::max(part_rows_, rows);
    const auto at = static_cast<size_t>(b);
    first_item_[at + 1] = first_item_[at] + call_.shape.heads * up_to(rows, kAttentionRows) * splits;
  }
  return first_item_[static_cast<size_t>(call_.sequences)];
}

void AttentionWork::begin(const AttentionCall& call, int threads) {
  call_ = call;
  shared_ = call.query_heads / call.shape.heads;
  is_split_ = false;
  first_item_.resize(static_cast<size_t>(call.sequences) + 1);
  items_ = cut();
  if (threads > 1 && items_ < threads * kEnoughItems) {
    is_split_ = true;
    items_ = cut();
  }
  if (part_rows_ > 0) {
    const auto size = static_cast<size_t>(items_ * part_rows_ * (call.shape.padded() + 2));
    if (parts_.size() < size) parts_.resize(size);
    const int64_t groups = call.sequences * call.shape.heads;
    if (left_size_ < groups) {
      left_.reset(new std::atomic<int32_t>[static_cast<size_t>(groups)]);
      left_size_ = groups;
    }
    for (int64_t i = 0; i < groups; ++i) {
      left_[static_cast<size_t>(i)].store(static_cast<int32_t>(splits_of(i / call.shape.heads)),
                                          std::memory_order_relaxed);
    }
  }
  is_by_row_ = part_rows_ == 0 && items_ == call.sequences * call.shape.heads;
  for (int64_t b = 0; b < call.sequences; ++b) is_by_row_ = is_by_row_ && rows_of(b) == shared_;
  first_cost_.assign(1, 0.0);
  for (int64_t b = 0; b < call.sequences; ++b) first_cost_.push_back(first_cost_.back() + estimate(b));
}

double AttentionWork::estimate(int64_t sequence) const {
  const auto positions =
      static_cast<double>(call_.context_lengths[sequence]) * static_cast<double>(call_.shape.heads);
  const double products = 2.0 * static_cast<double>(rows_of(sequence) * call_.shape.dim);
  const double bytes = static_cast<double>(call_.shape.page_bytes()) / kPagePositions;
  return positions * std::max(products / kMultiplicationsPerNanosecond, bytes / kBytesPerNanosecond);
}

int64_t AttentionWork::begin_of(int64_t piece, int64_t pieces) const {
  if (piece == pieces) return items_;
  const double before = nanoseconds() * static_cast<double>(piece) / static_cast<double>(pieces);
  const auto above = std::upper_bound(first_cost_.begin(), first_cost_.end() - 1, before);
  const auto sequence = static_cast<size_t>(above - first_cost_.begin() - 1);
  const double share = (before - first_cost_[sequence]) / (first_cost_[sequence + 1] - first_cost_[sequence]);
  const int64_t first = first_item_[sequence], items = first_item_[sequence + 1] - first;
  return first + std::min(items, static_cast<int64_t>(share * static_cast<double>(items)));
}

AttentionWork::Item AttentionWork::item_at(int64_t index) const {
  const auto above = std::upper_bound(first_item_.begin(), first_item_.begin() + call_.sequences + 1, index);
  const int64_t sequence = above - first_item_.begin() - 1;
  const int64_t splits = splits_of(sequence), rows = rows_of(sequence);
  const int64_t groups = up_to(rows, kAttentionRows);
  const int64_t local = index - first_item_[static_cast<size_t>(sequence)];
  const int64_t first_row = local / splits % groups * kAttentionRows;
  return {
      index,         sequence, local / splits / groups, first_row, std::min(kAttentionRows, rows - first_row),
      local % splits};
}

void AttentionWork::run(const AttentionLayer& layer, int64_t begin, int64_t end, AttentionMemory& memory) {
  for (int64_t index = begin; index < end; ++index) {
    const Item item = item_at(index);
    run_item(layer, item, index + 1 < end ? item_at(index + 1) : item, memory);
  }
}

KvPlace AttentionWork::place_of(const AttentionLayer& layer, const Item& item, int64_t position) const {
  return {layer.pool + item.head * call_.shape.page_bytes(),
          call_.block_tables + item.sequence * call_.table_width + position / kPagePositions};
}

int32_t AttentionWork::length_at(int64_t sequence, int64_t row) const {
  const int32_t context = call_.context_lengths[sequence];
  if (!call_.is_causal) return context;
  const int32_t queries = call_.query_starts[sequence + 1] - call_.query_starts[sequence];
  return context - queries + static_cast<int32_t>(row / shared_) + 1;
}

int64_t AttentionWork::first_position(const AttentionLayer& layer, const Item& item) const {
  const int64_t start = start_of(layer, length_at(item.sequence, item.first_row));
  return std::max(item.segment * kSegmentPositions, start / kTilePositions * kTilePositions);
}

void AttentionWork::run_item(const AttentionLayer& layer, const Item& item, const Item& next,
                             AttentionMemory& memory) {
  const KvPool& pool = call_.shape;
  const float* q[kAttentionRows];
  int32_t starts[kAttentionRows], lengths[kAttentionRows];
  const int32_t start = call_.query_starts[item.sequence];
  for (int64_t i = 0; i < item.rows; ++i) {
    const int64_t row = item.first_row + i, query = start + row / shared_;
    q[i] = layer.q + (query * call_.query_heads + item.head * shared_ + row % shared_) * pool.dim;
    lengths[i] = length_at(item.sequence, row);
    starts[i] = start_of(layer, lengths[i]);
  }
  const int64_t next_begin = first_position(layer, next);
  const AttentionTask task{
      .type = pool.type,
      .place = place_of(layer, item, 0),
      .next = place_of(layer, next, next_begin),
      .next_positions = next.index > item.index ? call_.context_lengths[next.sequence] - next_begin : 0,
      .block_bytes = pool.block_bytes(),
      .half_page_bytes = pool.half_page_bytes(),
      .dim = pool.dim,
      .padded = pool.padded(),
      .rows = item.rows,
      .q = q,
      .starts = starts,
      .lengths = lengths,
      .scale = layer.scale,
      .cap = layer.cap,
  };
  if (splits_of(item.sequence) == 1) {
    table().attend(task, starts[0] / kSegmentPositions, up_to(lengths[item.rows - 1], kSegmentPositions),
                   memory.state, memory.part, memory.scratch);
    return finish(layer, task, memory.state);
  }
  table().attend(task, item.segment, item.segment + 1, part_at(item.index), memory.part, memory.scratch);
  auto& left = left_[static_cast<size_t>(item.sequence * pool.heads + item.head)];
  if (left.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  left.store(static_cast<int32_t>(splits_of(item.sequence)),
             std::memory_order_relaxed);  // for the next layer
  merge_parts(layer, item, task);
}

void AttentionWork::merge_parts(const AttentionLayer& layer, const Item& item, const AttentionTask& task) {
  const int64_t first = item.index - item.segment, splits = splits_of(item.sequence);
  const AttentionState state = part_at(first);
  for (int64_t segment = 1; segment < splits; ++segment) {
    table().merge_attention(state, part_at(first + segment), task.padded,
                            first_row_at(task, segment * kSegmentPositions),
                            end_row_at(task, (segment + 1) * kSegmentPositions));
  }
  finish(layer, task, state);
}

AttentionState AttentionWork::part_at(int64_t index) {
  float* part = parts_.data() + index * part_rows_ * (call_.shape.padded() + 2);
  return {part, part + part_rows_, part + 2 * part_rows_};
}

}  // namespace tritium
