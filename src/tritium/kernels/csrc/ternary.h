// Ternary weights times int8 activations. The planes of a weight are joined to one unsigned code per weight
// (0..2, 0..8 or 0..26), so that one multiply-add serves them all; the offset of the codes is taken back by
// the sum of the activations. A unit is unpacked once for all columns of a block. tiles.h draws the layout.
//
// `Set` is the instruction set: see scalar.cpp, avx2.cpp, avx512.h and neon.h for what it offers.
#pragma once

#include "table.h"
#include "ternary_outputs.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int64_t kChunk = 32;
constexpr int64_t kTileBlock = 4;  // tiles that stay in the first-level cache for all columns
constexpr int64_t kFewColumnTiles = 4;
constexpr int64_t kManyColumnTiles = 2;
constexpr int64_t kAhead = 4096;          // bytes, where one tile after the other is one stream
constexpr int64_t kCacheBytes = 400'000;  // of activations that stay in the second-level cache

struct Integers {
  NativeInt part[kParts];
};

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

// The sums of `Tiles` tiles of rows by `Columns` columns of activations, a group at a time.
template <typename Set, int Planes, int Tiles, int Columns>
struct Block {
  static constexpr int64_t kDigits = Set::kTritsPerByte;
  using Unit = typename Set::template Unit<Planes>;
  using Sum = typename Set::Sum;
  struct Sums {
    Sum of[Tiles][Columns];
  };
  static constexpr bool kAddsPlaces = [] {
    if constexpr (requires { Set::adds_places(Planes, Columns); }) return Set::adds_places(Planes, Columns);
    return false;
  }();

  const TernaryView& weight;
  const ActivationView& activations;
  const uint8_t* bytes;
  const int8_t* q;
  int64_t tile_bytes;
  int64_t plane_bytes;
  int64_t prefetch;  // bytes to what is fetched ahead, the first time these tiles are read
  int64_t first_tile;
  int64_t first_column;

  TRITIUM_INLINE Block(const TernaryView& w, const ActivationView& a, int64_t tile, int64_t column)
      : weight(w),
        activations(a),
        bytes(w.planes + tile * w.units * kUnitBytes),
        q(a.q + column * a.stride),
        tile_bytes(w.units * kUnitBytes),
        plane_bytes(w.tiles * tile_bytes),
        prefetch(column > 0   ? 0
                 : Tiles == 1 ? kAhead
                              : Tiles * tile_bytes),
        first_tile(tile),
        first_column(column) {}

  // The exact sums of all inputs.
  TRITIUM_INLINE Sums sum_all() const {
    auto running = begin_sums(0);
    const int64_t units = weight.quads / kDigits;
    add_units(units, running);
    if (units * kDigits < weight.quads) add_first<1>(units, weight.quads - units * kDigits, running);
    return end_sums(running, 0);
  }

  // Units [0, end). Not inlined, so that its loop has the registers for itself.
  template <typename Running>
  __attribute__((noinline)) void add_units(int64_t end, Running& running) const {
    Running local = running;
    for (int64_t unit = 0; unit < end; ++unit) add<0, kDigits>(unit, local);
    running = local;
  }

  // The exact sums of one group, which may begin and end in the midst of a unit.
  TRITIUM_INLINE Sums sum_group(int64_t group) const {
    auto running = begin_sums(group);
    const int64_t begin = group * weight.group_quads;
    const int64_t end = begin + weight.group_quads < weight.quads ? begin + weight.group_quads : weight.quads;
    int64_t unit = begin / kDigits;
    if (begin % kDigits != 0) {
      const int64_t first = unit * kDigits;
      if (end < first + kDigits) {
        Sums sums = end_sums(running, group);
        add_inner(unit, static_cast<int>(begin - first), static_cast<int>(end - first), sums);
        return sums;
      }
      add_last<1>(unit, begin - first, running);
      ++unit;
    }
    for (; (unit + 1) * kDigits <= end; ++unit) add<0, kDigits>(unit, running);
    if (unit * kDigits < end) add_first<1>(unit, end - unit * kDigits, running);
    return end_sums(running, group);
  }

