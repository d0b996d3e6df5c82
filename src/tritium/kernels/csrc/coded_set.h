// What each instruction set does with a group of coded weights: unpack_coded makes the codes of its 8 units,
// multiply_coded their exact sums with 32 activations, one lane per row of the tile.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#include "coded.h"
#include "vector.h"

namespace tritium {
namespace {

struct CodedSums {
  NativeInt part[kParts];
};

// The four activations of a unit as one word.
TRITIUM_INLINE int32_t quad_of(const int8_t* q, int unit) {
  int32_t quad;
  std::memcpy(&quad, q + unit * kCodedQuad, sizeof(quad));
  return quad;
}

#if defined(__AVX512VNNI__)

// vpdpbusd: unsigned codes times signed activations, exact in 32 bits.
struct CodedUnits {
  __m512i unit[kCodedUnits];
};

TRITIUM_INLINE __m512i read_line(const uint8_t* lines, int line) {
  return _mm512_load_si512(lines + line * kCodedLine);
}

// (nibbles & 15) | (upper & 48): one operation after each of the two is in place.
TRITIUM_INLINE __m512i join_coded(__m512i nibbles, __m512i upper) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i upper_bits = _mm512_and_si512(upper, _mm512_set1_epi8(48));
  return _mm512_ternarylogic_epi32(nibbles, low, upper_bits, 0xea);  // (a & b) | c
}

template <int Bits>
TRITIUM_INLINE CodedUnits unpack_coded(const uint8_t* lines) {
  CodedUnits codes;
  if constexpr (Bits == 8) {
#pragma GCC unroll 8
    for (int i = 0; i < kCodedUnits; ++i) codes.unit[i] = read_line(lines, i);
  } else {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i upper = read_line(lines, 4 + half);
      const __m512i first = read_line(lines, 2 * half), second = read_line(lines, 2 * half + 1);
      __m512i* unit = codes.unit + 4 * half;
      unit[0] = join_coded(first, _mm512_slli_epi16(upper, 4));
      unit[1] = join_coded(_mm512_srli_epi16(first, 4), _mm512_slli_epi16(upper, 2));
      unit[2] = join_coded(second, upper);
      unit[3] = join_coded(_mm512_srli_epi16(second, 4), _mm512_srli_epi16(upper, 2));
    }
  }
  return codes;
}

template <int Bits>
TRITIUM_INLINE CodedSums multiply_coded(const CodedUnits& codes, const int8_t* q, int32_t correction) {
  // Two chains: one would wait for itself.
  __m512i even = _mm512_set1_epi32(correction), odd = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int i = 0; i < kCodedUnits; i += 2) {
    even = _mm512_dpbusd_epi32(even, codes.unit[i], _mm512_set1_epi32(quad_of(q, i)));
    odd = _mm512_dpbusd_epi32(odd, codes.unit[i + 1], _mm512_set1_epi32(quad_of(q, i + 1)));
  }
  return {{(NativeInt)_mm512_add_epi32(even, odd)}};
}

#elif defined(__AVX2__)

// vpmaddubsw adds two products in 16 bits. Codes of 6 bits leave room for two such pairs (63 x 128 x 4 <
// 32768). Signed codes of 8 bits take the activation's sign and meet its absolute value (127 x 128 x 2 <
// 32768); they need no correction.
struct CodedUnits {
  __m256i unit[kCodedUnits][2];  // rows 0 to 7, rows 8 to 15
};

TRITIUM_INLINE __m256i read_line(const uint8_t* lines, int line, int half) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(lines + line * kCodedLine) + half);
}

TRITIUM_INLINE __m256i join_coded(__m256i nibbles, __m256i upper) {
  return _mm256_or_si256(_mm256_and_si256(nibbles, _mm256_set1_epi8(15)),
                         _mm256_and_si256(upper, _mm256_set1_epi8(48)));
}

template <int Bits>
TRITIUM_INLINE CodedUnits unpack_coded(const uint8_t* lines) {
  CodedUnits codes;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    if constexpr (Bits == 8) {
#pragma GCC unroll 8
      for (int i = 0; i < kCodedUnits; ++i) {
        codes.unit[i][half] = _mm256_xor_si256(read_line(lines, i, half), _mm256_set1_epi8(-128));
      }
    } else {
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const __m256i upper = read_line(lines, 4 + part, half);
        const __m256i first = read_line(lines, 2 * part, half);
        const __m256i second = read_line(lines, 2 * part + 1, half);
        auto* unit = codes.unit + 4 * part;
        unit[0][half] = join_coded(first, _mm256_slli_epi16(upper, 4));
        unit[1][half] = join_coded(_mm256_srli_epi16(first, 4), _mm256_slli_epi16(upper, 2));
        unit[2][half] = join_coded(second, upper);
        unit[3][half] = join_coded(_mm256_srli_epi16(second, 4), _mm256_srli_epi16(upper, 2));
      }
    }
  }
  return codes;
}

template <int Bits>
TRITIUM_INLINE CodedSums multiply_coded(const CodedUnits& codes, const int8_t* q, int32_t correction) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total[2];
  total[0] = total[1] = _mm256_set1_epi32(Bits == 8 ? 0 : correction);
