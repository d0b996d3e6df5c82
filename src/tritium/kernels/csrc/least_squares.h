// Sixteen short groups lie side by side, one in a lane; a long one takes all lanes itself:
//
//            lane 0   lane 1  ...               lane 0  lane 1 ... lane 15
//   step 0   g0[0]    g1[0]             step 0   x[0]    x[1]      x[15]
//   step 1   g0[1]    g1[1]             step 1   x[16]   x[17]     x[31]
#pragma once

#include <array>
#include <vector>

#include "squeeze.h"
#include "table.h"

namespace tritium {
namespace {

constexpr int64_t kLongestSideBySide = 256;
constexpr int kSlots = 8;  // candidates of a lane that are sorted and tried in registers

// The units of a task, and their magnitudes in rows of sixteen.
template <typename Element>
class Units {
 public:
  struct Unit {
    const Element* weights;
    int64_t count;
  };

  Units(const LeastSquaresTask& task, int64_t steps)
      : task(task), steps(steps), magnitudes_(static_cast<size_t>(steps * kLanes)) {}

  Unit at(int64_t index) const {
    const int64_t first = index % task.groups * task.group_size;
    const auto* row = static_cast<const Element*>(task.weights) + index / task.groups * task.columns;
    return {row + first, std::min(task.group_size, task.columns - first)};
  }

  float* step(int64_t index) { return &magnitudes_[static_cast<size_t>(index * kLanes)]; }

  Lanes largest() {
    Lanes found = broadcast(0.0f);
    for (int64_t i = 0; i < steps; ++i) {
      const Lanes value = load(step(i));
      found = each([&](int part) {  // by their bits, so that a NaN is larger than all
        const auto a = (NativeInt)found.part[part], b = (NativeInt)value.part[part];
        return (NativeFloat)(a > b ? a : b);
      });
    }
    return found;
  }

  void multiply(const Lanes& factor) {
    for (int64_t i = 0; i < steps; ++i) store(step(i), load(step(i)) * factor);
  }

  const LeastSquaresTask& task;
  const int64_t steps;

 private:
  std::vector<float> magnitudes_;
};

// Sixteen groups, one in a lane.
template <typename Element>
class SideBySide {
 public:
  explicit SideBySide(const LeastSquaresTask& task)
      : units_(task, (task.group_size + kLanes - 1) / kLanes * kLanes),
        candidates_(static_cast<size_t>(units_.steps)) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit += kLanes) {
      first_ = unit;
      count_ = std::min<int64_t>(kLanes, end - unit);
      prefetch(std::min(unit + kLanes, end), std::min(unit + 2 * kLanes, end));
      solve();
    }
  }

 private:
  void prefetch(int64_t begin, int64_t end) const {
    for (int64_t index = begin; index < end; ++index) {
      const auto unit = units_.at(index);
      for (int64_t i = 0; i < unit.count; i += 64 / sizeof(Element)) __builtin_prefetch(unit.weights + i);
    }
  }

