// Numbers kept between -cap and cap, smoothly: cap x tanh(x / cap).
#pragma once

#include "elementwise.h"

namespace tritium {
namespace {

// tanh(x) within 2 units in the last place (Cephes, tanhf). Below 0.625 an odd polynomial, because
// 1 - 2 / (e^2x + 1) would lose digits there; it is 1 from about 9 on.
TRITIUM_INLINE Lanes hyperbolic_tangent(const Lanes& x) {
  const Lanes one = broadcast(1.0f), magnitude = absolute(x), square = x * x;
  Lanes series = broadcast(-5.70498872745e-3f);
  series = series * square + broadcast(2.06390887954e-2f);
  series = series * square + broadcast(-5.37397155531e-2f);
  series = series * square + broadcast(1.33314422036e-1f);
  series = series * square + broadcast(-3.33332819422e-1f);
  const Lanes small = series * square * x + x;
  const Lanes large = one - broadcast(2.0f) / (exponential(magnitude + magnitude) + one);
  return each([&](int i) {
    const NativeInt sign = (NativeInt)x.part[i] & INT32_MIN;
    const NativeFloat signed_large = (NativeFloat)((NativeInt)large.part[i] | sign);
    return magnitude.part[i] < 0.625f ? small.part[i] : signed_large;
  });
}

// out[i] = cap x tanh(x[i] / cap); NaN where x[i] is not finite, so that what is broken shows.
void bound(const float* x, int64_t count, float cap, float* out) {
  const Lanes height = broadcast(cap), inverse = broadcast(1.0f / cap);
  map(count, out, [&](int64_t i, int64_t left) {
    const Lanes value = load_some(x + i, left);
    return height * hyperbolic_tangent(value * inverse) + (value - value);
  });
}

}  // namespace
}  // namespace tritium
