// From the sums of a tile of ternary weights to outputs.
#pragma once

#include "half.h"
#include "tiles.h"
#include "vector.h"

namespace tritium {
namespace {

TRITIUM_INLINE Lanes scales_of(const TernaryView& weight, int64_t tile, int64_t group) {
  const int64_t place = (tile * weight.groups + group) * kTileRows;
  if (weight.has_half_scales) return load(static_cast<const Half*>(weight.scales) + place);
  return load(static_cast<const float*>(weight.scales) + place);
}

// What a group's sums are multiplied by; a weight that divides has its turn at the end.
TRITIUM_INLINE Lanes factors_of(const TernaryView& weight, int64_t tile, int64_t group) {
  return weight.divides ? broadcast(1.0f) : scales_of(weight, tile, group);
}

TRITIUM_INLINE int64_t rows_of(const TernaryView& weight, int64_t tile) {
  const int64_t left = weight.rows - tile * kTileRows;
  return left < kTileRows ? left : kTileRows;
}

// Where a tile's outputs of a column begin.
TRITIUM_INLINE float* output_at(const TernaryView& weight, int64_t tile, int64_t column, float* out) {
  return out + column * weight.rows + tile * kTileRows;
}

// One division by the activations' scale at the end.
TRITIUM_INLINE void store_output(const TernaryView& weight, const ActivationView& activations, int64_t tile,
                                 int64_t column, const Lanes& total, float* out) {
  const Lanes input_scale = broadcast(activations.scale[column]);
  const Lanes divisor = weight.divides ? scales_of(weight, tile, 0) * input_scale : input_scale;
  store_some(output_at(weight, tile, column, out), total / divisor, rows_of(weight, tile));
}

}  // namespace
}  // namespace tritium