  void solve() {
    read();
    store(largest_, units_.largest());
    bool is_comfortable = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      factor_[lane] = comfortable(largest_[lane]);
      is_comfortable = is_comfortable && factor_[lane] == 1.0f;
    }
    if (!is_comfortable) units_.multiply(load(factor_));
    const Lanes limit = load(largest_) * load(factor_);
    low_ = limit * broadcast(0.5f / static_cast<float>(units_.task.group_size));
    low_ = each([&](int i) { return low_.part[i] > 0.0f ? low_.part[i] : NativeFloat{} + 1.0f; });  // all 0
    high_ = limit * broadcast(0.5f);
    narrow();
    finish();
  }

  void read() {
    typename Units<Element>::Unit unit[kLanes] = {};
    for (int64_t lane = 0; lane < count_; ++lane) unit[lane] = units_.at(first_ + lane);
    for (int64_t i = 0; i < units_.steps; i += kLanes) {
      Lanes rows[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t left = unit[lane].count - i;
        rows[lane] = left > 0 ? absolute(load_some(unit[lane].weights + i, left)) : broadcast(0.0f);
      }
      transpose(rows);
      for (int lane = 0; lane < kLanes; ++lane) store(units_.step(i + lane), rows[lane]);
    }
  }

  void narrow() {
    float before = std::numeric_limits<float>::max();
    for (int round = 0; round < kMostRounds; ++round) {
      const Census found = count_steps(units_.step(0), units_.steps, low_, high_);
      const Lanes low_count = as_floats(found.low_count), high_count = as_floats(found.high_count);
      const Lanes below = found.low_sum / low_count * broadcast(0.5f * (1.0f - kMargin));
      const Lanes over = found.high_sum / high_count * broadcast(0.5f * (1.0f + kMargin));
      low_ = larger(below, low_);  // NaN (nothing counted) loses
      high_ = smaller(over, high_);
      const float left = sum(low_count - high_count);
      if (left <= kLanes * 2 || left >= before) break;
      before = left;
    }
  }

  void finish() {
    DoubleLanes total = {};
    LaneCount count = {};
    float slots[kSlots * kLanes] = {};
    int lengths[kLanes] = {};
    for (int64_t step = 0; step < units_.steps; ++step) {
      const float* at = units_.step(step);
      const Lanes value = load(at);
      const LaneMask is_certain = above(value, high_);
      Lanes certain = broadcast(0.0f);
      add_where(certain, is_certain, value);
      count_where(count, is_certain);
      add(total, widen(certain));
      for (uint32_t bits = bits_of_mask(first_but_not(at_least(value, low_), is_certain)); bits != 0;
           bits &= bits - 1) {
        const int lane = __builtin_ctz(bits), slot = lengths[lane]++;
        if (slot < kSlots) slots[slot * kLanes + lane] = at[lane];
      }
    }
    double scales[kLanes];
    try_slots(total, widen(as_floats(count)), slots, *std::max_element(lengths, lengths + kLanes), scales);
    for (int lane = 0; lane < count_; ++lane) {
      if (lengths[lane] > kSlots) scales[lane] = try_lane(total, count, lane);
      units_.task.scales[first_ + lane] = is_finite(largest_[lane])
                                              ? static_cast<float>(scales[lane] / factor_[lane])
                                              : std::numeric_limits<float>::quiet_NaN();
    }
  }

  // A candidate 0 stands for none: it never makes a scale better.
  static void try_slots(const DoubleLanes& certain, const DoubleLanes& count, const float* slots, int used,
                        double* scales) {
    Lanes sorted[kSlots];
    for (int i = 0; i < kSlots; ++i) sorted[i] = load(slots + i * kLanes);
    sort_falling(sorted);
    Trial trial(certain, count);
    for (int i = 0; i < std::min(used, kSlots); ++i) trial.add(widen(sorted[i]));
    trial.store_scales(scales);
  }

  double try_lane(const DoubleLanes& certain, const LaneCount& count, int lane) {
    double totals[kLanes];
    int32_t counts[kLanes];
    float low[kLanes], high[kLanes];
    std::memcpy(totals, certain.part, sizeof(totals));
    std::memcpy(counts, count.part, sizeof(counts));
    store(low, low_);
    store(high, high_);
    int64_t length = 0;
    for (int64_t step = 0; step < units_.steps; ++step) {
      const float value = units_.step(step)[lane];
      if (value >= low[lane] && value <= high[lane]) candidates_[static_cast<size_t>(length++)] = value;
    }
    return best_scale(totals[lane], counts[lane], candidates_.data(), length);
  }

  Units<Element> units_;
  std::vector<float> candidates_;
  int64_t first_ = 0;
  int64_t count_ = 0;
  Lanes low_ = {}, high_ = {};
  float largest_[kLanes] = {}, factor_[kLanes] = {};
};

