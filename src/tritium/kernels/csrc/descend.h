// Coordinate descent over the levels of a group (quantize/compensate.py). The error of a layer's output is a
// quadratic in its weights; a row's slope is half its negative gradient, and moving weight k by d moves the
// whole slope by -d times row k of the Hessian. Rows do not know of each other.
//
// Every product is added in the order of the columns, and one that is zero may be left out.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "arena.h"
#include "lane_masks.h"
#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kBlocksAtOnce = kWidth == 16 ? 8 : 4;  // of sixteen lanes: as many sums go on side by side
constexpr int64_t kLookedAhead = 2;                  // rows, that are asked for before they are needed

// values + sign x the sum of hessian x by, change after change, of Blocks x 16 columns.
template <int Sign, int Blocks>
TRITIUM_INLINE void add_block(std::span<const Move> changes, const float* hessian, int64_t apart,
                              float* values) {
  Lanes total[Blocks];
  for (int i = 0; i < Blocks; ++i) total[i] = load(values + i * kLanes);
  for (const Move& change : changes) {
    const float* row = hessian + change.place * apart;
    const Lanes by = broadcast(change.by);
#pragma GCC unroll 8
    for (int i = 0; i < Blocks; ++i) {
      const Lanes product = load(row + i * kLanes) * by;
      total[i] = Sign < 0 ? total[i] - product : total[i] + product;
    }
  }
  for (int i = 0; i < Blocks; ++i) store(values + i * kLanes, total[i]);
}

// The same of all columns from `begin` on, in whole sixteens.
template <int Sign>
void add_changes(std::span<const Move> changes, const DescentTask& task, int64_t begin, float* values) {
  constexpr int64_t kStep = kBlocksAtOnce * kLanes;
  for (; begin + kStep <= task.count; begin += kStep) {
    add_block<Sign, kBlocksAtOnce>(changes, task.hessian + begin, task.apart, values + begin);
  }
  for (; begin < task.count; begin += kLanes) {
    add_block<Sign, 1>(changes, task.hessian + begin, task.apart, values + begin);
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
        room_((task.count + kLanes - 1) / kLanes * kLanes),
        chosen_(static_cast<size_t>(task.count) + 1) {
    float* room = reinterpret_cast<float*>(memory_.reserve(4 * room_ * int64_t{sizeof(float)}));
    std::fill_n(room, 4 * room_, 1.0f);
    for (float** part : {&turned_, &local_, &old_, &diagonal_}) *part = std::exchange(room, room + room_);
    for (int64_t k = 0; k < task.count; ++k) diagonal_[k] = task.hessian[k * task.apart + k];
  }

  void weigh(int64_t row) {
    const float* levels = levels_of(row);
    look_ahead(levels);
    look_ahead(slope_of(row));
    task_.pull[row] = dot(levels, slope_of(row), task_.count);
    if (!std::isnan(task_.stiffness[row])) return;
    turn(levels);
    task_.stiffness[row] = dot(levels, turned_, task_.count);
  }

  void round(int64_t row) {
    float* levels = levels_of(row);
    const float scale = task_.scales[row], before = task_.before[row];
    look_ahead(levels);
    look_ahead(slope_of(row));
    std::copy_n(levels, task_.count, old_);
    std::copy_n(slope_of(row), task_.count, local_);
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

  // Rows lie pages apart, where no processor looks by itself.
  void look_ahead(const float* columns) const {
    for (int64_t k = 0; k < task_.count; k += kLanes) {
      __builtin_prefetch(columns + kLookedAhead * task_.inputs + k, 1);
    }
  }

  // The group's part of the Hessian x its levels.
  void turn(const float* levels) {
    size_t size = 0;
    for (int64_t k = 0; k < task_.count; ++k) {
      chosen_[size] = {static_cast<int32_t>(k), levels[k]};
      size += levels[k] != 0.0f;
    }
    std::fill_n(turned_, room_, 0.0f);
    add_changes<1>({chosen_.data(), size}, task_, 0, turned_);
  }

  // Sixteen columns, each to its best level. Most stay: all are looked at together, from the last that moved
  // on.
  bool round_block(float* levels, int64_t begin, float scale) {
    const int64_t lanes = std::min<int64_t>(kLanes, task_.count - begin);
    uint32_t left = (1u << lanes) - 1;
    bool has_moved = false;
    while (true) {
      float best[kLanes];
      left &= better_levels(levels + begin, begin, lanes, scale, best);
      if (left == 0) return has_moved;
      const int lane = std::countr_zero(left);
      const int64_t column = begin + lane;
      const Move change = {static_cast<int32_t>(column), (best[lane] - levels[column]) * scale};
      levels[column] = best[lane];
      add_changes<-1>({&change, 1}, task_, begin, local_);
      left = (~1u << lane) & ((1u << lanes) - 1);
      has_moved = true;
    }
  }

  // The best of sixteen levels, and which of them differ from the present ones.
  uint32_t better_levels(const float* levels, int64_t begin, int64_t lanes, float scale, float* best) const {
    const float safe = scale > 0.0f ? scale : std::numeric_limits<float>::infinity();
    const Lanes level = load_some(levels, lanes);
    const Lanes steps = load(local_ + begin) / (load(diagonal_ + begin) * broadcast(safe));
    // The limits are whole numbers: rounding does not lead out of them again.
    const Lanes bounded = smaller(larger(level + steps, broadcast(-task_.limit)), broadcast(task_.limit));
    const Lanes magic = broadcast(12582912.0f);  // 1.5 x 2^23: adding it rounds to an integer
    const Lanes rounded = (bounded + magic) - magic;
    store(best, rounded);
    return bits_of_mask(differs(rounded, level));
  }

  // Notes by how much the group's weights of a row moved.
  void note(int64_t row, const float* levels, float scale, float before) {
    float* changes = task_.changes + row * task_.changes_apart;
    for (int64_t k = 0; k < task_.count; ++k) changes[k] = levels[k] * scale - old_[k] * before;
  }

  const DescentTask& task_;
  int64_t room_;  // the group's columns, in whole sixteens
  Arena memory_;
  float *turned_, *local_, *old_, *diagonal_;
  std::vector<Move> chosen_;  // levels that are not zero; the last may be written to in vain
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
