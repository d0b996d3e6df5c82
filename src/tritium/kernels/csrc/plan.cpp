#include "plan.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>

namespace tritium {

ValueId Plan::add_value(Rows rows, int64_t width, int64_t row_bytes) {
  if (is_sealed_) throw std::invalid_argument("The plan is sealed: nothing can be added.");
  Value value;
  value.rows = rows;
  value.width = width;
  value.row_bytes = row_bytes;
  values_.push_back(value);
  return static_cast<ValueId>(values_.size() - 1);
}

const Value& Plan::value(ValueId id) const {
  if (id < 0 || static_cast<size_t>(id) >= values_.size()) {
    throw std::invalid_argument("The plan has no value " + std::to_string(id) + ".");
  }
  return values_[static_cast<size_t>(id)];
}

void Plan::add(std::unique_ptr<Operation> operation) {
  for (const ValueId id : operation->reads) operation->producers.push_back(value(id).producer);
  for (const ValueId id : operation->writes) {
    value(id);
    values_[static_cast<size_t>(id)].producer = static_cast<int>(operations_.size());
  }
  operations_.push_back(std::move(operation));
}

void Plan::seal(ValueId output) {
  value(output);
  if (is_sealed_) throw std::invalid_argument("The plan is sealed already.");
  output_ = output;
  find_epochs();
  place_values();
  is_sealed_ = true;
}

bool Plan::run(const Batch& batch, float* logits, int threads) {
  const std::lock_guard<std::mutex> turn(turn_);
  threads = std::clamp(threads, 1, kMostThreads);
  step_.plan = this;
  step_.batch = batch;
  step_.logits = logits;
  step_.has_overflowed.store(false, std::memory_order_relaxed);
  lay_out(step_, threads);
  schedule(threads);
  run_phases(*this, phases_, threads);
  return !step_.has_overflowed.load(std::memory_order_relaxed);
}

void Plan::run_piece(int phase, int piece, int thread) {
  Worker& worker = workers_[static_cast<size_t>(thread)];
  const Stretch stretch = stretches_[static_cast<size_t>(phase)];
  const int pieces = phases_[static_cast<size_t>(phase)].pieces;
  const bool is_prepared = worker.prepared == phase;
  worker.prepared = phase;
  for (int i = stretch.first; i < stretch.last; ++i) {
    const Stage& stage = stages_[static_cast<size_t>(i)];
    if (!stage.is_replicated) {
      run_stage(stage, thread, piece, pieces);
    } else if (!is_prepared) {
      run_stage(stage, thread, 0, 1);
    }
  }
}

int64_t Operation::begin_of(const Step& step, int64_t piece, int64_t pieces) const {
  const int64_t grain = grain_of(domain), count = items(step);
  return std::min(count, (count + grain - 1) / grain * piece / pieces * grain);
}

void Plan::run_stage(const Stage& stage, int thread, int piece, int pieces) {
  const Operation& operation = *operations_[static_cast<size_t>(stage.operation)];
  const int64_t begin = operation.begin_of(step_, piece, pieces);
  const int64_t end = operation.begin_of(step_, piece + 1, pieces);
  if (begin >= end) return;
  if (!is_profiling_) return operation.run(step_, thread, begin, end);
  const auto started = std::chrono::steady_clock::now();
  operation.run(step_, thread, begin, end);
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - started;
  Worker& worker = workers_[static_cast<size_t>(thread)];
  worker.nanoseconds[static_cast<size_t>(stage.operation)] += taken.count();
  ++worker.pieces[static_cast<size_t>(stage.operation)];
}

void Plan::set_profiling(bool is_on) {
  const std::lock_guard<std::mutex> turn(turn_);
  is_profiling_ = is_on;
  for (Worker& worker : workers_) {
    worker.nanoseconds.assign(operations_.size(), 0.0);
    worker.pieces.assign(operations_.size(), 0);
  }
}

std::vector<OperationTime> Plan::times() const {
  std::vector<OperationTime> times;
  for (size_t i = 0; i < operations_.size(); ++i) {
    OperationTime time{operations_[i]->kind, 0, 0.0};
    for (const Worker& worker : workers_) {
      time.nanoseconds += worker.nanoseconds[i];
      time.pieces += worker.pieces[i];
    }
    times.push_back(time);
  }
  return times;
}

}  // namespace tritium
