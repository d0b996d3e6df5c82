// Ternary weights times int8 activations: shapes that cut tiles, units and groups anywhere, and values that
// saturate whatever saturates too early.
#include <algorithm>

#include "agreement.h"
#include "packing.h"
#include "prepare.h"

namespace tritium::agreement {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kChunk = 32;

int64_t padded(int64_t inputs) {
  return (inputs + kBlock - 1) / kBlock * kBlock;
}

struct Weight {
  TernaryShape shape;
  std::vector<uint8_t> planes;
  std::vector<float> scales;
  int64_t scale_rows;
};

std::vector<int8_t> random_trits(Random& random, int64_t count) {
  const auto extreme = static_cast<int8_t>(random.between(-1, 1));
  const bool is_extreme = random.chance(4);
  std::vector<int8_t> trits(static_cast<size_t>(count));
  for (int8_t& trit : trits) trit = is_extreme ? extreme : static_cast<int8_t>(random.between(-1, 1));
  return trits;
}

Weight random_weight(Random& random) {
  Weight weight{};
  TernaryShape& shape = weight.shape;
  shape.plane_count = random.between(1, 3);
  shape.rows = random.between(1, 70);
  shape.inputs = random.between(1, random.chance(8) ? 3000 : 520);
  const bool is_grouped = random.chance(2);
  shape.group_size = is_grouped ? kChunk * random.between(1, 9) : shape.inputs;
  shape.groups = (shape.inputs + shape.group_size - 1) / shape.group_size;
  shape.divides = shape.groups == 1 && random.chance(3);
  const int64_t row_bytes = padded(shape.inputs) / 4;
  weight.planes.resize(static_cast<size_t>(shape.plane_count * shape.rows * row_bytes));
  for (int64_t plane = 0; plane < shape.plane_count; ++plane) {
    const std::vector<int8_t> trits = random_trits(random, shape.rows * shape.inputs);
    to_compute_layout(trits.data(), shape.rows, shape.inputs,
                      weight.planes.data() + plane * shape.rows * row_bytes);
  }
  weight.scale_rows = random.chance(2) ? 1 : shape.rows;
  weight.scales = random.reals(weight.scale_rows * shape.groups, 1.0f);
  for (float& scale : weight.scales) scale += 1.5f;
  return weight;
}

struct Activations {
  std::vector<int8_t> q;
  std::vector<float> scale;
  int64_t columns;
};

Activations random_activations(Random& random, int64_t inputs) {
  Activations activations{{}, {}, random.between(0, random.chance(4) ? 70 : 17)};
  activations.q.resize(static_cast<size_t>(activations.columns * padded(inputs)));
  for (int64_t column = 0; column < activations.columns; ++column) {
    const bool is_extreme = random.chance(4);
    const auto extreme = static_cast<int8_t>(random.chance(2) ? -128 : 127);
    int8_t* row = activations.q.data() + column * padded(inputs);
    std::generate_n(row, inputs,
                    [&] { return is_extreme ? extreme : static_cast<int8_t>(random.between(-128, 127)); });
    activations.scale.push_back(random.real() + 1.5f);
  }
  return activations;
}

// As bind_ternary.cpp calls it, with an odd cut between two threads' tiles.
template <typename Out>
Bytes multiply(void (*kernel)(const TernaryView&, const ActivationView&, int64_t, int64_t, Out*),
               const PreparedWeight& prepared, const Activations& activations, int64_t cut,
               int64_t outputs_per_row) {
  const TernaryView& view = prepared.view();
  const int64_t stride = padded(prepared.inputs());
  const int64_t chunks = (prepared.inputs() + kChunk - 1) / kChunk;
  const int64_t group_chunks = view.groups == 1 ? chunks : view.group_quads * kQuad / kChunk;
  std::vector<int32_t> sums(static_cast<size_t>(activations.columns * view.groups));
  for (int64_t column = 0; column < activations.columns; ++column) {
    prepared.kernels().sum_groups(activations.q.data() + column * stride, chunks, group_chunks,
                                  activations.columns, sums.data() + column);
  }
  const ActivationView inputs{activations.q.data(), stride, activations.scale.data(), sums.data(),
                              activations.columns};
  std::vector<Out> out(static_cast<size_t>(activations.columns * view.rows * outputs_per_row));
  kernel(view, inputs, 0, cut, out.data());
  kernel(view, inputs, cut, view.tiles, out.data());
  Bytes bytes = bytes_of(out);
  append(bytes, sums);
  return bytes;
}

template <typename Run>
Bytes with_random_weight(const KernelTable& table, Random& random, Run run) {
  const Weight weight = random_weight(random);
  PreparedWeight prepared(weight.shape, table);
  if (!prepared.fill(weight.planes.data(), weight.scales.data(), weight.scale_rows, 1)) std::abort();
  const Activations activations = random_activations(random, weight.shape.inputs);
  return run(prepared, activations, random.between(0, prepared.view().tiles));
}

Bytes ternary_tiles(const KernelTable& table, Random& random) {
  return with_random_weight(table, random, [&](const auto& prepared, const auto& activations, int64_t cut) {
    return multiply(table.ternary_tiles, prepared, activations, cut, 1);
  });
}

Bytes ternary_sums(const KernelTable& table, Random& random) {
  return with_random_weight(table, random, [&](const auto& prepared, const auto& activations, int64_t cut) {
    return multiply(table.ternary_sums, prepared, activations, cut, prepared.view().groups);
  });
}

constexpr Case kCases[] = {{"ternary_tiles", ternary_tiles}, {"ternary_sums", ternary_sums}};

}  // namespace

std::span<const Case> matrix_cases() {
  return kCases;
}

}  // namespace tritium::agreement
