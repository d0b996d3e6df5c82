// Coordinate descent over the levels of a group (quantize/compensate.py). The error of a layer's output is a
// quadratic in its weights; a row's slope is half its negative gradient, and moving weight k by d moves the
// whole slope by -d times row k of the Hessian. Rows do not know of each other.
//
// Every product is added in the order of the columns, and one that is zero may be left out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kBlocksAtOnce = 4;  // of sixteen lanes: as many sums go on side by side

struct Change {
  const float* hessian;  // the row of the weight that changes
  float by;
};

// values[begin, end) + sign x the sum of hessian[begin, end) x by, change after change; `out` may be
// `values`.
template <int Sign, int Blocks>
TRITIUM_INLINE void add_block(const Change* changes, size_t count, int64_t begin, int64_t end,
                              const float* values, float* out) {
  Lanes total[Blocks];
  for (int i = 0; i < Blocks; ++i)
    total[i] = load_some(values + begin + i * kLanes, end - begin - i * kLanes);
  for (size_t c = 0; c < count; ++c) {
    const Lanes by = broadcast(changes[c].by);
#pragma GCC unroll 4
    for (int i = 0; i < Blocks; ++i) {
      const int64_t at = begin + i * kLanes;
      const Lanes product = load_some(changes[c].hessian + at, end - at) * by;
      total[i] = Sign < 0 ? total[i] - product : total[i] + product;
    }
  }
  for (int i = 0; i < Blocks; ++i) store_some(out + begin + i * kLanes, total[i], end - begin - i * kLanes);
}

template <int Sign>
void add_changes(const std::vector<Change>& changes, int64_t begin, int64_t end, const float* values,
                 float* out) {
  constexpr int64_t kStep = kBlocksAtOnce * kLanes;
  for (; begin + kStep <= end; begin += kStep) {
    add_block<Sign, kBlocksAtOnce>(changes.data(), changes.size(), begin, begin + kStep, values, out);
  }
  for (; begin < end; begin += kLanes) {
    add_block<Sign, 1>(changes.data(), changes.size(), begin, std::min(begin + kLanes, end), values, out);
  }
}

float dot(const float* a, const float* b, int64_t count) {
  Lanes total = broadcast(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    total = total + load_some(a + i, count - i) * load_some(b + i, count - i);
  }
  return sum(total);
}

// One thread's way through the rows of a group.
class GroupDescent {
 public:
  explicit GroupDescent(const DescentTask& task)
      : task_(task),
        block_(task.hessian + task.first * task.inputs + task.first),
        room_(static_cast<size_t>((task.count + kLanes - 1) / kLanes * kLanes)),
        turned_(room_),
        local_(room_),
        old_(room_),
        diagonal_(room_, 1.0f) {
    for (int64_t k = 0; k < task.count; ++k) diagonal_[k] = block_[k * task.inputs + k];
  }

  void weigh(int64_t row) {
    const float* levels = levels_of(row);
    task_.pull[row] = dot(levels, slope_of(row), task_.count);
    if (!std::isnan(task_.stiffness[row])) return;
    turn(levels);
    task_.stiffness[row] = dot(levels, turned_.data(), task_.count);
  }

  void round(int64_t row) {
    float* levels = levels_of(row);
    const float scale = task_.scales[row], before = task_.before[row];
    std::copy_n(levels, task_.count, old_.data());
    std::copy_n(slope_of(row), task_.count, local_.data());
    if (scale != before) {
      turn(levels);
      for (int64_t k = 0; k < task_.count; ++k) local_[k] -= turned_[k] * (scale - before);
    }
    bool has_moved = false;
    for (int64_t begin = 0; begin < task_.count; begin += kLanes)
      has_moved |= round_block(levels, begin, scale);
    if (has_moved) task_.stiffness[row] = std::numeric_limits<float>::quiet_NaN();
    task_.has_moved[row] = has_moved;
    note(row, levels, scale, before);
  }

 private:
  float* levels_of(int64_t row) { return task_.levels + row * task_.inputs + task_.first; }
  float* slope_of(int64_t row) { return task_.slope + row * task_.inputs + task_.first; }
  const float* hessian_of(int64_t column) const { return block_ + column * task_.inputs; }

  // The group's part of the Hessian x its levels.
  void turn(const float* levels) {
    changes_.clear();
    for (int64_t k = 0; k < task_.count; ++k) {
      if (levels[k] != 0.0f) changes_.push_back({hessian_of(k), levels[k]});
    }
    std::fill(turned_.begin(), turned_.end(), 0.0f);
    add_changes<1>(changes_, 0, task_.count, turned_.data(), turned_.data());
  }

  // Sixteen columns, each to its best level. Most stay: all are looked at together, from the last that moved
  // on.
  bool round_block(float* levels, int64_t begin, float scale) {
    const int64_t lanes = std::min<int64_t>(kLanes, task_.count - begin);
    float best[kLanes];
    bool has_moved = false;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      best_levels(levels, begin, lanes, scale, best);
      while (lane < lanes && best[lane] == levels[begin + lane]) ++lane;
      if (lane == lanes) break;
      const int64_t column = begin + lane;
      changes_.assign(1, {hessian_of(column), (best[lane] - levels[column]) * scale});
      levels[column] = best[lane];
      add_changes<-1>(changes_, begin, task_.count, local_.data(), local_.data());
      has_moved = true;
    }
    return has_moved;
  }

  void best_levels(const float* levels, int64_t begin, int64_t lanes, float scale, float* best) const {
    const float safe = scale > 0.0f ? scale : std::numeric_limits<float>::infinity();
    const Lanes level = load_some(levels + begin, lanes);
    const Lanes steps = load(local_.data() + begin) / (load(diagonal_.data() + begin) * broadcast(safe));
    // The limits are whole numbers: rounding does not lead out of them again.
    const Lanes bounded = smaller(larger(level + steps, broadcast(-task_.limit)), broadcast(task_.limit));
    const Lanes magic = broadcast(12582912.0f);  // 1.5 x 2^23: adding it rounds to an integer
    store(best, (bounded + magic) - magic);
  }

  // Notes by how much the group's weights of a row moved.
  void note(int64_t row, const float* levels, float scale, float before) {
    float* changes = task_.changes + row * task_.changes_apart;
    for (int64_t k = 0; k < task_.count; ++k) changes[k] = levels[k] * scale - old_[k] * before;
  }

  const DescentTask& task_;
  const float* block_;  // the Hessian from the group's first row and column on
  size_t room_;         // the group's columns, in whole sixteens
  std::vector<float> turned_, local_, old_, diagonal_;
  std::vector<Change> changes_;
};

void weigh_group(const DescentTask& task, int64_t begin, int64_t end) {
  GroupDescent descent(task);
  for (int64_t row = begin; row < end; ++row) descent.weigh(row);
}

void round_group_levels(const DescentTask& task, int64_t begin, int64_t end) {
  GroupDescent descent(task);
  for (int64_t row = begin; row < end; ++row) descent.round(row);
}

}  // namespace
}  // namespace tritium
