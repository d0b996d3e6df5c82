// Sixteen sums of products of pairs of 16-bit integers: exact, so any instruction set gives the same.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "vector.h"

namespace tritium {
namespace {

struct IntLanes {
  NativeInt part[kParts];
};

// Pair l is the elements 2l and 2l + 1.
struct Pairs {
  NativeInt part[kParts];
};

TRITIUM_INLINE IntLanes zero_sums() {
  return IntLanes{};
}

TRITIUM_INLINE Lanes to_float(const IntLanes& lanes) {
  return each([&](int i) { return __builtin_convertvector(lanes.part[i], NativeFloat); });
}

// The same pair in every lane.
TRITIUM_INLINE Pairs broadcast_pair(const int16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof(both));
  Pairs result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) result.part[i] = NativeInt{} + both;
  return result;
}

TRITIUM_INLINE Pairs load_pairs(const int16_t* from) {
  Pairs result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) std::memcpy(&result.part[i], from + i * 2 * kWidth, sizeof(NativeInt));
  return result;
}

// 32 bytes, each widened to 16 bits.
TRITIUM_INLINE Pairs load_pairs(const int8_t* from) {
  Pairs result;
#if defined(__AVX512BW__)
  const auto bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  result.part[0] = (NativeInt)_mm512_cvtepi8_epi16(bytes);
#elif defined(__AVX2__)
#pragma GCC unroll 2
  for (int i = 0; i < kParts; ++i) {
    const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * 16));
    result.part[i] = (NativeInt)_mm256_cvtepi8_epi16(bytes);
  }
#else
  typedef int8_t Bytes __attribute__((vector_size(kWidth * 2)));
  typedef int16_t Words __attribute__((vector_size(kWidth * 4)));
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    Bytes bytes;
    std::memcpy(&bytes, from + i * kWidth * 2, sizeof(bytes));
    result.part[i] = (NativeInt) __builtin_convertvector(bytes, Words);
  }
#endif
  return result;
}

// sums[l] += a[2l] x b[2l] + a[2l + 1] x b[2l + 1]
TRITIUM_INLINE void add_products(IntLanes& sums, const Pairs& a, const Pairs& b) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
#if defined(__AVX512VNNI__)
    sums.part[i] =
        (NativeInt)_mm512_dpwssd_epi32((__m512i)sums.part[i], (__m512i)a.part[i], (__m512i)b.part[i]);
#elif defined(__AVX2__)
    sums.part[i] += (NativeInt)_mm256_madd_epi16((__m256i)a.part[i], (__m256i)b.part[i]);
#else
    const NativeInt low_a = a.part[i] << 16 >> 16, low_b = b.part[i] << 16 >> 16;
    sums.part[i] += low_a * low_b + (a.part[i] >> 16) * (b.part[i] >> 16);
#endif
  }
}

// Rounds half to even; every lane must lie within +-2^22.
TRITIUM_INLINE IntLanes round_to_integers(const Lanes& lanes) {
  IntLanes result;
  const NativeFloat magic = NativeFloat{} + 12582912.0f;  // 1.5 x 2^23
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) result.part[i] = (NativeInt)(lanes.part[i] + magic) - (NativeInt)magic;
  return result;
}

TRITIUM_INLINE void store_words(int16_t* to, const IntLanes& lanes) {
  typedef int16_t Words __attribute__((vector_size(kWidth * 2)));
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const Words words = __builtin_convertvector(lanes.part[i], Words);
    std::memcpy(to + i * kWidth, &words, sizeof(words));
  }
}

}  // namespace
}  // namespace tritium
