// NEON with dot products of bytes (sdot) and, where the processor has them, products of matrices (smmla): two
// rows times two columns, eight inputs deep. Sixteen rows are four registers of four sums. Codes are at most
// 26: signed bytes as they stand, and no sum of products can leave 32 bits on the way.
#pragma once

#include <arm_neon.h>

#include "make_table.h"

namespace tritium {
namespace {

template <bool MultipliesMatrices>
struct Neon {
  static constexpr int kTritsPerByte = 4;
  static constexpr int kMostColumns = 4;
  static constexpr int kQuarters = 4;

  struct Sum {
    int32x4_t quarter[kQuarters];  // rows 0 to 3, 4 to 7, ...
  };
  struct Codes {
    int8x16_t quarter[kQuarters];
  };
  template <int Planes>
  struct Unit {
    uint8x16_t packed[Planes][kQuarters];
  };

  // Enough sums at once to hide the multiply-add's latency, few enough to stay in registers.
  static constexpr int tiles_at_once(int, int columns) { return columns == 1 ? 2 : 1; }

  // All lanes start from factor x total.
  static TRITIUM_INLINE Sum start(int32_t factor, int32_t total) {
    const int32x4_t value = vdupq_n_s32(factor * total);
    return {{value, value, value, value}};
  }

  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> load(const uint8_t* bytes, int64_t plane_bytes) {
    Unit<Planes> unit;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
#pragma GCC unroll 4
      for (int i = 0; i < kQuarters; ++i)
        unit.packed[plane][i] = vld1q_u8(bytes + plane * plane_bytes + i * 16);
    }
    return unit;
  }

  template <int Planes>
  static TRITIUM_INLINE Codes digit(const Unit<Planes>& unit, int index) {
    Codes codes;
#pragma GCC unroll 4
    for (int i = 0; i < kQuarters; ++i) {
      uint8x16_t code = trit(unit.packed[0][i], index);
#pragma GCC unroll 2
      for (int plane = 1; plane < Planes; ++plane) {
        code = vmlaq_u8(trit(unit.packed[plane][i], index), code, vdupq_n_u8(3));
      }
      codes.quarter[i] = vreinterpretq_s8_u8(code);
    }
    return codes;
  }

  static TRITIUM_INLINE uint8x16_t trit(uint8x16_t packed, int index) {
    const int8x16_t right = vdupq_n_s8(static_cast<int8_t>(-2 * index));
    return vandq_u8(vshlq_u8(packed, right), vdupq_n_u8(3));
  }

  static TRITIUM_INLINE void add(Sum& sum, const Codes& codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, sizeof(four));
    const int8x16_t input = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
    for (int i = 0; i < kQuarters; ++i) sum.quarter[i] = vdotq_s32(sum.quarter[i], codes.quarter[i], input);
  }

  // Digits 0 and 1, then 2 and 3: those outside of [Begin, End) count as zeros in a product of matrices.
  template <int Begin, int End, int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digits(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Sum (&sums)[Tiles][Columns]) {
    constexpr int kPaired = MultipliesMatrices ? Columns / 2 * 2 : 0;
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
#pragma GCC unroll 2
      for (int index = Begin / 2 * 2; index < End; index += 2) {
        const bool has_first = index >= Begin, has_second = index + 1 < End;
        const Codes first = has_first ? digit(units[t], index) : Codes{};
        const Codes second = has_second ? digit(units[t], index + 1) : Codes{};
        const int8_t* inputs = x + index * kQuad;
        if constexpr (MultipliesMatrices) {
#pragma GCC unroll 2
          for (int c = 0; c < kPaired; c += 2) {
            add_pair(sums[t][c], sums[t][c + 1], first, second, inputs + c * stride, stride);
          }
        }
#pragma GCC unroll 4
        for (int c = kPaired; c < Columns; ++c) {
          if (has_first) add(sums[t][c], first, inputs + c * stride);
          if (has_second) add(sums[t][c], second, inputs + c * stride + kQuad);
        }
      }
    }
  }

  // Two joined columns: `low` has the sums of rows 0 to 7, `high` those of rows 8 to 15.
  static TRITIUM_INLINE void add_pair(Sum& low, Sum& high, const Codes& first, const Codes& second,
                                      const int8_t* x, int64_t stride) {
    const int8x16_t inputs = vcombine_s8(vld1_s8(x), vld1_s8(x + stride));
#pragma GCC unroll 4
    for (int i = 0; i < kQuarters; ++i) {
      const int32x4_t left = vreinterpretq_s32_s8(first.quarter[i]);
      const int32x4_t right = vreinterpretq_s32_s8(second.quarter[i]);
      int32x4_t* sum = (i < 2 ? low : high).quarter + i % 2 * 2;
      sum[0] = vmmlaq_s32(sum[0], vreinterpretq_s8_s32(vzip1q_s32(left, right)), inputs);
      sum[1] = vmmlaq_s32(sum[1], vreinterpretq_s8_s32(vzip2q_s32(left, right)), inputs);
    }
  }

  // From columns a and b to registers of a0 b0 a1 b1, as a product of matrices has them, and back.
  template <int Tiles, int Columns>
  static TRITIUM_INLINE void join_columns(Sum (&sums)[Tiles][Columns])
    requires MultipliesMatrices
  {
    for_pairs(sums, [](Sum& a, Sum& b) {
      const Sum low = {{vzip1q_s32(a.quarter[0], b.quarter[0]), vzip2q_s32(a.quarter[0], b.quarter[0]),
                        vzip1q_s32(a.quarter[1], b.quarter[1]), vzip2q_s32(a.quarter[1], b.quarter[1])}};
      b = {{vzip1q_s32(a.quarter[2], b.quarter[2]), vzip2q_s32(a.quarter[2], b.quarter[2]),
            vzip1q_s32(a.quarter[3], b.quarter[3]), vzip2q_s32(a.quarter[3], b.quarter[3])}};
      a = low;
    });
  }

  template <int Tiles, int Columns>
  static TRITIUM_INLINE void part_columns(Sum (&sums)[Tiles][Columns])
    requires MultipliesMatrices
  {
    for_pairs(sums, [](Sum& low, Sum& high) {
      const Sum a = {{vuzp1q_s32(low.quarter[0], low.quarter[1]), vuzp1q_s32(low.quarter[2], low.quarter[3]),
                      vuzp1q_s32(high.quarter[0], high.quarter[1]),
                      vuzp1q_s32(high.quarter[2], high.quarter[3])}};
      high = {{vuzp2q_s32(low.quarter[0], low.quarter[1]), vuzp2q_s32(low.quarter[2], low.quarter[3]),
               vuzp2q_s32(high.quarter[0], high.quarter[1]), vuzp2q_s32(high.quarter[2], high.quarter[3])}};
      low = a;
    });
  }

  template <int Tiles, int Columns, typename Operation>
  static TRITIUM_INLINE void for_pairs(Sum (&sums)[Tiles][Columns], Operation operation) {
#pragma GCC unroll 2
    for (auto& tile : sums) {
#pragma GCC unroll 2
      for (int c = 0; c + 1 < Columns; c += 2) operation(tile[c], tile[c + 1]);
    }
  }

  static TRITIUM_INLINE Integers integers(const Sum& sum) {
    return {{(NativeInt)sum.quarter[0], (NativeInt)sum.quarter[1], (NativeInt)sum.quarter[2],
             (NativeInt)sum.quarter[3]}};
  }
};

}  // namespace
}  // namespace tritium
