// Weights to levels: the multiple of a group's scale that is nearest, half to even.
#pragma once

#include <algorithm>
#include <limits>

#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

inline void round_group(const float* weights, int64_t count, float scale, float limit, int8_t* levels) {
  const float divisor = scale > 0.0f ? scale : std::numeric_limits<float>::infinity();
  const NativeFloat magic = NativeFloat{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer
  const NativeFloat low = NativeFloat{} - limit, high = NativeFloat{} + limit;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Lanes lanes = load_some(weights + i, count - i);
    int8_t rounded[kLanes];
    for (int part = 0; part < kParts; ++part) {
      NativeFloat value = lanes.part[part] / (NativeFloat{} + divisor);
      value = value == value ? value : NativeFloat{};
      // The limits are whole numbers: rounding does not lead out of them again.
      value = value < low ? low : value;
      value = value > high ? high : value;
      const NativeByte bytes = __builtin_convertvector((NativeInt)(value + magic), NativeByte);
      std::memcpy(rounded + part * kWidth, &bytes, sizeof(bytes));
    }
    std::memcpy(levels + i, rounded, static_cast<size_t>(std::min<int64_t>(count - i, kLanes)));
  }
}

void round_levels(const LevelsTask& task, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* scales = task.scales + (task.scale_rows == 1 ? 0 : row * task.groups);
    for (int64_t group = 0; group < task.groups; ++group) {
      const int64_t first = group * task.group_size, at = row * task.columns + first;
      round_group(task.weights + at, std::min(task.group_size, task.columns - first), scales[group],
                  static_cast<float>(task.limit), task.levels + at);
    }
  }
}

}  // namespace
}  // namespace tritium
