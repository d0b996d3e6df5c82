// How AVX-512 VBMI takes a byte of five trits apart: a look-up of its upper six bits tells what the last one
// counts, and one in 128 entries spreads the other four to the four pairs of bits.
#pragma once

#include <immintrin.h>

#include <array>

#include "tiles.h"
#include "vector.h"

namespace tritium {
namespace {

// Entry b: digits 0 to 3 of b in base 3, two bits each.
constexpr std::array<uint8_t, 128> make_fields() {
  std::array<uint8_t, 128> fields{};
  for (int rest = 0; rest < kLastDigitWeight; ++rest) {
    fields[rest] =
        static_cast<uint8_t>(rest % 3 | rest / 3 % 3 << 2 | rest / 9 % 3 << 4 | rest / 27 % 3 << 6);
  }
  return fields;
}
alignas(64) constexpr std::array<uint8_t, 128> kFields = make_fields();

// Entry b / 4: what digit 4 adds to b. Of 84 and 168 each second pair of bits is the digit.
constexpr std::array<uint8_t, 64> make_last_parts() {
  std::array<uint8_t, 64> parts{};
  for (int byte = 0; byte < 3 * kLastDigitWeight; byte += 4)
    parts[byte / 4] = static_cast<uint8_t>(byte / kLastDigitWeight * kLastDigitWeight);
  return parts;
}
alignas(64) constexpr std::array<uint8_t, 64> kLastParts = make_last_parts();

// What digit 4 counts: 0, 84 or 168. The look-up reads six bits of a byte, so what a shift of 16 bits
// carries into the upper two does not matter.
TRITIUM_INLINE __m512i last_part(__m512i packed) {
  const __m512i table = _mm512_load_si512(kLastParts.data());
  return _mm512_permutexvar_epi8(_mm512_srli_epi16(packed, 2), table);
}

// Digits 0 to 3, two bits each, of a byte without its digit 4.
TRITIUM_INLINE __m512i spread(__m512i rest) {
  return _mm512_permutex2var_epi8(_mm512_load_si512(kFields.data()), rest,
                                  _mm512_load_si512(kFields.data() + kUnitBytes));
}

// Joins the planes' trits to one code: three times the more significant one plus the other.
template <int Planes, typename Trit>
TRITIUM_INLINE __m512i join_planes(Trit trit) {
  __m512i code = trit(0);
#pragma GCC unroll 2
  for (int plane = 1; plane < Planes; ++plane) {
    code = _mm512_add_epi8(_mm512_add_epi8(code, code), _mm512_add_epi8(code, trit(plane)));
  }
  return code;
}

}  // namespace
}  // namespace tritium
