// Sums of products of two sets of inputs over their rows: out += first' x second, as quantize/inputs.py
// needs.
//
// Each column is rounded to whole multiples of a power of two of its own, at most 2047 of them, so that the
// sum over a chunk of rows is an exact 32-bit integer in whatever order it was added up; as floats, chunk
// after chunk, such sums join `out`. The bits depend on neither threads nor instruction set.
#pragma once

#include <algorithm>

#include "integer_pairs.h"
#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kGramBits = 11;
constexpr int32_t kGramLargest = (1 << kGramBits) - 1;
static_assert(int64_t{kGramLargest} * kGramLargest * kGramRows < int64_t{1} << 31);
constexpr int32_t kSmallestExponent = 27;  // a column that stays below 2^-100 counts as zero
constexpr int64_t kGramBlocks = 8;         // of rows, whose pairs stay in the second-level cache

// The column's numbers of what they are multiples of, where `largest` is its largest magnitude.
TRITIUM_INLINE void find_units(const Lanes& largest, Lanes& per_unit, Lanes& unit) {
  for (int i = 0; i < kParts; ++i) {
    const NativeInt exponent =
        (NativeInt)largest.part[i] >> 23;  // 126 more than that of the next power of two
    const NativeInt is_zero = exponent < kSmallestExponent;
    per_unit.part[i] = (NativeFloat)(((126 + 127 + kGramBits - exponent) << 23) & ~is_zero);
    unit.part[i] = (NativeFloat)(((exponent + 1 - kGramBits) << 23) & ~is_zero);
  }
}

TRITIUM_INLINE NativeInt whole_number(NativeFloat multiples) {
  const NativeFloat magic = NativeFloat{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer
  const NativeInt whole = (NativeInt)(multiples + magic) - (NativeInt)magic;
  const NativeInt bounded = whole > kGramLargest ? NativeInt{} + kGramLargest : whole;
  return bounded < -kGramLargest ? NativeInt{} - kGramLargest : bounded;
}

// Blocks [begin, end) of sixteen columns become pairs of rows.
void pair_rows(const PairTask& task, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kLanes, left = task.columns - first;
    const auto row = [&](int64_t index) {
      return index < task.rows ? load_some(task.values + index * task.columns + first, left)
                               : broadcast(0.0f);
    };
    Lanes largest = broadcast(0.0f), per_unit, unit;
    for (int64_t index = 0; index < task.rows; ++index) largest = larger(absolute(row(index)), largest);
    find_units(largest, per_unit, unit);
    store(task.units + first, unit);
    int16_t* to = task.pairs + block * task.count * 2 * kLanes;
    for (int64_t pair = 0; pair < task.count; ++pair, to += 2 * kLanes) {
      const Lanes even = row(2 * pair) * per_unit, odd = row(2 * pair + 1) * per_unit;
      IntLanes both;
      for (int i = 0; i < kParts; ++i) {
        both.part[i] = (whole_number(even.part[i]) & 0xffff) | whole_number(odd.part[i]) << 16;
      }
      std::memcpy(to, both.part, sizeof(both.part));
    }
  }
}

// Rows [row, row + Rows) of `out`, Blocks x 16 columns from block `block` on.
template <int Rows, int Blocks>
TRITIUM_INLINE void gram_tile(const GramTask& task, int64_t row, int64_t block) {
  constexpr int64_t kPair = 2 * kLanes;
  const int16_t* first = task.first + row / kLanes * task.pairs * kPair + row % kLanes * 2;
  const int16_t* second = task.second + block * task.pairs * kPair;
  // Outputs lie a row of them apart, where nothing else fetches them in time.
  for (int r = 0; r < Rows && row + r < task.rows; ++r) {
    for (int b = 0; b < Blocks; ++b)
      __builtin_prefetch(task.out + (row + r) * task.columns + (block + b) * kLanes, 1);
  }
  IntLanes total[Rows][Blocks] = {};
  for (int64_t pair = 0; pair < task.pairs; ++pair, first += kPair, second += kPair) {
    Pairs columns[Blocks];
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) columns[b] = load_pairs(second + b * task.pairs * kPair);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Pairs value = broadcast_pair(first + 2 * r);
#pragma GCC unroll 2
      for (int b = 0; b < Blocks; ++b) add_products(total[r][b], value, columns[b]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    if (row + r >= task.rows) break;
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) {
      const int64_t column = (block + b) * kLanes, left = task.columns - column;
      if (left <= 0) continue;
      float* out = task.out + (row + r) * task.columns + column;
      const Lanes sums = to_float(total[r][b]) * broadcast(task.first_units[row + r]);
      store_some(out, load_some(out, left) + sums * load(task.second_units + column), left);
    }
  }
}

// Blocks x 16 columns of `out` from block `block` on, rows in blocks [begin, end) of sixteen.
template <int Blocks>
void gram_columns(const GramTask& task, int64_t begin, int64_t end, int64_t block) {
  constexpr int kRows = kWidth == 16 ? 8 : kWidth == 8 ? 4 : 2;
  const int64_t last = std::min(end * kLanes, task.rows);
  for (int64_t row = begin * kLanes; row < last; row += kRows) gram_tile<kRows, Blocks>(task, row, block);
}

void add_gram_rows(const GramTask& task, int64_t begin, int64_t end) {
  constexpr int kBlocks = kWidth == 16 ? 2 : 1;
  const int64_t blocks = (task.columns + kLanes - 1) / kLanes;
  int64_t block = 0;
  const auto run = [&](int64_t first, int64_t last, int64_t block_end) {
    for (; block + kBlocks <= block_end; block += kBlocks) gram_columns<kBlocks>(task, first, last, block);
    for (; block < block_end; ++block) gram_columns<1>(task, first, last, block);
  };
  if (task.is_symmetric) {
    for (int64_t row = begin; row < end; ++row) {
      block = row;
      run(row, row + 1, end);
    }
  }
  run(begin, end, blocks);
}

// Rows of `out` in blocks [begin, end) of sixteen; of a symmetric one what lies on and right of the diagonal.
void add_gram(const GramTask& task, int64_t begin, int64_t end) {
  for (; begin < end; begin += kGramBlocks) add_gram_rows(task, begin, std::min(begin + kGramBlocks, end));
}

}  // namespace
}  // namespace tritium
