// Weights as they lie in a checkpoint (float32, half or bfloat16 bits), read as magnitudes, and their sums in
// float64. A sum has 32 lanes: element k goes to lane k mod 32; the lanes are folded by halves at the end.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>

#include "half.h"
#include "vector.h"

namespace tritium {
namespace {

typedef double NativeDouble __attribute__((vector_size(kWidth * 4)));
typedef uint16_t BFloat16;

constexpr int64_t kSumLanes = 32;

struct DoubleLanes {
  NativeDouble part[2 * kParts];  // sixteen numbers
};

TRITIUM_INLINE DoubleLanes widen(const Lanes& lanes) {
  DoubleLanes wide;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512F__)
    const __m512 part = (__m512)lanes.part[i];
    wide.part[2 * i] = (NativeDouble)_mm512_cvtps_pd(_mm512_castps512_ps256(part));
    wide.part[2 * i + 1] = (NativeDouble)_mm512_cvtps_pd(_mm512_extractf32x8_ps(part, 1));
#elif defined(__AVX2__)
    const __m256 part = (__m256)lanes.part[i];
    wide.part[2 * i] = (NativeDouble)_mm256_cvtps_pd(_mm256_castps256_ps128(part));
    wide.part[2 * i + 1] = (NativeDouble)_mm256_cvtps_pd(_mm256_extractf128_ps(part, 1));
#else
    for (int lane = 0; lane < kWidth; ++lane) {
      wide.part[2 * i + lane / 2][lane % 2] = static_cast<double>(lanes.part[i][lane]);
    }
#endif
  }
  return wide;
}

TRITIUM_INLINE void add(DoubleLanes& total, const DoubleLanes& more) {
#pragma GCC unroll 8
  for (int i = 0; i < 2 * kParts; ++i) total.part[i] += more.part[i];
}

// Folds sixteen lanes by halves: lane l meets l + 8, then l + 4, l + 2, l + 1.
TRITIUM_INLINE double sum(const DoubleLanes& lanes) {
#if defined(__AVX512F__)
  const __m512d eight = (__m512d)(lanes.part[0] + lanes.part[1]);
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
  double values[kLanes];
  std::memcpy(values, lanes.part, sizeof(values));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
#endif
}

// The lanes of a sum: elements 0 to 15 of every 32, and 16 to 31.
struct MagnitudeSum {
  DoubleLanes low = {}, high = {};
};

template <typename Element>
TRITIUM_INLINE void add_magnitudes(MagnitudeSum& total, const Element* from) {
  add(total.low, widen(absolute(load(from))));
  add(total.high, widen(absolute(load(from + kLanes))));
}

TRITIUM_INLINE double fold(const MagnitudeSum& total) {
  DoubleLanes both = total.low;
  add(both, total.high);
  return sum(both);
}

#if defined(__AVX512F__)
// Compilers read memory again for each use of a value; a register that lies across two cache lines, as
// weights in a file may, would pay for it each time.
TRITIUM_INLINE __m512i load_once(const void* from) {
  __m512i value = _mm512_loadu_si512(from);
  asm("" : "+v"(value));
  return value;
}

// The exponent of bfloat16 moved into that of float64 as it is: the value times 2^-896, subnormal numbers
// included. So a sum needs no conversion, only a last multiplication by a power of two.
struct BFloat16Sum {
  __m512d part[4] = {};  // lane 4 i + p of the sum is lane i of part p
  __m512i largest = {};
};

TRITIUM_INLINE void add_magnitudes(BFloat16Sum& total, const BFloat16* from) {
  const __m512i four = load_once(from);
  const __m512i mask = _mm512_set1_epi64(int64_t{0x7fff} << 45);
  const auto part = [&](__m512i shifted) { return _mm512_castsi512_pd(_mm512_and_si512(shifted, mask)); };
  total.part[0] = _mm512_add_pd(total.part[0], part(_mm512_slli_epi64(four, 45)));
  total.part[1] = _mm512_add_pd(total.part[1], part(_mm512_slli_epi64(four, 29)));
  total.part[2] = _mm512_add_pd(total.part[2], part(_mm512_slli_epi64(four, 13)));
  total.part[3] = _mm512_add_pd(total.part[3], part(_mm512_srli_epi64(four, 3)));
  total.largest = _mm512_max_epi16(total.largest, _mm512_and_si512(four, _mm512_set1_epi16(0x7fff)));
}