#pragma GCC unroll 8
  for (int i = 0; i < kCodedUnits; i += 2) {
    const __m256i even = _mm256_set1_epi32(quad_of(q, i)), odd = _mm256_set1_epi32(quad_of(q, i + 1));
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i first = codes.unit[i][half], second = codes.unit[i + 1][half];
      if constexpr (Bits == 8) {
        const __m256i a = _mm256_maddubs_epi16(_mm256_abs_epi8(even), _mm256_sign_epi8(first, even));
        const __m256i b = _mm256_maddubs_epi16(_mm256_abs_epi8(odd), _mm256_sign_epi8(second, odd));
        total[half] = _mm256_add_epi32(total[half], _mm256_madd_epi16(a, ones));
        total[half] = _mm256_add_epi32(total[half], _mm256_madd_epi16(b, ones));
      } else {
        const __m256i both =
            _mm256_add_epi16(_mm256_maddubs_epi16(first, even), _mm256_maddubs_epi16(second, odd));
        total[half] = _mm256_add_epi32(total[half], _mm256_madd_epi16(both, ones));
      }
    }
  }
  return {{(NativeInt)total[0], (NativeInt)total[1]}};
}

#elif defined(__ARM_FEATURE_DOTPROD)

// sdot multiplies signed bytes. Codes of 6 bits are signed bytes as they stand; those of 8 bits become so
// when their highest bit is turned, and then need no correction.
constexpr int kCodedQuarters = 4;  // of sixteen rows

struct CodedUnits {
  int8x16_t unit[kCodedUnits][kCodedQuarters];
};

TRITIUM_INLINE uint8x16_t read_line(const uint8_t* lines, int line, int quarter) {
  return vld1q_u8(lines + line * kCodedLine + quarter * 16);
}

TRITIUM_INLINE int8x16_t join_coded(uint8x16_t nibbles, uint8x16_t upper) {
  const uint8x16_t low = vandq_u8(nibbles, vdupq_n_u8(15));
  return vreinterpretq_s8_u8(vorrq_u8(low, vandq_u8(upper, vdupq_n_u8(48))));
}

template <int Bits>
TRITIUM_INLINE CodedUnits unpack_coded(const uint8_t* lines) {
  CodedUnits codes;
#pragma GCC unroll 4
  for (int quarter = 0; quarter < kCodedQuarters; ++quarter) {
    if constexpr (Bits == 8) {
#pragma GCC unroll 8
      for (int i = 0; i < kCodedUnits; ++i) {
        const uint8x16_t turned = veorq_u8(read_line(lines, i, quarter), vdupq_n_u8(128));
        codes.unit[i][quarter] = vreinterpretq_s8_u8(turned);
      }
    } else {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const uint8x16_t upper = read_line(lines, 4 + half, quarter);
        const uint8x16_t first = read_line(lines, 2 * half, quarter);
        const uint8x16_t second = read_line(lines, 2 * half + 1, quarter);
        auto* unit = codes.unit + 4 * half;
        unit[0][quarter] = join_coded(first, vshlq_n_u8(upper, 4));
        unit[1][quarter] = join_coded(vshrq_n_u8(first, 4), vshlq_n_u8(upper, 2));
        unit[2][quarter] = join_coded(second, upper);
        unit[3][quarter] = join_coded(vshrq_n_u8(second, 4), vshrq_n_u8(upper, 2));
      }
    }
  }
  return codes;
}

template <int Bits>
TRITIUM_INLINE CodedSums multiply_coded(const CodedUnits& codes, const int8_t* q, int32_t correction) {
  CodedSums sums;
#pragma GCC unroll 4
  for (int quarter = 0; quarter < kCodedQuarters; ++quarter) {
    int32x4_t total = vdupq_n_s32(Bits == 8 ? 0 : correction);
#pragma GCC unroll 8
    for (int i = 0; i < kCodedUnits; ++i) {
      const int8x16_t input = vreinterpretq_s8_s32(vdupq_n_s32(quad_of(q, i)));
      total = vdotq_s32(total, codes.unit[i][quarter], input);
    }
    sums.part[quarter] = (NativeInt)total;
  }
  return sums;
}

#else

struct CodedUnits {
  uint8_t unit[kCodedUnits][kCodedLine];
};

template <int Bits>
TRITIUM_INLINE CodedUnits unpack_coded(const uint8_t* lines) {
  CodedUnits codes;
  for (int64_t i = 0; i < kCodedUnits; ++i) {
    for (int64_t byte = 0; byte < kCodedLine; ++byte) codes.unit[i][byte] = read_code<Bits>(lines, i, byte);
  }
  return codes;
}

template <int Bits>
TRITIUM_INLINE CodedSums multiply_coded(const CodedUnits& codes, const int8_t* q, int32_t correction) {
  int32_t total[kCodedRows];
  for (int64_t row = 0; row < kCodedRows; ++row) {
    int32_t sum = correction;
    for (int64_t i = 0; i < kCodedUnits; ++i) {
      const uint8_t* code = codes.unit[i] + row * kCodedQuad;
      for (int64_t j = 0; j < kCodedQuad; ++j) sum += code[j] * q[i * kCodedQuad + j];
    }
    total[row] = sum;
  }
  CodedSums sums;
  std::memcpy(&sums, total, sizeof(total));
  return sums;
}

#endif

}  // namespace
}  // namespace tritium
