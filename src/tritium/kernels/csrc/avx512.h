// AVX-512 with VNNI: vpdpbusd, sixteen rows in one register of sums. With VBMI a byte holds five trits and a
// look-up in 256 entries spreads four of them to the four pairs of bits; without, it holds four.
#pragma once

#include <immintrin.h>

#include <array>

#include "make_table.h"

namespace tritium {
namespace {

// Entry b: digits 0 to 3 of b in base 3, two bits each. Digit 4, the most significant, is found by comparing.
constexpr std::array<uint8_t, 256> make_fields() {
  std::array<uint8_t, 256> fields{};
  for (int byte = 0; byte < 243; ++byte) {
    fields[byte] =
        static_cast<uint8_t>(byte % 3 | byte / 3 % 3 << 2 | byte / 9 % 3 << 4 | byte / 27 % 3 << 6);
  }
  return fields;
}
alignas(64) constexpr std::array<uint8_t, 256> kFields = make_fields();

template <int Digits>
struct Avx512 {
  static constexpr int kTritsPerByte = Digits;
  static constexpr int kMostColumns = 8;
  using Sum = __m512i;

  template <int Planes>
  struct Unit {
    __m512i packed[Planes];
  };

  // Enough sums at once to hide the multiply-add's latency, few enough to stay in registers.
  static constexpr int tiles_at_once(int planes, int columns) { return columns <= 2 && planes == 1 ? 4 : 2; }

  // All lanes start from factor x total.
  static TRITIUM_INLINE Sum start(int32_t factor, int32_t total) {
    return (Sum)((NativeInt{} + total) * factor);
  }

  static TRITIUM_INLINE __m512i table_part(int part) {
    return _mm512_load_si512(kFields.data() + part * kUnitBytes);
  }

  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> load(const uint8_t* bytes, int64_t plane_bytes) {
    Unit<Planes> unit;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane)
      unit.packed[plane] = _mm512_load_si512(bytes + plane * plane_bytes);
    return unit;
  }

  // Digits 0 to 3, two bits each.
  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> spread(const Unit<Planes>& unit) {
    if constexpr (Digits == 4) return unit;
    Unit<Planes> fields;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const __m512i packed = unit.packed[plane];
      const __m512i low = _mm512_permutex2var_epi8(table_part(0), packed, table_part(1));
      const __m512i high = _mm512_permutex2var_epi8(table_part(2), packed, table_part(3));
      fields.packed[plane] = _mm512_mask_blend_epi8(_mm512_movepi8_mask(packed), low, high);
    }
    return fields;
  }

  // Digit 4, the most significant.
  template <int Planes>
  static TRITIUM_INLINE __m512i last_digit(const Unit<Planes>& unit) {
    return join<Planes>([&](int plane) {
      return _mm512_add_epi8(exceeds(unit.packed[plane], 80), exceeds(unit.packed[plane], 161));
    });
  }

  // 1 where a byte is greater than the bound: on any of four ports, which a mask is not.
  static TRITIUM_INLINE __m512i exceeds(__m512i bytes, int bound) {
    const __m512i above = _mm512_subs_epu8(bytes, _mm512_set1_epi8(static_cast<char>(bound)));
    return _mm512_min_epu8(above, _mm512_set1_epi8(1));
  }

  // One of digits 0 to 3.
  template <int Planes>
  static TRITIUM_INLINE __m512i field(const Unit<Planes>& fields, int index) {
    return join<Planes>([&](int plane) {
      const __m512i shifted = _mm512_srli_epi16(fields.packed[plane], static_cast<unsigned>(2 * index));
      return _mm512_and_si512(shifted, _mm512_set1_epi8(3));
    });
  }

  // Joins the planes' trits to one code: three times the more significant one plus the other.
  template <int Planes, typename Trit>
  static TRITIUM_INLINE __m512i join(Trit trit) {
    __m512i code = trit(0);
#pragma GCC unroll 2
    for (int plane = 1; plane < Planes; ++plane) {
      code = _mm512_add_epi8(_mm512_add_epi8(code, code), _mm512_add_epi8(code, trit(plane)));
    }
    return code;
  }

  static TRITIUM_INLINE __m512i quad(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }

  template <int Planes>
  static TRITIUM_INLINE __m512i digit(const Unit<Planes>& unit, int index) {
    return index == 4 ? last_digit(unit) : field(spread(unit), index);
  }

  static TRITIUM_INLINE void add(Sum& sum, __m512i codes, const int8_t* x) {
    sum = _mm512_dpbusd_epi32(sum, codes, quad(x));
  }

  template <int Begin, int End, int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digits(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Sum (&sums)[Tiles][Columns]) {
    // The last digit first: then only the fields need registers.
    if constexpr (End == 5) {
      add_digit(units, x + 4 * kQuad, stride, sums, [](const auto& unit) { return last_digit(unit); });
    }
    Unit<Planes> fields[Tiles];
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) fields[t] = spread(units[t]);
#pragma GCC unroll 4
    for (int index = Begin; index < (End < 4 ? End : 4); ++index) {
      add_digit(fields, x + index * kQuad, stride, sums,
                [&](const auto& unit) { return field(unit, index); });
    }
  }

  template <int Planes, int Tiles, int Columns, typename Codes>
  static TRITIUM_INLINE void add_digit(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                       Sum (&sums)[Tiles][Columns], Codes codes_of) {
    __m512i codes[Tiles];
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) codes[t] = codes_of(units[t]);
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) {
      const __m512i input = quad(x + c * stride);
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) sums[t][c] = _mm512_dpbusd_epi32(sums[t][c], codes[t], input);
    }
  }

  static TRITIUM_INLINE Integers integers(const Sum& sum) { return {{(NativeInt)sum}}; }
};

}  // namespace
}  // namespace tritium
