// Moves slopes by what weights of their rows moved: see descend.h. Of a weight that stayed nothing is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "arena.h"
#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kTellBlocks = kWidth == 16 ? 8 : 4;  // of sixteen columns: as many sums go on side by side
constexpr int64_t kRowsAhead = 4;                  // whose slopes are asked for before they are needed

// Of one row the slopes of some of a tile's columns.
TRITIUM_INLINE void tell_row(std::span<const Move> moves, const float* tile, float* slope, int64_t width) {
  Lanes total[kTellBlocks];
  for (int b = 0; b < kTellBlocks; ++b) {
    const int64_t left = width - b * kLanes;
    total[b] = left > 0 ? load_some(slope + b * kLanes, left) : broadcast(0.0f);
  }
  for (const Move& move : moves) {
    const float* hessian = tile + move.place * kTellTile;
    const Lanes by = broadcast(move.by);
#pragma GCC unroll 8
    for (int b = 0; b < kTellBlocks; ++b) total[b] = total[b] - load(hessian + b * kLanes) * by;
  }
  for (int b = 0; b < kTellBlocks; ++b) {
    const int64_t left = width - b * kLanes;
    if (left > 0) store_some(slope + b * kLanes, total[b], left);
  }
}

// Tiles [begin, end) of kTellTile columns, whose part of the Hessian stays in a near cache.
void tell(const TellTask& task, int64_t begin, int64_t end) {
  Arena memory;
  float* tile = reinterpret_cast<float*>(memory.reserve(task.count * kTellTile * sizeof(float)));
  for (int64_t column = task.told_begin + begin * kTellTile; begin < end; ++begin, column += kTellTile) {
    const int64_t width = std::min(kTellTile, task.told_end - column);
    const float* from = task.hessian + task.first * task.inputs + column;
    for (int64_t k = 0; k < task.count; ++k, from += task.inputs) {
      std::copy_n(from, width, tile + k * kTellTile);
    }
    for (int64_t row = task.row_begin; row < task.row_end; ++row) {
      const std::span moves{task.moves + task.ends[row], task.moves + task.ends[row + 1]};
      if (moves.empty()) continue;
      float* slope = task.slope + row * task.inputs + column;
      for (int64_t i = 0; i < kTellTile; i += kLanes) {
        __builtin_prefetch(slope + kRowsAhead * task.inputs + i, 1);
      }
      for (int64_t i = 0; i < width; i += kTellBlocks * kLanes)
        tell_row(moves, tile + i, slope + i, width - i);
    }
  }
}

}  // namespace
}  // namespace tritium