  // What units are added to: the sums, or sums by the place that a digit has in its byte.
  TRITIUM_INLINE auto begin_sums(int64_t group) const {
    if constexpr (kAddsPlaces) {
      return typename Set::template Places<Tiles, Columns>();
    } else {
      Sums sums = start(group);
      if constexpr (requires { Set::join_columns(sums.of); }) Set::join_columns(sums.of);
      return sums;
    }
  }
  template <typename Running>
  TRITIUM_INLINE Sums end_sums(Running& running, int64_t group) const {
    if constexpr (kAddsPlaces) {
      Sums sums = start(group);
      Set::join_places(running, sums.of);
      return sums;
    } else {
      if constexpr (requires { Set::part_columns(running.of); }) Set::part_columns(running.of);
      return running;
    }
  }

  // What takes the codes' offset back: less code_of_zero times the sum of the activations.
  TRITIUM_INLINE Sums start(int64_t group) const {
    Sums sums;
    const int32_t* totals = activations.sums + group * activations.columns + first_column;
#pragma GCC unroll 8
    for (int c = 0; c < Columns; ++c) {
      const Sum start = Set::start(-code_of_zero(Planes), totals[c]);
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) sums.of[t][c] = start;
    }
    return sums;
  }

  // Digits [Begin, End) of a unit: unpacked once for all columns.
  template <int Begin, int End, typename Running>
  TRITIUM_INLINE void add(int64_t unit, Running& running) const {
    Unit units[Tiles];
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) units[t] = load_unit(unit, t);
    if constexpr (kAddsPlaces) {
      Set::template add_places<Begin, End>(units, input(unit), activations.stride, running);
    } else {
      Set::template add_digits<Begin, End, Planes, Tiles, Columns>(units, input(unit), activations.stride,
                                                                   running.of);
    }
  }

  template <int End, typename Running>
  TRITIUM_INLINE void add_first(int64_t unit, int64_t end, Running& running) const {
    if constexpr (End < kDigits) {
      if (end == End) return add<0, End>(unit, running);
      add_first<End + 1>(unit, end, running);
    }
  }

  template <int Begin, typename Running>
  TRITIUM_INLINE void add_last(int64_t unit, int64_t begin, Running& running) const {
    if constexpr (Begin < kDigits) {
      if (begin == Begin) return add<Begin, kDigits>(unit, running);
      add_last<Begin + 1>(unit, begin, running);
    }
  }

  // Rare: the last group has a quad or two, all of one unit.
  TRITIUM_INLINE void add_inner(int64_t unit, int begin, int end, Sums& sums) const {
    for (int index = begin; index < end; ++index) {
#pragma GCC unroll 4
      for (int t = 0; t < Tiles; ++t) {
        const auto codes = Set::template digit<Planes>(load_unit(unit, t), index);
#pragma GCC unroll 8
        for (int c = 0; c < Columns; ++c) {
          Set::add(sums.of[t][c], codes, input(unit) + c * activations.stride + index * kQuad);
        }
      }
    }
  }

  TRITIUM_INLINE const int8_t* input(int64_t unit) const { return q + unit * kDigits * kQuad; }

  TRITIUM_INLINE Unit load_unit(int64_t unit, int tile) const {
    const uint8_t* from = bytes + tile * tile_bytes + unit * kUnitBytes;
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const auto next =
          reinterpret_cast<uintptr_t>(from + plane * plane_bytes) + static_cast<uintptr_t>(prefetch);
      __builtin_prefetch(reinterpret_cast<const void*>(next));
    }
    return Set::template load<Planes>(from, plane_bytes);
  }

  // All inputs share a scale.
  TRITIUM_INLINE void finish(float* out) const {
    fetch_outputs(out);
    Lanes totals[Tiles][Columns];
    scale(sum_all(), 0,
          [&](int t, int c, const Lanes& product) { totals[t][c] = product + broadcast(0.0f); });
    store(totals, out);
  }

  // Groups in rising order, multiply then add.
  __attribute__((noinline)) void finish_groups(float* out) const {
    fetch_outputs(out);
    Lanes totals[Tiles][Columns];
#pragma GCC unroll 2
    for (auto& row : totals) {
#pragma GCC unroll 8
      for (Lanes& total : row) total = broadcast(0.0f);
    }
    for (int64_t group = 0; group < weight.groups; ++group) {
      scale(sum_group(group), group,
            [&](int t, int c, const Lanes& product) { totals[t][c] = totals[t][c] + product; });
    }
    store(totals, out);
  }

  // Outputs lie a row of them apart: each is a cache line of its own, which its owner is asked for in time.
  TRITIUM_INLINE void fetch_outputs(float* out) const {
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c)
        __builtin_prefetch(output_at(weight, first_tile + t, first_column + c, out), 1);
    }
  }

  TRITIUM_INLINE void store(const Lanes (&totals)[Tiles][Columns], float* out) const {
#pragma GCC unroll 2
    for (int t = 0; t < Tiles; ++t) {
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c)
        store_output(weight, activations, first_tile + t, first_column + c, totals[t][c], out);
    }
  }

  // Calls `take(tile, column, sums x scales)`.
  template <typename Take>
  TRITIUM_INLINE void scale(const Sums& sums, int64_t group, Take take) const {
#pragma GCC unroll 4
    for (int t = 0; t < Tiles; ++t) {
      const Lanes scales = factors_of(weight, first_tile + t, group);
#pragma GCC unroll 8
      for (int c = 0; c < Columns; ++c) {
        const Integers whole = Set::integers(sums.of[t][c]);
        take(t, c, each([&](int i) { return __builtin_convertvector(whole.part[i], NativeFloat); }) * scales);
      }
    }
  }

  TRITIUM_INLINE void finish(int32_t* out) const {
    for (int64_t group = 0; group < weight.groups; ++group) {
      const Sums sums = weight.groups == 1 ? sum_all() : sum_group(group);
      for (int t = 0; t < Tiles; ++t) {
        for (int c = 0; c < Columns; ++c) {
          int32_t lanes[kTileRows];
          const Integers whole = Set::integers(sums.of[t][c]);
          std::memcpy(lanes, whole.part, sizeof(lanes));
          int32_t* to =
              out + ((first_column + c) * weight.rows + (first_tile + t) * kTileRows) * weight.groups;
          for (int64_t row = 0; row < rows_of(weight, first_tile + t); ++row)
            to[row * weight.groups + group] = lanes[row];
        }
      }
    }
  }
};

