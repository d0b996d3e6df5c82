// Ternary weights times int8 activations. The planes of a weight are joined to one unsigned code per weight
// (0..2, 0..8 or 0..26), so that one multiply-add serves them all; the offset of the codes is taken back by
// the sum of the activations. Each weight is unpacked once for all columns of a tile.
//
// `Set` is the instruction set: see scalar.cpp, avx2.cpp and avx512.cpp for the six operations it offers.
#pragma once

#include <utility>

#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int64_t kBlockBytes = 32;
constexpr int64_t kBlock = 128;
constexpr int64_t kChunk = 32;
constexpr std::make_integer_sequence<int, kWidth> kAllLanes;
constexpr int64_t kColumnBlock = 32;  // columns whose activations stay in the second-level cache

// The code of weight 0, which is what every code is too large by: 1, 4 or 13.
constexpr int32_t code_of_zero(int planes) {
  return planes == 1 ? 1 : planes == 2 ? 4 : 13;
}

// The sum of each group of one row of q, written `stride` apart.
void sum_groups(const int8_t* q, int64_t chunks, int64_t group_chunks, int64_t stride, int32_t* sums) {
  for (int64_t begin = 0; begin < chunks; begin += group_chunks, sums += stride) {
    const int64_t end = begin + group_chunks < chunks ? begin + group_chunks : chunks;
    int32_t total = 0;
    for (int64_t i = begin * kChunk; i < end * kChunk; ++i) total += q[i];
    *sums = total;
  }
}

// One register of sums: kWidth / Columns weight rows by `Columns` activation columns, sum (r, c) in lane
// r * Columns + c. Every set offers exactly as many sums as fit one register.
template <typename Set, int Planes, int Columns>
struct Tile {
  static constexpr int kColumns = Columns;
  static constexpr int kRows = kWidth / Columns;

  const TernaryView& weight;
  const ActivationView& activations;
  const uint8_t* row_bytes[kRows];
  const float* row_scales[kRows];
  const int8_t* column_q[Columns];
  int64_t plane_stride;
  int64_t first_row;
  int64_t first_column;
  int64_t rows;  // of this tile that exist; the others repeat the last one and are thrown away

  TRITIUM_INLINE Tile(const TernaryView& w, const ActivationView& a, int64_t row, int64_t end, int64_t column)
      : weight(w),
        activations(a),
        plane_stride(w.rows * w.blocks * kBlockBytes),
        first_row(row),
        first_column(column),
        rows(end - row < kRows ? end - row : kRows) {
    for (int r = 0; r < kRows; ++r) {
      const int64_t existing = row + (r < rows ? r : rows - 1);
      row_bytes[r] = w.planes + existing * w.blocks * kBlockBytes;
      row_scales[r] = w.scales + (w.scale_rows == 1 ? 0 : existing * w.groups);
    }
    for (int c = 0; c < Columns; ++c) column_q[c] = a.q + (column + c) * w.blocks * kBlock;
  }

  // The exact sums of a group: products with the codes, less the offset of the codes times the activations'
  // sum.
  TRITIUM_INLINE NativeInt sum_group(int64_t group) const {
    const int64_t begin = group * weight.group_chunks;
    const int64_t last = weight.blocks * 4;
    const int64_t end = begin + weight.group_chunks < last ? begin + weight.group_chunks : last;
    typename Set::Sum total[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) total[i] = Set::zero();
    if (weight.group_chunks % 4 == 0) {
      for (int64_t block = begin / 4; block < end / 4; ++block) add_block(block, total);
    } else {
      for (int64_t chunk = begin; chunk < end; ++chunk) add_chunk(chunk, total);
    }
    const int32_t* sums = activations.sums + group * activations.columns + first_column;
    return Set::reduce(total) - spread_columns(sums, kAllLanes) * code_of_zero(Planes);
  }

