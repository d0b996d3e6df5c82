// Dense matrices: a tile of weight rows by activation columns, summed in sixteen lanes each.
#pragma once

#include "vector.h"

namespace tritium {
namespace {

constexpr int64_t kDenseColumnBlock = 32;  // columns whose activations stay in the second-level cache

template <int Rows, int Columns, typename Weight>
TRITIUM_INLINE void dense_tile(const float* x, int64_t count, const Weight* weight, int64_t rows,
                               float* out) {
  Lanes total[Rows][Columns];
  for (auto& row : total) {
    for (Lanes& one : row) one = broadcast(0.0f);
  }
  const auto step = [&](int64_t i, auto read) {
    Lanes inputs[Columns];
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) inputs[c] = read(x + c * count + i);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Lanes value = read(weight + r * count + i);
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c) total[r][c] = total[r][c] + inputs[c] * value;
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, [](const auto* from) { return load(from); });
  if (i < count) step(i, [&](const auto* from) { return load_tail(from, count - i); });
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Columns; ++c) out[c * rows + r] = sum(total[r][c]);
  }
}

template <int Rows, typename Weight>
void dense_row_tile(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t rows,
                    float* out) {
  constexpr int kColumns = kWidth == 16 ? 4 : 2;
  int64_t c = 0;
  for (; c + kColumns <= columns; c += kColumns) {
    dense_tile<Rows, kColumns>(x + c * count, count, weight, rows, out + c * rows);
  }
  for (; c < columns; ++c) dense_tile<Rows, 1>(x + c * count, count, weight, rows, out + c * rows);
}

template <typename Weight>
void dense_rows(const float* x, int64_t columns, int64_t count, const Weight* weight, int64_t rows,
                int64_t begin, int64_t end, float* out) {
  constexpr int kRows = kWidth == 16 ? 4 : kWidth == 8 ? 2 : 1;
  for (int64_t c = 0; c < columns; c += kDenseColumnBlock) {
    const int64_t block = columns - c < kDenseColumnBlock ? columns - c : kDenseColumnBlock;
    const float* inputs = x + c * count;
    float* outputs = out + c * rows;
    int64_t r = begin;
    for (; r + kRows <= end; r += kRows) {
      dense_row_tile<kRows>(inputs, block, count, weight + r * count, rows, outputs + r);
    }
    for (; r < end; ++r) dense_row_tile<1>(inputs, block, count, weight + r * count, rows, outputs + r);
  }
}

}  // namespace
}  // namespace tritium
