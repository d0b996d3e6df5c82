// The powers behind a draw, in double precision: eight at a time and summed in eight lanes, whatever the
// registers are, so that a draw does not depend on the instruction set.
#pragma once

#include "elementwise.h"

namespace tritium {
namespace {

typedef double Double8 __attribute__((vector_size(64)));
typedef int64_t Integer8 __attribute__((vector_size(64)));
typedef float EightFloats __attribute__((vector_size(32)));

// e^x for x <= 0, within 2 units in the last place; 0 below -700.
TRITIUM_INLINE Double8 exponential(const Double8& x) {
  const Double8 low = Double8{} - 700.0;
  const Double8 bounded = x < low ? low : x;
  const Double8 magic = Double8{} + 6755399441055744.0;  // 1.5 x 2^52: adding it rounds to an integer
  const Double8 shifted = bounded * 1.4426950408889634 + magic;
  const Double8 whole = shifted - magic;
  const Double8 rest = (bounded - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10;
  Double8 series = Double8{} + 1.0 / 6227020800.0;  // the series of e^x up to x^13, |x| < 0.35
  const double factorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1};
#pragma GCC unroll 13
  for (const double factorial : factorials) series = series * rest + 1.0 / factorial;
  const Integer8 power = ((Integer8)shifted - (Integer8)magic + 1023) << 52;
  const Double8 result = series * (Double8)power;
  return x < low ? Double8{} : result;
}

// weights[i] = e^((x[i] - largest) / temperature); returns their sum. `weights` has room for whole eights.
double softmax_weights(const float* x, int64_t count, float largest, double temperature, double* weights) {
  Double8 total = {};
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t left = count - i < 8 ? count - i : 8;
    EightFloats values = EightFloats{} - __builtin_inff();
    std::memcpy(&values, x + i, static_cast<size_t>(left) * sizeof(float));
    const Double8 scaled =
        (__builtin_convertvector(values, Double8) - static_cast<double>(largest)) / temperature;
    const Double8 powers = exponential(scaled);
    std::memcpy(weights + i, &powers, sizeof(powers));
    total = total + powers;
  }
  return ((total[0] + total[4]) + (total[2] + total[6])) + ((total[1] + total[5]) + (total[3] + total[7]));
}

// The place of the largest element, the first among equals; -1 where there is a NaN.
int64_t find_largest(const float* x, int64_t count) {
  const Lanes nothing = broadcast(-__builtin_inff());
  Lanes best = nothing, spoilt = broadcast(0.0f);
  const auto take = [&](const Lanes& values) {
    best = larger(values, best);
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const NativeFloat value = values.part[part];
      spoilt.part[part] = value == value ? spoilt.part[part] : NativeFloat{} + 1.0f;
    }
  };
  int64_t end = 0;
  for (; end + kLanes <= count; end += kLanes) take(load(x + end));
  if (end < count) {
    float tail[kLanes];
    store(tail, nothing);
    std::memcpy(tail, x + end, static_cast<size_t>(count - end) * sizeof(float));
    take(load(tail));
  }
  if (maximum(spoilt) > 0.0f) return -1;
  const float largest = maximum(best);
  int64_t i = 0;
  while (i + 1 < count && x[i] != largest) ++i;
  return i;
}

}  // namespace
}  // namespace tritium
