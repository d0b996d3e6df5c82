// AVX-512 with VNNI: vpdpbusd, sixteen rows in one register of sums. With VBMI a byte holds five trits, which
// avx512_units.h spreads to pairs of bits. Without, a byte holds four such pairs.
#pragma once

#include <immintrin.h>

#include "avx512_units.h"
#include "make_table.h"

namespace tritium {
namespace {

template <int Digits>
struct Avx512 {
  static constexpr int kTritsPerByte = Digits;
  static constexpr int kMostColumns = 8;
  using Sum = __m512i;

  template <int Planes>
  struct Unit {
    __m512i packed[Planes];
  };

  // One stream from memory where memory is what takes the time; else two tiles share a broadcast.
  static constexpr int tiles_at_once(int, int columns) { return columns == 1 ? 1 : 2; }

  // All lanes start from factor x total.
  static TRITIUM_INLINE Sum start(int32_t factor, int32_t total) {
    return (Sum)((NativeInt{} + total) * factor);
  }

  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> load(const uint8_t* bytes, int64_t plane_bytes) {
    Unit<Planes> unit;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane)
      unit.packed[plane] = _mm512_load_si512(bytes + plane * plane_bytes);
    return unit;
  }

  static TRITIUM_INLINE __m512i pair(__m512i fields, int index) {
    const __m512i shifted = _mm512_srli_epi16(fields, static_cast<unsigned>(2 * index));
    return _mm512_and_si512(shifted, _mm512_set1_epi8(3));
  }

  // Of every plane.
  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> last_parts(const Unit<Planes>& unit) {
    Unit<Planes> parts;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) parts.packed[plane] = last_part(unit.packed[plane]);
    return parts;
  }
  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> fields_of(const Unit<Planes>& unit, const Unit<Planes>& last) {
    Unit<Planes> fields;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane)
      fields.packed[plane] = spread(_mm512_sub_epi8(unit.packed[plane], last.packed[plane]));
    return fields;
  }

  template <int Planes>
  static TRITIUM_INLINE __m512i code(const Unit<Planes>& fields, int index) {
    return join_planes<Planes>([&](int plane) { return pair(fields.packed[plane], index); });
  }

  static TRITIUM_INLINE __m512i quad(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }

  template <int Planes>
  static TRITIUM_INLINE __m512i digit(const Unit<Planes>& unit, int index) {
    if constexpr (Digits == 4) return code(unit, index);
    const Unit<Planes> last = last_parts(unit);
    return index == 4 ? code(last, 1) : code(fields_of(unit, last), index);
  }

  static TRITIUM_INLINE void add(Sum& sum, __m512i codes, const int8_t* x) {
    sum = _mm512_dpbusd_epi32(sum, codes, quad(x));
  }

  template <int Begin, int End, int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digits(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Sum (&sums)[Tiles][Columns]) {
    Unit<Planes> fields[Tiles];
    if constexpr (Digits == 5) {
      Unit<Planes> last[Tiles];
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) last[t] = last_parts(units[t]);
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) fields[t] = fields_of(units[t], last[t]);
      // The last digit first: then only the fields need registers.
      if constexpr (End == 5) add_digit(last, 1, x + 4 * kQuad, stride, sums);
    } else {
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) fields[t] = units[t];
    }
#pragma GCC unroll 4
    for (int index = Begin; index < (End < 4 ? End : 4); ++index)
      add_digit(fields, index, x + index * kQuad, stride, sums);
  }

  template <int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digit(const Unit<Planes> (&fields)[Tiles], int index, const int8_t* x,
                                       int64_t stride, Sum (&sums)[Tiles][Columns]) {
    __m512i codes[Tiles];
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) codes[t] = code(fields[t], index);
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) {
      const __m512i input = quad(x + c * stride);
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) sums[t][c] = _mm512_dpbusd_epi32(sums[t][c], codes[t], input);
    }
  }

  // For few columns: the digits stay where they lie in their bytes, each place has sums of its own, and only
  // these are shifted. A unit then costs fewer instructions than reading it from memory takes.
  static constexpr bool adds_places(int planes, int columns) { return planes == 1 && columns <= 2; }
  template <int Tiles, int Columns>
  struct Places {
    Sum of[4][Tiles][Columns] = {};  // 2^18 units x 4 products of 2 x 64 and 128 stay inside an int32
  };

  template <int Begin, int End, int Tiles, int Columns>
  static TRITIUM_INLINE void add_places(const Unit<1> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Places<Tiles, Columns>& sums) {
    Unit<1> fields[Tiles];
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) fields[t] = units[t];
    if constexpr (Digits == 5) {
      Unit<1> last[Tiles];
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t) {
        last[t] = last_parts(units[t]);
        fields[t] = fields_of(units[t], last[t]);
      }
      if constexpr (End == 5) add_place(last, 1, x + 4 * kQuad, stride, sums.of[1]);
    }
#pragma GCC unroll 4
    for (int place = Begin; place < (End < 4 ? End : 4); ++place)
      add_place(fields, place, x + place * kQuad, stride, sums.of[place]);
  }

  template <int Tiles, int Columns>
  static TRITIUM_INLINE void add_place(const Unit<1> (&fields)[Tiles], int place, const int8_t* x,
                                       int64_t stride, Sum (&sums)[Tiles][Columns]) {
    const __m512i mask = _mm512_set1_epi8(static_cast<char>(3 << 2 * place));
#pragma GCC unroll 2
    for (int c = 0; c < Columns; ++c) {
      const __m512i input = quad(x + c * stride);
#pragma GCC unroll 2
      for (int t = 0; t < Tiles; ++t)
        sums[t][c] = _mm512_dpbusd_epi32(sums[t][c], _mm512_and_si512(fields[t].packed[0], mask), input);
    }
  }

  template <int Tiles, int Columns>
  static TRITIUM_INLINE void join_places(const Places<Tiles, Columns>& places, Sum (&sums)[Tiles][Columns]) {
    for (int t = 0; t < Tiles; ++t) {
      for (int c = 0; c < Columns; ++c) {
        Sum joined = places.of[3][t][c];  // place p holds 4^p times what it counts
#pragma GCC unroll 3
        for (int place = 2; place >= 0; --place)
          joined = _mm512_add_epi32(_mm512_srai_epi32(joined, 2), places.of[place][t][c]);
        sums[t][c] = _mm512_add_epi32(sums[t][c], joined);
      }
    }
  }

  static TRITIUM_INLINE Integers integers(const Sum& sum) { return {{(NativeInt)sum}}; }
};

}  // namespace
}  // namespace tritium
