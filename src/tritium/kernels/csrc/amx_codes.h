// What AMX multiplies by: units of a tile spread to signed codes.
#pragma once

#include <immintrin.h>

#include "avx512_units.h"

namespace tritium {
namespace {

constexpr int64_t kDigits = 5;  // of a unit

// A pair of bits 0, 1 or 2 in every byte becomes -1, 0 or 1: a sum modulo 2 of the byte's bits.
template <int Pair>
TRITIUM_INLINE __m512i trit(__m512i fields) {
  constexpr uint64_t kLow = 1U << 2 * Pair, kBoth = 3 * kLow;
  constexpr uint64_t kRows = kBoth * 0x01010101010101 | kLow << 56;  // bit 7 of the result in byte 0
  return _mm512_gf2p8affine_epi64_epi8(fields, _mm512_set1_epi64(static_cast<int64_t>(kRows)), 0xff);
}

// Units of one tile to codes [quads, 16 rows, 4 inputs]. What lies `ahead` bytes further comes into the
// second-level cache meanwhile.
template <int Planes>
__attribute__((noinline)) void unpack(const uint8_t* from, int64_t plane_bytes, int64_t units, int64_t ahead,
                                      int8_t* codes) {
  for (int64_t unit = 0; unit < units; ++unit, from += kUnitBytes, codes += kDigits * kUnitBytes) {
    __m512i fields[Planes], last[Planes];
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const uint8_t* bytes = from + plane * plane_bytes;
      const auto next = reinterpret_cast<uintptr_t>(bytes) + static_cast<uintptr_t>(ahead);
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
      const __m512i packed = _mm512_load_si512(bytes);
      last[plane] = last_part(packed);
      fields[plane] = spread(_mm512_sub_epi8(packed, last[plane]));
    }
    const auto write = [&]<int Pair>(const __m512i(&pairs)[Planes], int digit) {
      const __m512i code = join_planes<Planes>([&](int plane) { return trit<Pair>(pairs[plane]); });
      _mm512_store_si512(codes + digit * kUnitBytes, code);
    };
    write.template operator()<0>(fields, 0);
    write.template operator()<1>(fields, 1);
    write.template operator()<2>(fields, 2);
    write.template operator()<3>(fields, 3);
    write.template operator()<1>(last, 4);
  }
}

}  // namespace
}  // namespace tritium
