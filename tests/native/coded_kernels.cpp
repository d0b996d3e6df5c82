// Weights of 6 and 8 bits: rounding them to codes, and their products with int8 activations.
#include <algorithm>
#include <cmath>

#include "agreement.h"
#include "coded.h"
#include "prepare.h"

namespace tritium::agreement {
namespace {

struct Shape {
  int bits;
  int64_t rows;
  int64_t inputs;
  int64_t tiles;
  int64_t blocks;

  explicit Shape(Random& random)
      : bits(random.chance(2) ? 6 : 8),
        rows(random.between(1, 40)),
        inputs(random.between(1, 300)),
        tiles((rows + kCodedRows - 1) / kCodedRows),
        blocks((inputs + kCodedBlock - 1) / kCodedBlock) {}

  int64_t tile_bytes() const { return blocks * coded_block_bytes(bits); }
};

// One matrix in four holds nothing but its largest magnitude.
std::vector<float> random_weights(Random& random, const Shape& shape) {
  const float size = std::ldexp(1.0f, static_cast<int>(random.between(-40, 20)));
  std::vector<float> weights = random.reals(shape.rows * shape.inputs, size);
  if (random.chance(4)) {
    const float extreme = random.chance(2) ? -size : size;
    std::fill(weights.begin(), weights.end(), extreme);
  }
  return weights;
}

template <typename Weight>
Bytes round_tiles(CodedError (*kernel)(const Weight*, int64_t, int64_t, int64_t, int, uint8_t*),
                  const Shape& shape, const std::vector<Weight>& weights, uint8_t* tiles) {
  std::vector<double> errors;
  for (int64_t tile = 0; tile < shape.tiles; ++tile) {
    const int64_t row = tile * kCodedRows;
    const CodedError error =
        kernel(weights.data() + row * shape.inputs, std::min(kCodedRows, shape.rows - row), shape.inputs,
               shape.blocks, shape.bits, tiles + tile * shape.tile_bytes());
    errors.push_back(error.error);
    errors.push_back(error.weight);
  }
  Bytes bytes(tiles, tiles + shape.tiles * shape.tile_bytes());
  append(bytes, errors);
  return bytes;
}

Bytes round_tile(const KernelTable& table, Random& random) {
  const Shape shape(random);
  const AlignedBytes tiles(static_cast<size_t>(shape.tiles * shape.tile_bytes()));
  return round_tiles(table.round_tile, shape, random_weights(random, shape), tiles.data());
}

Bytes round_tile_bf16(const KernelTable& table, Random& random) {
  const Shape shape(random);
  const AlignedBytes tiles(static_cast<size_t>(shape.tiles * shape.tile_bytes()));
  return round_tiles(table.round_tile_bf16, shape, to_bfloat16(random_weights(random, shape)), tiles.data());
}

Bytes coded_tiles(const KernelTable& table, Random& random) {
  const Shape shape(random);
  const AlignedBytes tiles(static_cast<size_t>(shape.tiles * shape.tile_bytes()));
  round_tiles(table.round_tile, shape, random_weights(random, shape), tiles.data());
  const int64_t columns = random.between(0, 40), stride = shape.blocks * kCodedBlock;
  const int64_t groups = shape.blocks * kCodedGroups;
  std::vector<int8_t> q(static_cast<size_t>(columns * stride)), arranged(q.size());
  const bool is_extreme = random.chance(4);
  for (int8_t& value : q) value = static_cast<int8_t>(is_extreme ? -128 : random.between(-128, 127));
  std::vector<int32_t> corrections(static_cast<size_t>(groups * columns));
  const CodedInputs rows{q.data(), columns, stride, groups, shape.bits};
  const int64_t half = random.between(0, columns);
  table.arrange_coded(rows, 0, half, arranged.data(), corrections.data());
  table.arrange_coded(rows, half, columns, arranged.data(), corrections.data());
  std::vector<float> scale = random.reals(columns, 1.0f), out(static_cast<size_t>(columns * shape.rows));
  for (float& one : scale) one += 1.5f;
  const CodedView view{tiles.data(), shape.bits, shape.rows, shape.inputs, shape.tiles, shape.blocks};
  const CodedActivations inputs{arranged.data(), corrections.data(), scale.data(), columns};
  const int64_t cut = random.between(0, shape.tiles);
  table.coded_tiles(view, inputs, 0, cut, out.data());
  table.coded_tiles(view, inputs, cut, shape.tiles, out.data());
  Bytes bytes = bytes_of(out);
  append(bytes, arranged);
  append(bytes, corrections);
  return bytes;
}

constexpr Case kCases[] = {
    {"round_tile", round_tile}, {"round_tile_bf16", round_tile_bf16}, {"coded_tiles", coded_tiles}};

}  // namespace

std::span<const Case> coded_cases() {
  return kCases;
}

}  // namespace tritium::agreement
