// Dense matrices: tiles of weight rows by activation columns, summed in sixteen lanes each.
#pragma once

#include <algorithm>

#include "vector.h"

namespace tritium {
namespace {

// Sums of so many rows and columns go on together, over inputs that stay in the near caches meanwhile.
constexpr int64_t kDenseColumnBlock = 24;
constexpr int64_t kDenseInputBlock = 1024;
// Registers of eight lanes need their inputs from the nearest cache. There many columns are copied: where
// they lie, kilobytes apart and across its lines, they can drive one another out of it.
constexpr bool kMayCopy = kWidth == 8;
constexpr int64_t kWorthCopying = 12;
constexpr int64_t kCopiedInputs = 256;
constexpr int64_t kDenseRowBlock = kMayCopy ? 64 : 16;
// Rows that are multiplied with all columns before the next ones are read from far away.
constexpr int64_t kDenseRowsTogether = kMayCopy ? kDenseRowBlock : int64_t{1} << 62;

// Sixteen products for each sum of a tile, a register of lanes at a time: both sides are read once.
template <int Rows, int Columns, typename Weight>
TRITIUM_INLINE void add_sixteen(const float* x, int64_t x_apart, const Weight* weight, int64_t weight_apart,
                                Lanes (&total)[Rows][Columns]) {
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    NativeFloat values[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      NativeFloat value = load_part(weight + r * weight_apart + part * kWidth);
      keep_in_register(value);
      values[r] = value;
    }
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) {
      NativeFloat input = load_part(x + c * x_apart + part * kWidth);
      keep_in_register(input);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) total[r][c].part[part] += input * values[r];
    }
  }
}

// Adds the products of `inputs` inputs to `sums`, kDenseColumnBlock to a row.
template <int Rows, int Columns, typename Weight>
TRITIUM_INLINE void add_tile(const float* x, int64_t x_apart, const Weight* weight, int64_t weight_apart,
                             int64_t inputs, Lanes* sums) {
  Lanes total[Rows][Columns];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) total[r][c] = sums[r * kDenseColumnBlock + c];
  }
  int64_t i = 0;
  for (; i + kLanes <= inputs; i += kLanes) add_sixteen(x + i, x_apart, weight + i, weight_apart, total);
  if (i < inputs) {
    float last[Columns][kLanes] = {};
    Weight values[Rows][kLanes] = {};
    for (int c = 0; c < Columns; ++c) std::copy_n(x + c * x_apart + i, inputs - i, last[c]);
    for (int r = 0; r < Rows; ++r) std::copy_n(weight + r * weight_apart + i, inputs - i, values[r]);
    add_sixteen(last[0], kLanes, values[0], kLanes, total);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) sums[r * kDenseColumnBlock + c] = total[r][c];
  }
}

template <int Rows, typename Weight>
void add_tiles(const float* x, int64_t x_apart, int64_t columns, const Weight* weight, int64_t weight_apart,
               int64_t inputs, Lanes* sums) {
  constexpr int kColumns = kWidth == 16 ? 4 : kWidth == 8 ? 3 : 2;
  int64_t c = 0;
  for (; c + kColumns <= columns; c += kColumns) {
    add_tile<Rows, kColumns>(x + c * x_apart, x_apart, weight, weight_apart, inputs, sums + c);
  }
  for (; c < columns; ++c)
    add_tile<Rows, 1>(x + c * x_apart, x_apart, weight, weight_apart, inputs, sums + c);
}

template <typename Element>
TRITIUM_INLINE void copy_floats(const Element* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store_some(to + i, load_tail(from + i, count - i), count - i);
}

// The same sums from copies: of all columns for some inputs, and of a few rows of the weight at a time.
template <int Rows, typename Weight>
void add_from_copies(const float* x, int64_t columns, const Weight* weight, int64_t block_rows, int64_t count,
                     Lanes* sums) {
  alignas(64) float near[kDenseColumnBlock * kCopiedInputs], values[Rows * kCopiedInputs];
  for (int64_t begin = 0; begin < count; begin += kCopiedInputs) {
    const int64_t inputs = std::min(kCopiedInputs, count - begin);
    for (int64_t c = 0; c < columns; ++c)
      copy_floats(x + c * count + begin, inputs, near + c * kCopiedInputs);
    for (int64_t r = 0; r < block_rows; r += Rows) {
      const int64_t rows = std::min<int64_t>(Rows, block_rows - r);
      for (int64_t i = 0; i < rows; ++i)
        copy_floats(weight + (r + i) * count + begin, inputs, values + i * kCopiedInputs);
      Lanes* to = sums + r * kDenseColumnBlock;
      if (rows == Rows) {
        add_tiles<Rows>(near, kCopiedInputs, columns, values, kCopiedInputs, inputs, to);
      } else {
        for (int64_t i = 0; i < rows; ++i)
          add_tiles<1>(near, kCopiedInputs, columns, values + i * kCopiedInputs, kCopiedInputs, inputs,
                       to + i * kDenseColumnBlock);
      }
    }
  }
}

template <int Rows, typename Weight>
void add_in_place(const float* x, int64_t columns, const Weight* weight, int64_t block_rows, int64_t count,
                  Lanes* sums) {
  // Of one column alone all inputs stay there: the weight is read from end to end.
  const int64_t step = columns > 1 ? kDenseInputBlock : count;
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t inputs = std::min(step, count - begin);
    int64_t r = 0;
    for (; r + Rows <= block_rows; r += Rows) {
      add_tiles<Rows>(x + begin, count, columns, weight + r * count + begin, count, inputs,
                      sums + r * kDenseColumnBlock);
    }
    for (; r < block_rows; ++r) {
      add_tiles<1>(x + begin, count, columns, weight + r * count + begin, count, inputs,
                   sums + r * kDenseColumnBlock);
    }
  }
}

template <typename Weight>
void dense_block(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t block_rows,
                 int64_t rows, float* out) {
  constexpr int kRows = kWidth == 16 ? 4 : kWidth == 8 ? 2 : 1;
  Lanes sums[kDenseRowBlock * kDenseColumnBlock];
  for (int64_t r = 0; r < block_rows; ++r)
    std::fill_n(sums + r * kDenseColumnBlock, columns, broadcast(0.0f));
  if (kMayCopy && columns >= kWorthCopying) {
    add_from_copies<kRows>(x, columns, weight, block_rows, count, sums);
  } else {
    add_in_place<kRows>(x, columns, weight, block_rows, count, sums);
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < block_rows; ++r) out[c * rows + r] = sum(sums[r * kDenseColumnBlock + c]);
  }
}

template <typename Weight>
void dense_rows(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t rows,
                int64_t begin, int64_t end, float* out) {
  for (int64_t first = begin; first < end;) {
    const int64_t last = std::min(end - first, kDenseRowsTogether) + first;
    for (int64_t c = 0; c < columns; c += kDenseColumnBlock) {
      for (int64_t r = first; r < last; r += kDenseRowBlock) {
        dense_block(x + c * count, std::min(kDenseColumnBlock, columns - c), count, weight + r * count,
                    std::min(kDenseRowBlock, last - r), rows, out + c * rows + r);
      }
    }
    first = last;
  }
}

}  // namespace
}  // namespace tritium