template <typename Set, int Planes, int Columns>
void run_columns(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                 int64_t column, float* out) {
  constexpr int kTiles = Set::tiles_at_once(Planes, Columns);
  int64_t tile = begin;
  const auto run = [&]<int Tiles>() {
    for (; tile + Tiles <= end; tile += Tiles) {
      const Block<Set, Planes, Tiles, Columns> block(weight, activations, tile, column);
      if (weight.groups > 1) {
        block.finish_groups(out);
      } else {
        block.finish(out);
      }
    }
  };
  run.template operator()<kTiles>();
  if constexpr (kTiles > 1) run.template operator()<1>();
}

// Columns [column, column + count) with count <= Columns, by the block made for just so many.
template <typename Set, int Planes, int Columns>
void run_rest(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
              int64_t column, int64_t count, float* out) {
  if constexpr (Columns > 0) {
    if (count == Columns)
      return run_columns<Set, Planes, Columns>(weight, activations, begin, end, column, out);
    run_rest<Set, Planes, Columns - 1>(weight, activations, begin, end, column, count, out);
  }
}

template <typename Set, int Planes>
void run_planes(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                float* out) {
  constexpr int64_t kColumns = Set::kMostColumns;
  const int64_t fitting = kCacheBytes / activations.stride / kColumns * kColumns;
  const int64_t column_block = fitting < 4 * kColumns ? 4 * kColumns : fitting;
  for (int64_t first = 0; first < activations.columns; first += column_block) {
    const int64_t last =
        first + column_block < activations.columns ? first + column_block : activations.columns;
    // Tiles that stay in the first-level cache for all columns.
    const int64_t tile_block = last - first <= kColumns ? kFewColumnTiles : kManyColumnTiles;
    for (int64_t tile = begin; tile < end; tile += tile_block) {
      const int64_t tile_end = tile + tile_block < end ? tile + tile_block : end;
      for (int64_t column = first; column < last; column += kColumns) {
        const int64_t count = last - column < kColumns ? last - column : kColumns;
        run_rest<Set, Planes, kColumns>(weight, activations, tile, tile_end, column, count, out);
      }
    }
  }
}

template <typename Set, int Planes>
void run_planes(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
                int32_t* out) {
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t column = 0; column < activations.columns; ++column) {
      Block<Set, Planes, 1, 1>(weight, activations, tile, column).finish(out);
    }
  }
}

template <typename Set, typename Out>
void ternary_tiles(const TernaryView& weight, const ActivationView& activations, int64_t begin, int64_t end,
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
