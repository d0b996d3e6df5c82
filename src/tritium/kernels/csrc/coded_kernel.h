// Coded weights times int8 activations: see coded.h for the layout. A group of codes is unpacked once for all
// columns; its exact integer sums are turned to floats, scaled and added, groups in rising order.
#pragma once

#include "coded.h"
#include "coded_set.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int64_t kCodedAhead = 8192;  // bytes that are asked for before they are needed
constexpr int64_t kCodedColumns = 32;  // columns whose sums stay in the first-level cache

// From rows [begin, end) of q, `stride` apart, to their places among `columns` in the order the kernel reads.
void arrange_coded(const CodedInputs& inputs, int64_t begin, int64_t end, int8_t* arranged,
                   int32_t* corrections) {
  for (int64_t group = 0; group < inputs.groups; ++group) {
    for (int64_t column = begin; column < end; ++column) {
      const int8_t* from = inputs.q + column * inputs.stride + group * kCodedGroup;
      const int64_t place = group * inputs.columns + column;
      std::memcpy(arranged + place * kCodedGroup, from, kCodedGroup);
      int32_t sum = 0;
      for (int64_t i = 0; i < kCodedGroup; ++i) sum += from[i];
      corrections[place] = -code_of_zero_weight(inputs.bits) * sum;
    }
  }
}

// One group of a tile, added to the total of each column.
template <int Bits>
TRITIUM_INLINE void add_coded_group(const uint8_t* lines, const uint8_t* scales, const int8_t* q,
                                    const int32_t* corrections, int64_t columns, Lanes* totals) {
  const CodedUnits codes = unpack_coded<Bits>(lines);
  const Lanes scale = load(reinterpret_cast<const uint16_t*>(scales));
  for (int64_t column = 0; column < columns; ++column, q += kCodedGroup) {
    const CodedSums sums = multiply_coded<Bits>(codes, q, corrections[column]);
    totals[column] = totals[column] + each([&](int i) {
                       return __builtin_convertvector(sums.part[i], NativeFloat) * scale.part[i];
                     });
  }
}

// One tile for columns [first, last).
template <int Bits>
void run_coded_tile(const CodedView& weight, const CodedActivations& activations, int64_t tile, int64_t first,
                    int64_t last, float* out) {
  constexpr int64_t kGroupBytes = coded_group_bytes(Bits), kBlockBytes = coded_block_bytes(Bits);
  const int64_t columns = last - first, row = tile * kCodedRows;
  Lanes totals[kCodedColumns];
  for (int64_t column = 0; column < columns; ++column) totals[column] = broadcast(0.0f);
  // Each column's outputs are a cache line of its own, which its owner is asked for in time.
  for (int64_t column = 0; column < columns; ++column)
    __builtin_prefetch(out + (first + column) * weight.rows + row, 1);
  const uint8_t* block = weight.tiles + tile * weight.blocks * kBlockBytes;
  const int8_t* q = activations.q + first * kCodedGroup;
  const int32_t* corrections = activations.corrections + first;
  for (int64_t i = 0; i < weight.blocks; ++i, block += kBlockBytes) {
    for (int64_t line = 0; line < kBlockBytes; line += kCodedLine)
      __builtin_prefetch(block + kCodedAhead + line);
    const uint8_t* scales = block + kCodedGroups * kGroupBytes;
#pragma GCC unroll 2
    for (int64_t group = 0; group < kCodedGroups; ++group) {
      add_coded_group<Bits>(block + group * kGroupBytes, scales + 2 * group * kCodedRows, q, corrections,
                            columns, totals);
      q += activations.columns * kCodedGroup;
      corrections += activations.columns;
    }
  }
  for (int64_t column = 0; column < columns; ++column) {
    const Lanes scale = broadcast(activations.scale[first + column]);
    store_some(out + (first + column) * weight.rows + row, totals[column] / scale, weight.rows - row);
  }
}

// Tile after tile, so that memory is read in one stream.
template <int Bits>
void coded_tiles_of(const CodedView& weight, const CodedActivations& activations, int64_t begin, int64_t end,
                    float* out) {
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t first = 0; first < activations.columns; first += kCodedColumns) {
      const int64_t last =
          first + kCodedColumns < activations.columns ? first + kCodedColumns : activations.columns;
      run_coded_tile<Bits>(weight, activations, tile, first, last, out);
    }
  }
}

// Tiles [begin, end) of the weight for all columns; `out` is [columns, rows].
void coded_tiles(const CodedView& weight, const CodedActivations& activations, int64_t begin, int64_t end,
                 float* out) {
  if (weight.bits == 6) {
    coded_tiles_of<6>(weight, activations, begin, end, out);
  } else {
    coded_tiles_of<8>(weight, activations, begin, end, out);
  }
}

}  // namespace
}  // namespace tritium