// One long group in all lanes.
template <typename Element>
class Alone {
 public:
  explicit Alone(const LeastSquaresTask& task) : units_(task, (task.group_size + kLanes - 1) / kLanes) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) solve(unit);
  }

 private:
  void solve(int64_t index) {
    read(units_.at(index));
    const float largest = largest_lane(units_.largest()), factor = comfortable(largest);
    float& scale = units_.task.scales[index];
    if (largest == 0.0f || !is_finite(largest)) {
      scale = largest == 0.0f ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      return;
    }
    if (factor != 1.0f) units_.multiply(broadcast(factor));
    low_ = largest * factor * (0.5f / static_cast<float>(units_.task.group_size));
    high_ = largest * factor * 0.5f;
    narrow();
    scale = static_cast<float>(finish() / factor);
  }

  void read(const typename Units<Element>::Unit& unit) {
    for (int64_t i = 0; i < units_.steps; ++i) {
      const int64_t left = unit.count - i * kLanes;
      store(units_.step(i),
            left > 0 ? absolute(load_some(unit.weights + i * kLanes, left)) : broadcast(0.0f));
    }
  }

  static float largest_lane(const Lanes& lanes) {
    int32_t bits[kLanes];
    std::memcpy(bits, lanes.part, sizeof(bits));
    const int32_t largest = *std::max_element(bits, bits + kLanes);
    float value;
    std::memcpy(&value, &largest, sizeof(value));
    return value;
  }

  void narrow() {
    const double enough = static_cast<double>(units_.task.group_size) / 256 + 16;
    double before = std::numeric_limits<double>::max();
    for (int round = 0; round < kMostRounds; ++round) {
      double low_sum = 0, low_count = 0, high_sum = 0, high_count = 0;
      for (int64_t step = 0; step < units_.steps; step += kStepsInFloat32) {
        const int64_t steps = std::min(kStepsInFloat32, units_.steps - step);
        const Census found = count_steps(units_.step(step), steps, broadcast(low_), broadcast(high_));
        low_sum += sum(found.low_sum);
        low_count += sum(as_floats(found.low_count));
        high_sum += sum(found.high_sum);
        high_count += sum(as_floats(found.high_count));
      }
      if (low_count > 0) {
        low_ = std::max(low_, static_cast<float>(low_sum / low_count * (0.5 * (1.0 - kMargin))));
      }
      if (high_count > 0) {
        high_ = std::min(high_, static_cast<float>(high_sum / high_count * (0.5 * (1.0 + kMargin))));
      }
      const double left = low_count - high_count;
      if (left <= enough || left >= before) break;
      before = left;
    }
  }

  double finish() {
    const Lanes low = broadcast(low_), high = broadcast(high_);
    DoubleLanes total = {};
    int64_t count = 0;
    candidates_.clear();
    for (int64_t step = 0; step < units_.steps; ++step) {
      const float* at = units_.step(step);
      const Lanes value = load(at);
      const LaneMask is_certain = above(value, high);
      Lanes certain = broadcast(0.0f);
      add_where(certain, is_certain, value);
      count += __builtin_popcount(bits_of_mask(is_certain));
      add(total, widen(certain));
      for (uint32_t bits = bits_of_mask(first_but_not(at_least(value, low), is_certain)); bits != 0;
           bits &= bits - 1) {
        candidates_.push_back(at[__builtin_ctz(bits)]);
      }
    }
    return best_scale(sum(total), count, candidates_.data(), static_cast<int64_t>(candidates_.size()));
  }

  Units<Element> units_;
  std::vector<float> candidates_;
  float low_ = 0.0f, high_ = 0.0f;
};

template <typename Element>
void least_squares(const LeastSquaresTask& task, int64_t begin, int64_t end) {
  if (task.group_size <= kLongestSideBySide) {
    SideBySide<Element>(task).run(begin, end);
  } else {
    Alone<Element>(task).run(begin, end);
  }
}

}  // namespace
}  // namespace tritium
