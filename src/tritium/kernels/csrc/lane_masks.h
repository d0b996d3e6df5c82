// Comparisons of sixteen lanes, and the transposition of sixteen times sixteen.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "vector.h"

namespace tritium {
namespace {

// Magnitudes are ordered like their bits: they are compared and counted on the integer side of the processor.
struct LaneCount {
  NativeInt part[kParts];
};

TRITIUM_INLINE Lanes as_floats(const LaneCount& count) {
  return each([&](int i) { return __builtin_convertvector(count.part[i], NativeFloat); });
}

#if defined(__AVX512F__)
typedef __mmask16 LaneMask;
TRITIUM_INLINE LaneMask at_least(const Lanes& a, const Lanes& b) {
  return _mm512_cmpge_epi32_mask((__m512i)a.part[0], (__m512i)b.part[0]);
}
TRITIUM_INLINE LaneMask above(const Lanes& a, const Lanes& b) {
  return _mm512_cmpgt_epi32_mask((__m512i)a.part[0], (__m512i)b.part[0]);
}
TRITIUM_INLINE LaneMask differs(const Lanes& a, const Lanes& b) {
  return _mm512_cmp_ps_mask((__m512)a.part[0], (__m512)b.part[0], _CMP_NEQ_UQ);
}
TRITIUM_INLINE void add_where(Lanes& total, LaneMask mask, const Lanes& more) {
  const __m512 before = (__m512)total.part[0];
  total.part[0] = (NativeFloat)_mm512_mask_add_ps(before, mask, before, (__m512)more.part[0]);
}
TRITIUM_INLINE void count_where(LaneCount& count, LaneMask mask) {
  const __m512i before = (__m512i)count.part[0];
  count.part[0] = (NativeInt)_mm512_mask_sub_epi32(before, mask, before, _mm512_set1_epi32(-1));
}
TRITIUM_INLINE uint32_t bits_of_mask(LaneMask mask) {
  return mask;
}
TRITIUM_INLINE LaneMask first_but_not(LaneMask a, LaneMask b) {
  return _kandn_mask16(b, a);
}
#else
struct LaneMask {
  NativeInt part[kParts];
};
TRITIUM_INLINE LaneMask above(const Lanes& a, const Lanes& b) {
  LaneMask mask;
  for (int i = 0; i < kParts; ++i) mask.part[i] = (NativeInt)a.part[i] > (NativeInt)b.part[i];
  return mask;
}
TRITIUM_INLINE LaneMask at_least(const Lanes& a, const Lanes& b) {
  LaneMask mask = above(b, a);
  for (int i = 0; i < kParts; ++i) mask.part[i] = ~mask.part[i];
  return mask;
}
TRITIUM_INLINE LaneMask differs(const Lanes& a, const Lanes& b) {
  LaneMask mask;
  for (int i = 0; i < kParts; ++i) mask.part[i] = (NativeInt)(a.part[i] != b.part[i]);
  return mask;
}
TRITIUM_INLINE void add_where(Lanes& total, const LaneMask& mask, const Lanes& more) {
  for (int i = 0; i < kParts; ++i) total.part[i] += (NativeFloat)((NativeInt)more.part[i] & mask.part[i]);
}
TRITIUM_INLINE void count_where(LaneCount& count, const LaneMask& mask) {
  for (int i = 0; i < kParts; ++i) count.part[i] -= mask.part[i];
}
TRITIUM_INLINE uint32_t bits_of_mask(const LaneMask& mask) {
  uint32_t bits = 0;
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX2__)
    bits |= static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask.part[i])) << (i * kWidth);
#elif defined(__SSE2__)
    bits |= static_cast<uint32_t>(_mm_movemask_ps((__m128)mask.part[i])) << (i * kWidth);
#else
    for (int lane = 0; lane < kWidth; ++lane) {
      bits |= static_cast<uint32_t>(mask.part[i][lane] & 1) << (i * kWidth + lane);
    }
#endif
  }
  return bits;
}
TRITIUM_INLINE LaneMask first_but_not(const LaneMask& a, const LaneMask& b) {
  LaneMask mask;
  for (int i = 0; i < kParts; ++i) mask.part[i] = a.part[i] & ~b.part[i];
  return mask;
}
#endif

// a[0] b[0] a[1] b[1] ... in two halves; four rounds of it over rows i and i + 8 turn sixteen rows of sixteen
// into columns.
TRITIUM_INLINE void interleave(const Lanes& a, const Lanes& b, Lanes& low, Lanes& high) {
  NativeFloat parts[2 * kParts];
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512F__)
    parts[0] =
        __builtin_shufflevector(a.part[i], b.part[i], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    parts[1] = __builtin_shufflevector(a.part[i], b.part[i], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                       30, 15, 31);
#elif defined(__AVX2__)
    parts[2 * i] = __builtin_shufflevector(a.part[i], b.part[i], 0, 8, 1, 9, 2, 10, 3, 11);
    parts[2 * i + 1] = __builtin_shufflevector(a.part[i], b.part[i], 4, 12, 5, 13, 6, 14, 7, 15);
#else
    parts[2 * i] = __builtin_shufflevector(a.part[i], b.part[i], 0, 4, 1, 5);
    parts[2 * i + 1] = __builtin_shufflevector(a.part[i], b.part[i], 2, 6, 3, 7);
#endif
  }
  std::memcpy(low.part, parts, sizeof(low.part));
  std::memcpy(high.part, parts + kParts, sizeof(high.part));
}

TRITIUM_INLINE void transpose(Lanes* rows) {
  for (int round = 0; round < 4; ++round) {
    Lanes next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) interleave(rows[i], rows[i + 8], next[2 * i], next[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace tritium
