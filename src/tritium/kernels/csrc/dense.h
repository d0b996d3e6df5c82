// Dense matrices: tiles of weight rows by activation columns, summed in sixteen lanes each.
#pragma once

#include <algorithm>

#include "vector.h"

namespace tritium {
namespace {

// Sums of so many rows and columns go on together, over inputs that stay in the near caches meanwhile.
constexpr int64_t kDenseRowBlock = 16, kDenseColumnBlock = 24, kDenseInputBlock = 1024;

// Sixteen products for each sum of a tile, a register of lanes at a time: both sides are read once.
template <int Rows, int Columns, typename Weight>
TRITIUM_INLINE void add_sixteen(const float* x, int64_t x_apart, const Weight* weight, int64_t weight_apart,
                                Lanes (&total)[Rows][Columns]) {
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
    NativeFloat values[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) values[r] = load_part(weight + r * weight_apart + part * kWidth);
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) {
      const NativeFloat input = load_part(x + c * x_apart + part * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) total[r][c].part[part] += input * values[r];
    }
  }
}

// Adds the products of inputs [begin, end) to `sums`, kDenseColumnBlock to a row.
template <int Rows, int Columns, typename Weight>
TRITIUM_INLINE void add_tile(const float* x, const Weight* weight, int64_t count, int64_t begin, int64_t end,
                             Lanes* sums) {
  Lanes total[Rows][Columns];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) total[r][c] = sums[r * kDenseColumnBlock + c];
  }
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) add_sixteen(x + i, count, weight + i, count, total);
  if (i < end) {
    float inputs[Columns][kLanes] = {};
    Weight values[Rows][kLanes] = {};
    for (int c = 0; c < Columns; ++c) std::copy_n(x + c * count + i, end - i, inputs[c]);
    for (int r = 0; r < Rows; ++r) std::copy_n(weight + r * count + i, end - i, values[r]);
    add_sixteen(inputs[0], kLanes, values[0], kLanes, total);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) sums[r * kDenseColumnBlock + c] = total[r][c];
  }
}

template <int Rows, typename Weight>
void add_tiles(const float* x, int64_t columns, const Weight* weight, int64_t count, int64_t begin,
               int64_t end, Lanes* sums) {
  constexpr int kColumns = kWidth == 16 ? 4 : kWidth == 8 ? 3 : 2;
  int64_t c = 0;
  for (; c + kColumns <= columns; c += kColumns) {
    add_tile<Rows, kColumns>(x + c * count, weight, count, begin, end, sums + c);
  }
  for (; c < columns; ++c) add_tile<Rows, 1>(x + c * count, weight, count, begin, end, sums + c);
}

template <typename Weight>
void dense_block(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t block_rows,
                 int64_t rows, float* out) {
  constexpr int kRows = kWidth == 16 ? 4 : kWidth == 8 ? 2 : 1;
  Lanes sums[kDenseRowBlock * kDenseColumnBlock];
  for (int64_t r = 0; r < block_rows; ++r)
    std::fill_n(sums + r * kDenseColumnBlock, columns, broadcast(0.0f));
  // Of one column alone all inputs stay there: the weight is read from end to end.
  const int64_t step = columns > 1 ? kDenseInputBlock : count;
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t end = std::min(begin + step, count);
    int64_t r = 0;
    for (; r + kRows <= block_rows; r += kRows) {
      add_tiles<kRows>(x, columns, weight + r * count, count, begin, end, sums + r * kDenseColumnBlock);
    }
    for (; r < block_rows; ++r) {
      add_tiles<1>(x, columns, weight + r * count, count, begin, end, sums + r * kDenseColumnBlock);
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < block_rows; ++r) out[c * rows + r] = sum(sums[r * kDenseColumnBlock + c]);
  }
}

template <typename Weight>
void dense_rows(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t rows,
                int64_t begin, int64_t end, float* out) {
  for (int64_t c = 0; c < columns; c += kDenseColumnBlock) {
    for (int64_t r = begin; r < end; r += kDenseRowBlock) {
      dense_block(x + c * count, std::min(kDenseColumnBlock, columns - c), count, weight + r * count,
                  std::min(kDenseRowBlock, end - r), rows, out + c * rows + r);
    }
  }
}

}  // namespace
}  // namespace tritium
