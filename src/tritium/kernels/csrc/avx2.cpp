// AVX2: vpmaddubsw, the four digits of a unit added in 16 bits (26 x 128 x 2 x 4 < 32768), then widened.
#include <immintrin.h>

#include "make_table.h"

namespace tritium {
namespace {

struct Avx2 {
  static constexpr int kTritsPerByte = 4;
  static constexpr int kMostColumns = 4;

  struct Half {
    __m256i half[2];  // rows 0 to 7, rows 8 to 15
  };
  using Sum = Half;

  template <int Planes>
  struct Unit {
    Half packed[Planes];
  };

  static constexpr int tiles_at_once(int, int) { return 1; }  // one stream from memory

  // All lanes start from factor x total.
  static TRITIUM_INLINE Sum start(int32_t factor, int32_t total) {
    const __m256i value = _mm256_set1_epi32(factor * total);
    return {{value, value}};
  }

  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> load(const uint8_t* bytes, int64_t plane_bytes) {
    Unit<Planes> unit;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const auto* from = reinterpret_cast<const __m256i*>(bytes + plane * plane_bytes);
      unit.packed[plane] = {{_mm256_load_si256(from), _mm256_load_si256(from + 1)}};
    }
    return unit;
  }

  template <int Planes>
  static TRITIUM_INLINE Half digit(const Unit<Planes>& unit, int index) {
    Half codes;
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      __m256i code = trit(unit.packed[0].half[i], index);
#pragma GCC unroll 2
      for (int plane = 1; plane < Planes; ++plane) {
        const __m256i next = _mm256_add_epi8(code, trit(unit.packed[plane].half[i], index));
        code = _mm256_add_epi8(_mm256_add_epi8(code, code), next);
      }
      codes.half[i] = code;
    }
    return codes;
  }

  static TRITIUM_INLINE __m256i trit(__m256i packed, int index) {
    return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * index), _mm256_set1_epi8(3));
  }

  static TRITIUM_INLINE __m256i quad(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi32(four);
  }

  static TRITIUM_INLINE void widen(__m256i& sum, __m256i pairs) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }

  static TRITIUM_INLINE void add(Sum& sum, const Half& codes, const int8_t* x) {
    const __m256i input = quad(x);
    for (int i = 0; i < 2; ++i) widen(sum.half[i], _mm256_maddubs_epi16(codes.half[i], input));
  }

  template <int Begin, int End, int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digits(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Sum (&sums)[Tiles][Columns]) {
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
      Half codes[End - Begin];
#pragma GCC unroll 4
      for (int index = Begin; index < End; ++index) codes[index - Begin] = digit(units[t], index);
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          __m256i pairs = _mm256_setzero_si256();
#pragma GCC unroll 4
          for (int index = Begin; index < End; ++index) {
            const __m256i input = quad(x + c * stride + index * kQuad);
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[index - Begin].half[i], input));
          }
          widen(sums[t][c].half[i], pairs);
        }
      }
    }
  }

  static TRITIUM_INLINE Integers integers(const Sum& sum) {
    return {{(NativeInt)sum.half[0], (NativeInt)sum.half[1]}};
  }
};

}  // namespace

const KernelTable kAvx2Table = make_table<Avx2>("avx2");

}  // namespace tritium
