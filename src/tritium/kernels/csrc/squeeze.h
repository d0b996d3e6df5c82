// The exact least-squares scale of a group: of all k, the mean s of the k largest magnitudes for which
// (sum of them)^2 / k is largest. No sorting of the whole group is needed:
//
//   the best k takes all x > s / 2 and no x < s / 2 (else another k would be better); so with
//   low <= s / 2 <= high,   mean{x >= low} / 2 <= s / 2 <= mean{x > high} / 2
//
// as the one set holds the k largest and more, and the other is their upper part. Starting at low = 0 and
// high = max, both ends are moved inwards in float32, each with a margin that is wider than its rounding.
// Only the magnitudes that are left between them, a few, are sorted, and every k among them is tried in
// float64.
//
// Those sums are exact, and so is the result, for up to 2^14 weights whatever they are: low is no smaller
// than max / 2^15 or so, hence all that is added fits in 24 + 14 + 15 bits. Beyond, they carry float64's
// rounding, in one fixed order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>

#include "lane_masks.h"
#include "magnitudes.h"

namespace tritium {
namespace {

constexpr int64_t kStepsInFloat32 = 256;  // the rounding of so many additions stays below 2^-15
constexpr float kMargin = 1.0f / 16384;
constexpr int kMostRounds = 40;

// What lies at or above `low`, and above `high`, lane by lane.
struct Census {
  Lanes low_sum, high_sum;
  LaneCount low_count, high_count;
};

// Even and odd steps are summed apart: the one addition need not wait for the other.
inline Census count_steps(const float* magnitudes, int64_t steps, const Lanes& low, const Lanes& high) {
  const Lanes zero = broadcast(0.0f);
  Lanes low_sum[2] = {zero, zero}, high_sum[2] = {zero, zero};
  LaneCount low_count = {}, high_count = {};
  const auto count = [&](const float* at, int parity) {
    const Lanes value = load(at);
    const LaneMask is_low = at_least(value, low), is_high = above(value, high);
    add_where(low_sum[parity], is_low, value);
    add_where(high_sum[parity], is_high, value);
    count_where(low_count, is_low);
    count_where(high_count, is_high);
  };
  int64_t step = 0;
  for (; step + 2 <= steps; step += 2) {
    count(magnitudes + step * kLanes, 0);
    count(magnitudes + (step + 1) * kLanes, 1);
  }
  if (step < steps) count(magnitudes + step * kLanes, 0);
  return {low_sum[0] + low_sum[1], high_sum[0] + high_sum[1], low_count, high_count};
}

// The best scale of a group of which `count` magnitudes are taken for certain, `total` together, and the
// candidates are the next smaller ones.
inline double best_scale(double total, int64_t count, float* candidates, int64_t candidate_count) {
  std::sort(candidates, candidates + candidate_count, std::greater<float>());
  double best_total = total, best_gain = count > 0 ? total * total / static_cast<double>(count) : -1.0;
  int64_t best_count = count;
  for (int64_t i = 0; i < candidate_count; ++i) {
    total += static_cast<double>(candidates[i]);
    ++count;
    const double gain = total * total / static_cast<double>(count);
    if (gain > best_gain) {
      best_gain = gain;
      best_total = total;
      best_count = count;
    }
  }
  return best_count > 0 ? best_total / static_cast<double>(best_count) : 0.0;
}

// The same for sixteen groups at once: candidates are added from the largest down.
class Trial {
 public:
  Trial(const DoubleLanes& total, const DoubleLanes& count)
      : total_(total), count_(count), best_total_(total), best_count_(count) {
    for (int i = 0; i < 2 * kParts; ++i) best_gain_.part[i] = gain(i);
  }

  void add(const DoubleLanes& candidate) {
    for (int i = 0; i < 2 * kParts; ++i) {
      total_.part[i] += candidate.part[i];
      count_.part[i] += 1.0;
      const NativeDouble found = gain(i);
      const auto is_better = found > best_gain_.part[i];
      best_gain_.part[i] = is_better ? found : best_gain_.part[i];
      best_total_.part[i] = is_better ? total_.part[i] : best_total_.part[i];
      best_count_.part[i] = is_better ? count_.part[i] : best_count_.part[i];
    }
  }

  void store_scales(double* scales) const {
    DoubleLanes quotient;
    for (int i = 0; i < 2 * kParts; ++i)
      quotient.part[i] = best_total_.part[i] / at_least_one(best_count_.part[i]);
    std::memcpy(scales, quotient.part, sizeof(quotient.part));
  }

 private:
  static NativeDouble at_least_one(const NativeDouble& count) {
    const NativeDouble one = NativeDouble{} + 1.0;
    return count > one ? count : one;
  }

  NativeDouble gain(int i) const { return total_.part[i] * total_.part[i] / at_least_one(count_.part[i]); }

  DoubleLanes total_, count_, best_total_, best_count_, best_gain_ = {};
};

// Batcher's network for eight: afterwards every lane falls from the first to the last.
inline void sort_falling(Lanes* lanes) {
  constexpr int kPairs[][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                               {0, 4}, {1, 5}, {2, 6}, {3, 7}, {2, 4}, {3, 5}, {1, 2}, {3, 4}, {5, 6}};
#pragma GCC unroll 19
  for (const auto& pair : kPairs) {
    const Lanes a = lanes[pair[0]], b = lanes[pair[1]];
    lanes[pair[0]] = larger(a, b);
    lanes[pair[1]] = smaller(a, b);
  }
}

// A power of two that takes magnitudes up to `largest` to where no sum overflows and no margin is lost.
inline float comfortable(float largest) {
  if (largest > 0x1p60f) return 0x1p-80f;
  return largest > 0.0f && largest < 0x1p-60f ? 0x1p80f : 1.0f;
}

inline bool is_finite(float value) {
  return value <= std::numeric_limits<float>::max();
}

}  // namespace
}  // namespace tritium