  TRITIUM_INLINE void add_block(int64_t block, typename Set::Sum* total) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if constexpr (Planes == 1 || Columns == 1) prefetch_next_tile(row_bytes[r] + block * kBlockBytes);
      const auto codes = Set::template unpack_block<Planes>(row_bytes[r] + block * kBlockBytes, plane_stride);
#pragma GCC unroll 16
      for (int c = 0; c < Columns; ++c) {
        Set::add_block(total[r * Columns + c], codes, column_q[c] + block * kBlock);
      }
    }
  }

  // Few columns wait for memory: ask for the same place of the rows that come next.
  TRITIUM_INLINE void prefetch_next_tile(const uint8_t* bytes) const {
    const uintptr_t next =
        reinterpret_cast<uintptr_t>(bytes) + static_cast<uintptr_t>(kRows * weight.blocks * kBlockBytes);
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane)
      __builtin_prefetch(reinterpret_cast<const void*>(next + static_cast<uintptr_t>(plane * plane_stride)));
  }

  TRITIUM_INLINE void add_chunk(int64_t chunk, typename Set::Sum* total) const {
    const int64_t byte = chunk / 4 * kBlockBytes;
    const int shift = static_cast<int>(chunk % 4) * 2;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto codes = Set::template unpack_chunk<Planes>(row_bytes[r] + byte, plane_stride, shift);
#pragma GCC unroll 16
      for (int c = 0; c < Columns; ++c) {
        Set::add_chunk(total[r * Columns + c], codes, column_q[c] + chunk * kChunk);
      }
    }
  }

  // Lane r * Columns + c takes values[c].
  template <int... Lane>
  TRITIUM_INLINE NativeInt spread_columns(const int32_t* values, std::integer_sequence<int, Lane...>) const {
    return NativeInt{values[Lane % Columns]...};
  }

  // Lane r * Columns + c takes the scale of row r in this group.
  template <int... Lane>
  TRITIUM_INLINE NativeFloat spread_scales(int64_t group, std::integer_sequence<int, Lane...>) const {
    return NativeFloat{row_scales[Lane / Columns][group]...};
  }

  // Groups in rising order, multiply then add, one division by the activations' scale at the end.
  TRITIUM_INLINE void finish(float* out) const {
    NativeFloat total = {};
    if (weight.divides) {
      total = __builtin_convertvector(sum_group(0), NativeFloat);
    } else if (weight.scale_rows == 1) {
      for (int64_t group = 0; group < weight.groups; ++group) {
        total = total + __builtin_convertvector(sum_group(group), NativeFloat) * row_scales[0][group];
      }
    } else {
      for (int64_t group = 0; group < weight.groups; ++group) {
        const NativeFloat scales = spread_scales(group, kAllLanes);
        total = total + __builtin_convertvector(sum_group(group), NativeFloat) * scales;
      }
    }
    for (int c = 0; c < Columns; ++c) {
      const float input_scale = activations.scale[first_column + c];
      float* column = out + (first_column + c) * weight.rows + first_row;
      for (int64_t r = 0; r < rows; ++r) {
        column[r] = total[r * Columns + c] / (weight.divides ? row_scales[r][0] * input_scale : input_scale);
      }
    }
  }

  TRITIUM_INLINE void finish(int32_t* out) const {
    for (int64_t group = 0; group < weight.groups; ++group) {
      const NativeInt sums = sum_group(group);
      for (int c = 0; c < Columns; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          out[((first_column + c) * weight.rows + first_row + r) * weight.groups + group] =
              sums[r * Columns + c];
        }
      }
    }
  }
};

template <typename Set, int Planes, int Columns, typename Out>
void run_columns(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                 int64_t& column, int64_t last, Out* out) {
  using Shape = Tile<Set, Planes, Columns>;
  for (; column + Columns <= last; column += Columns) {
    for (int64_t row = begin; row < end; row += Shape::kRows) {
      Shape(weight, activations, row, end, column).finish(out);
    }
  }
}

template <typename Set, int Planes, typename Out>
void run_planes(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                Out* out) {
  constexpr int64_t kRowBlock = kWidth;  // weight rows that stay in the first-level cache for all columns
  for (int64_t first = 0; first < activations.columns; first += kColumnBlock) {
    const int64_t last =
        first + kColumnBlock < activations.columns ? first + kColumnBlock : activations.columns;
    for (int64_t row = begin; row < end; row += kRowBlock) {
      const int64_t row_end = row + kRowBlock < end ? row + kRowBlock : end;
      int64_t column = first;
      if constexpr (kWidth >= 16) {
        run_columns<Set, Planes, 4>(weight, activations, row, row_end, column, last, out);
      }
      run_columns<Set, Planes, 2>(weight, activations, row, row_end, column, last, out);
      run_columns<Set, Planes, 1>(weight, activations, row, row_end, column, last, out);
    }
  }
}

template <typename Set, typename Out>
void ternary_rows(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                  Out* out) {
  switch (weight.plane_count) {
    case 1:
      return run_planes<Set, 1>(weight, activations, begin, end, out);
    case 2:
      return run_planes<Set, 2>(weight, activations, begin, end, out);
    default:
      return run_planes<Set, 3>(weight, activations, begin, end, out);
  }
}

}  // namespace
}  // namespace tritium
