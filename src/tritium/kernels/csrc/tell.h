// Moves slopes by what weights of their rows moved: see descend.h. Of a weight that stayed nothing is read.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "table.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kTileBlocks = 4;     // of sixteen columns: as many sums go on side by side
constexpr int64_t kRowsAhead = 2;  // whose slopes are asked for before they are needed
constexpr int64_t kTile = kTileBlocks * kLanes;

struct Move {
  int32_t place;  // among the weights that may have moved
  float by;
};

// The weights of rows [begin, end) that moved.
class Moves {
 public:
  Moves(const TellTask& task, int64_t begin, int64_t end) : begin_(begin), ends_{0} {
    const auto room = static_cast<size_t>(task.count);
    for (int64_t row = begin; row < end; ++row) {
      size_t count = ends_.back();
      moves_.resize(count + room);
      const float* changes = task.changes + row * task.changes_apart;
      for (int32_t k = 0; k < task.count; ++k) {
        moves_[count] = {k, changes[k]};
        count += changes[k] != 0.0f;
      }
      ends_.push_back(count);
    }
  }

  std::span<const Move> of(int64_t row) const {
    const size_t i = static_cast<size_t>(row - begin_);
    return {moves_.data() + ends_[i], moves_.data() + ends_[i + 1]};
  }
  bool is_empty() const { return ends_.back() == 0; }

 private:
  int64_t begin_;
  std::vector<size_t> ends_;  // before each row, and after the last
  std::vector<Move> moves_;
};

// Of one row the slopes of a tile's columns.
TRITIUM_INLINE void tell_row(std::span<const Move> moves, const float* tile, float* slope, int64_t width) {
  Lanes total[kTileBlocks];
  for (int b = 0; b < kTileBlocks; ++b) {
    const int64_t left = width - b * kLanes;
    total[b] = left > 0 ? load_some(slope + b * kLanes, left) : broadcast(0.0f);
  }
  for (const Move& move : moves) {
    const float* hessian = tile + move.place * kTile;
    const Lanes by = broadcast(move.by);
#pragma GCC unroll 4
    for (int b = 0; b < kTileBlocks; ++b) total[b] = total[b] - load(hessian + b * kLanes) * by;
  }
  for (int b = 0; b < kTileBlocks; ++b) {
    const int64_t left = width - b * kLanes;
    if (left > 0) store_some(slope + b * kLanes, total[b], left);
  }
}

// Sixty-four columns of all rows at a time, whose part of the Hessian stays in a near cache.
void tell(const TellTask& task, int64_t begin, int64_t end) {
  const Moves moves(task, begin, end);
  if (moves.is_empty()) return;
  std::vector<float> tile(static_cast<size_t>(task.count * kTile));
  for (int64_t column = task.told_begin; column < task.told_end; column += kTile) {
    const int64_t width = std::min(kTile, task.told_end - column);
    const float* from = task.hessian + task.first * task.inputs + column;
    for (int64_t k = 0; k < task.count; ++k, from += task.inputs) std::copy_n(from, width, &tile[k * kTile]);
    for (int64_t row = begin; row < end; ++row) {
      if (moves.of(row).empty()) continue;
      float* slope = task.slope + row * task.inputs + column;
      for (int64_t i = 0; i < kTile; i += kLanes) __builtin_prefetch(slope + kRowsAhead * task.inputs + i, 1);
      tell_row(moves.of(row), tile.data(), slope, width);
    }
  }
}

}  // namespace
}  // namespace tritium