TRITIUM_INLINE double fold(const BFloat16Sum& total) {
  const auto half = [](__m512d lanes) {  // lane l meets l + 16
    return _mm256_add_pd(_mm512_castpd512_pd256(lanes), _mm512_extractf64x4_pd(lanes, 1));
  };
  const __m256d a = half(total.part[0]), b = half(total.part[1]);
  const __m256d c = half(total.part[2]), d = half(total.part[3]);
  const auto quarter = [](__m256d low, __m256d high) {  // l + 8, for two parts at once
    return _mm256_add_pd(_mm256_permute2f128_pd(low, high, 0x20), _mm256_permute2f128_pd(low, high, 0x31));
  };
  const __m256d ac = quarter(a, c), bd = quarter(b, d);
  const __m256d pairs = _mm256_hadd_pd(ac, bd);  // l + 4: a, b, c, d
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(pairs), _mm256_extractf128_pd(pairs, 1));  // l + 2
  const double scaled = _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  const bool is_finite = _mm512_cmpge_epi16_mask(total.largest, _mm512_set1_epi16(0x7f80)) == 0;
  return is_finite ? scaled * 0x1p896 : __builtin_inf();
}
#elif !defined(__AVX2__)
inline float magnitude_of(float value) {
  return std::fabs(value);
}
inline float magnitude_of(Half value) {
  return std::fabs(to_float(value));
}
inline float magnitude_of(BFloat16 bits) {
  const uint32_t wide = static_cast<uint32_t>(bits & 0x7fff) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}
#endif

template <typename Element>
struct SumOf {
  using Type = MagnitudeSum;
};
#if defined(__AVX512F__)
template <>
struct SumOf<BFloat16> {
  using Type = BFloat16Sum;
};
#endif

// Memory that is read next, asked for while the processor still works on what it has: the hardware alone
// fetches too little at a time. `share` bytes are asked for where one is read.
class Ahead {
 public:
  Ahead(const void* begin, const void* end, double share)
      : at_(static_cast<const char*>(begin)), end_(static_cast<const char*>(end)), is_half_(share < 1.0) {}

  TRITIUM_INLINE void fetch(int64_t bytes_read) {
    if (at_ >= end_) return;
    const int64_t bytes = is_half_ ? bytes_read / 2 : bytes_read;
    for (int64_t i = 0; i < bytes; i += kLineBytes) __builtin_prefetch(at_ + i);
    at_ += bytes;
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  const char* at_;
  const char* end_;
  bool is_half_;
};

// The sum of `count` magnitudes; not finite where one of them is not.
template <typename Element>
double sum_magnitudes(const Element* from, int64_t count, Ahead& ahead) {
#if defined(__AVX2__)
  typename SumOf<Element>::Type total;
  for (; count >= 2 * kSumLanes; from += 2 * kSumLanes, count -= 2 * kSumLanes) {
    add_magnitudes(total, from);
    add_magnitudes(total, from + kSumLanes);
    ahead.fetch(static_cast<int64_t>(2 * kSumLanes * sizeof(Element)));
  }
  for (; count > 0; from += kSumLanes, count -= kSumLanes) {
    Element tail[kSumLanes] = {};
    std::memcpy(tail, from, static_cast<size_t>(std::min(count, kSumLanes)) * sizeof(Element));
    add_magnitudes(total, tail);
  }
  return fold(total);
#else
  double lanes[kSumLanes] = {};
  for (; count >= kSumLanes; from += kSumLanes, count -= kSumLanes) {
    for (int i = 0; i < kSumLanes; ++i) lanes[i] += static_cast<double>(magnitude_of(from[i]));
    ahead.fetch(static_cast<int64_t>(kSumLanes * sizeof(Element)));
  }
  for (int i = 0; i < count; ++i) lanes[i] += static_cast<double>(magnitude_of(from[i]));
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
#endif
}

}  // namespace
}  // namespace tritium
