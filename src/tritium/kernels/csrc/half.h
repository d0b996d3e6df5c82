// Numbers of 16 bits as IEEE 754 has them.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "vector.h"

namespace tritium {
namespace {

struct Half {
  uint16_t bits;
};

// Rounds half to even; a number that is too large becomes the largest, 65504; infinity and NaN stay.
TRITIUM_INLINE Half to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000)
    return {static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00))};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7bff)};
  if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits
    float small;
    std::memcpy(&small, &magnitude, sizeof(small));
    small += 0.5f;
    uint32_t shifted;
    std::memcpy(&shifted, &small, sizeof(shifted));
    return {static_cast<uint16_t>(sign | (shifted - 0x3f000000))};
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000;
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}

#if !defined(__AVX2__)
TRITIUM_INLINE float to_float(Half half) {
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000) << 16;
  uint32_t bits = static_cast<uint32_t>(half.bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  value *= 5.192296858534828e33f;  // 2^112 mends the exponent, that of subnormal numbers too
  std::memcpy(&bits, &value, sizeof(bits));
  bits |= sign | ((half.bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif

TRITIUM_INLINE Lanes load(const Half* from) {
#if defined(__AVX512F__)
  const auto bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return Lanes{{(NativeFloat)_mm512_cvtph_ps(bits)}};
#elif defined(__AVX2__)
  return each([&](int i) {
    const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * kWidth));
    return (NativeFloat)_mm256_cvtph_ps(bits);
  });
#else
  float values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = to_float(from[i]);
  return load(values);
#endif
}

}  // namespace
}  // namespace tritium
