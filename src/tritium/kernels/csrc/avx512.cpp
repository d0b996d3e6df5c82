// AVX-512 with VNNI: vpdpbusd, sixteen sums in sixteen registers.
#include <immintrin.h>

#include "make_table.h"

namespace tritium {
namespace {

struct Avx512 {
  using Sum = __m512i;

  struct BlockCodes {
    __m512i low, high;  // weights 0..63 and 64..127
  };

  static TRITIUM_INLINE Sum zero() { return _mm512_setzero_si512(); }

  static TRITIUM_INLINE __m256i read(const uint8_t* bytes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  }

  static TRITIUM_INLINE __m512i join(__m512i high, __m512i low) {
    return _mm512_add_epi8(_mm512_add_epi8(high, high), _mm512_add_epi8(high, low));
  }

  template <int Planes>
  static TRITIUM_INLINE BlockCodes unpack_block(const uint8_t* bytes, int64_t plane_stride) {
    const __m512i mask = _mm512_set1_epi8(3);
    const __m512i low_shifts = _mm512_set_epi64(2, 2, 2, 2, 0, 0, 0, 0);
    const __m512i high_shifts = _mm512_set_epi64(6, 6, 6, 6, 4, 4, 4, 4);
    BlockCodes codes;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const __m512i packed = _mm512_broadcast_i64x4(read(bytes + plane * plane_stride));
      const __m512i low = _mm512_and_si512(_mm512_srlv_epi64(packed, low_shifts), mask);
      const __m512i high = _mm512_and_si512(_mm512_srlv_epi64(packed, high_shifts), mask);
      codes.low = plane == 0 ? low : join(codes.low, low);
      codes.high = plane == 0 ? high : join(codes.high, high);
    }
    return codes;
  }

  // 32 weights in the lower half of a register, zeros above.
  template <int Planes>
  static TRITIUM_INLINE __m512i unpack_chunk(const uint8_t* bytes, int64_t plane_stride, int shift) {
    const __m512i mask = _mm512_set1_epi8(3);
    const __m128i count = _mm_cvtsi32_si128(shift);
    __m512i codes = _mm512_setzero_si512();
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const __m512i packed = _mm512_zextsi256_si512(read(bytes + plane * plane_stride));
      codes = join(codes, _mm512_and_si512(_mm512_srl_epi64(packed, count), mask));
    }
    return codes;
  }

  static TRITIUM_INLINE void add_block(Sum& total, const BlockCodes& codes, const int8_t* q) {
    total = _mm512_dpbusd_epi32(total, codes.low, _mm512_loadu_si512(q));
    total = _mm512_dpbusd_epi32(total, codes.high, _mm512_loadu_si512(q + 64));
  }

  static TRITIUM_INLINE void add_chunk(Sum& total, __m512i codes, const int8_t* q) {
    const __m256i input = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    total = _mm512_dpbusd_epi32(total, codes, _mm512_zextsi256_si512(input));
  }

  static TRITIUM_INLINE __m512i add_halves(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
  }

  static TRITIUM_INLINE NativeInt reduce(const Sum* total) {
    const auto two = [](__m512i a, __m512i b) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const auto four = [&](int i) {
      const __m512i a = two(total[i], total[i + 1]), b = two(total[i + 2], total[i + 3]);
      return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    };
    return (NativeInt)add_halves(add_halves(four(0), four(4)), add_halves(four(8), four(12)));
  }
};

}  // namespace

const KernelTable kAvx512Table = make_table<Avx512>("avx512_vnni");

}  // namespace tritium
