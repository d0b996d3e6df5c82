// AVX2: vpmaddubsw, four of them added in 16 bits (26 x 128 x 2 x 4 < 32768), then widened.
#include <immintrin.h>

#include "make_table.h"

namespace tritium {
namespace {

struct Avx2 {
  using Sum = __m256i;

  struct BlockCodes {
    __m256i digit[4];
  };

  static TRITIUM_INLINE Sum zero() { return _mm256_setzero_si256(); }

  static TRITIUM_INLINE __m256i read(const uint8_t* bytes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  }

  static TRITIUM_INLINE __m256i join(__m256i high, __m256i low) {
    return _mm256_add_epi8(_mm256_add_epi8(high, high), _mm256_add_epi8(high, low));
  }

  template <int Planes>
  static TRITIUM_INLINE __m256i unpack_chunk(const uint8_t* bytes, int64_t plane_stride, int shift) {
    const __m256i mask = _mm256_set1_epi8(3);
    const __m128i count = _mm_cvtsi32_si128(shift);
    __m256i codes = _mm256_and_si256(_mm256_srl_epi16(read(bytes), count), mask);
    for (int plane = 1; plane < Planes; ++plane) {
      const __m256i next = _mm256_srl_epi16(read(bytes + plane * plane_stride), count);
      codes = join(codes, _mm256_and_si256(next, mask));
    }
    return codes;
  }

  template <int Planes>
  static TRITIUM_INLINE BlockCodes unpack_block(const uint8_t* bytes, int64_t plane_stride) {
    BlockCodes codes;
    const __m256i mask = _mm256_set1_epi8(3);
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const __m256i packed = read(bytes + plane * plane_stride);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m256i digit = _mm256_and_si256(_mm256_srli_epi16(packed, 2 * i), mask);
        codes.digit[i] = plane == 0 ? digit : join(codes.digit[i], digit);
      }
    }
    return codes;
  }

  static TRITIUM_INLINE __m256i multiply(__m256i codes, const int8_t* q) {
    return _mm256_maddubs_epi16(codes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)));
  }

  static TRITIUM_INLINE void widen(Sum& total, __m256i pairs) {
    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }

  static TRITIUM_INLINE void add_block(Sum& total, const BlockCodes& codes, const int8_t* q) {
    const __m256i first = _mm256_add_epi16(multiply(codes.digit[0], q), multiply(codes.digit[1], q + 32));
    const __m256i second =
        _mm256_add_epi16(multiply(codes.digit[2], q + 64), multiply(codes.digit[3], q + 96));
    widen(total, _mm256_add_epi16(first, second));
  }

  static TRITIUM_INLINE void add_chunk(Sum& total, __m256i codes, const int8_t* q) {
    widen(total, multiply(codes, q));
  }

  static TRITIUM_INLINE NativeInt reduce(const Sum* total) {
    const auto four = [&](int i) {
      return _mm256_hadd_epi32(_mm256_hadd_epi32(total[i], total[i + 1]),
                               _mm256_hadd_epi32(total[i + 2], total[i + 3]));
    };
    const __m256i low = four(0), high = four(4);
    return (NativeInt)_mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                                       _mm256_permute2x128_si256(low, high, 0x31));
  }
};

}  // namespace

const KernelTable kAvx2Table = make_table<Avx2>("avx2");

}  // namespace tritium
