// Trits int8 to bytes: five to a byte, base 3, the first one least significant; and four to a byte, the
// portable layout of packing.py. Both are Horner's scheme on whole registers, in bytes that may wrap around.
#pragma once

#include <algorithm>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "vector.h"

namespace tritium {
namespace {

constexpr int kTritsPerPackedByte = 5;
constexpr int64_t kLaidOutBlock = 128;
constexpr int64_t kLaidOutBytes = 32;

inline bool are_trits(const int8_t* trits, int64_t count) {
  unsigned wrong = 0;
  for (int64_t i = 0; i < count; ++i) wrong |= static_cast<uint8_t>(trits[i] + 1) > 2;
  return wrong == 0;
}

// Fewer than five trits are followed by zeros.
inline bool pack_one_by_one(const int8_t* trits, int64_t count, uint8_t* packed) {
  if (!are_trits(trits, count)) return false;
  for (int64_t i = 0; i < count; i += kTritsPerPackedByte) {
    int byte = 0;
    for (int64_t digit = kTritsPerPackedByte - 1; digit >= 0; --digit) {
      byte = byte * 3 + (i + digit < count ? trits[i + digit] + 1 : 1);
    }
    *packed++ = static_cast<uint8_t>(byte);
  }
  return true;
}

#if defined(__AVX512BW__)
constexpr int64_t kPackedStep = 80;  // trits, 16 bytes

TRITIUM_INLINE __m512i four_pieces(const int8_t* trits) {
  const auto piece = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(trits + 20 * i)); };
  const __m512i first = _mm512_castsi128_si512(piece(0));
  const __m512i two = _mm512_inserti64x2(first, piece(1), 1);
  return _mm512_inserti64x2(_mm512_inserti64x2(two, piece(2), 2), piece(3), 3);
}

// Every 16 bytes begin 20 trits further: byte 5 i of them, with the four behind it, becomes one byte.
TRITIUM_INLINE __m128i pack_step(const int8_t* trits, __mmask64& wrong) {
  __m512i value = four_pieces(trits + 4);
  const __m512i one = _mm512_set1_epi8(1), two = _mm512_set1_epi8(2);
  wrong |= _mm512_cmpgt_epu8_mask(_mm512_add_epi8(value, one), two);
#pragma GCC unroll 4
  for (int digit = 3; digit >= 0; --digit) {
    const __m512i next = four_pieces(trits + digit);
    if (digit == 0) wrong |= _mm512_cmpgt_epu8_mask(_mm512_add_epi8(next, one), two);
    value = _mm512_add_epi8(_mm512_add_epi8(value, value), _mm512_add_epi8(value, next));
  }
  value = _mm512_add_epi8(value, _mm512_set1_epi8(121));  // 1 + 3 + 9 + 27 + 81 for the offset of each trit
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 5, 10, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m512i spread = _mm512_shuffle_epi8(value, order);
  const __m512i words = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castsi512_si128(_mm512_permutexvar_epi32(words, spread));
}

inline bool pack_row_of_trits(const int8_t* trits, int64_t count, uint8_t* packed) {
  __mmask64 wrong = 0;
  for (; count >= kPackedStep; count -= kPackedStep) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(packed), pack_step(trits, wrong));
    trits += kPackedStep;
    packed += kPackedStep / kTritsPerPackedByte;
  }
  return pack_one_by_one(trits, count, packed) && wrong == 0;
}
#elif defined(__AVX2__)
constexpr int64_t kPackedStep = 40;  // trits, 8 bytes

TRITIUM_INLINE __m256i two_pieces(const int8_t* trits) {
  const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(trits));
  const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(trits + 20));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}

TRITIUM_INLINE __m256i beyond_trits(__m256i trits) {
  return _mm256_xor_si256(trits,
                          _mm256_max_epi8(_mm256_min_epi8(trits, _mm256_set1_epi8(1)), _mm256_set1_epi8(-1)));
}

// Every 16 bytes begin 20 trits further: byte 5 i of them, with the four behind it, becomes one byte.
TRITIUM_INLINE uint64_t pack_step(const int8_t* trits, __m256i& wrong) {
  __m256i value = two_pieces(trits + 4);
  wrong = _mm256_or_si256(wrong, beyond_trits(value));
#pragma GCC unroll 4
  for (int digit = 3; digit >= 0; --digit) {
    const __m256i next = two_pieces(trits + digit);
    if (digit == 0) wrong = _mm256_or_si256(wrong, beyond_trits(next));
    value = _mm256_add_epi8(_mm256_add_epi8(value, value), _mm256_add_epi8(value, next));
  }
  value = _mm256_add_epi8(value, _mm256_set1_epi8(121));  // 1 + 3 + 9 + 27 + 81 for the offset of each trit
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 5, 10, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  const __m256i spread = _mm256_shuffle_epi8(value, order);
  return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(spread, 0))) |
         static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(spread, 4))) << 32;
}

inline bool pack_row_of_trits(const int8_t* trits, int64_t count, uint8_t* packed) {
  __m256i wrong = _mm256_setzero_si256();
  for (; count >= kPackedStep; count -= kPackedStep) {
    const uint64_t bytes = pack_step(trits, wrong);
    std::memcpy(packed, &bytes, sizeof(bytes));
    trits += kPackedStep;
    packed += sizeof(bytes);
  }
  return pack_one_by_one(trits, count, packed) && _mm256_testz_si256(wrong, wrong) != 0;
}
#else
inline bool pack_row_of_trits(const int8_t* trits, int64_t count, uint8_t* packed) {
  return pack_one_by_one(trits, count, packed);
}
#endif

inline void lay_out_block(const int8_t* from, uint8_t* to) {
  for (int64_t j = 0; j < kLaidOutBytes; ++j) {
    to[j] = static_cast<uint8_t>((from[j] + 1) | (from[j + 32] + 1) << 2 | (from[j + 64] + 1) << 4 |
                                 (from[j + 96] + 1) << 6);
  }
}

inline bool lay_out_row_of_trits(const int8_t* trits, int64_t count, uint8_t* planes) {
  bool valid = true;
  for (; count >= kLaidOutBlock; count -= kLaidOutBlock) {
    valid &= are_trits(trits, kLaidOutBlock);
    lay_out_block(trits, planes);
    trits += kLaidOutBlock;
    planes += kLaidOutBytes;
  }
  if (count > 0) {
    int8_t tail[kLaidOutBlock] = {};
    std::memcpy(tail, trits, static_cast<size_t>(count));
    valid &= are_trits(tail, kLaidOutBlock);
    lay_out_block(tail, planes);
  }
  return valid;
}

}  // namespace
}  // namespace tritium
