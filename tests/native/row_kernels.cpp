// Kernels of floats: their sums have one order, whatever the registers' width.
#include <algorithm>
#include <cmath>
#include <memory>

#include "agreement.h"

namespace tritium::agreement {
namespace {

// Beyond the smallest and the largest numbers that a model meets.
float random_size(Random& random) {
  return std::ldexp(1.0f, static_cast<int>(random.between(-30, 30)));
}

std::vector<float> random_rows(Random& random, int64_t count) {
  return random.reals(count, random_size(random));
}

Bytes quantize_activations(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(0, 4), count = random.between(1, 700);
  const int64_t stride = (count + 127) / 128 * 128;
  std::vector<float> x = random_rows(random, rows * count);
  for (float& value : x) {
    if (random.chance(300)) value = random.chance(2) ? INFINITY : NAN;
  }
  std::vector<int8_t> q(static_cast<size_t>(rows * stride));
  std::vector<float> scale(static_cast<size_t>(rows));
  table.quantize_activations(x.data(), rows, count, stride, q.data(), scale.data());
  Bytes bytes = bytes_of(q);
  append(bytes, scale);
  return bytes;
}

template <typename Weight>
Bytes dense(void (*kernel)(const float*, int64_t, int64_t, const Weight*, int64_t, int64_t, int64_t, float*),
            Random& random, const std::vector<Weight>& weight, int64_t rows, int64_t count) {
  const int64_t columns = random.between(0, 40), cut = random.between(0, rows);
  const std::vector<float> x = random.reals(columns * count, 1.0f);
  std::vector<float> out(static_cast<size_t>(columns * rows));
  kernel(x.data(), columns, count, weight.data(), rows, 0, cut, out.data());
  kernel(x.data(), columns, count, weight.data(), rows, cut, rows, out.data());
  return bytes_of(out);
}

Bytes dense_rows(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(1, 20), count = random.between(1, 200);
  return dense(table.dense_rows, random, random_rows(random, rows * count), rows, count);
}

Bytes dense_rows_bf16(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(1, 20), count = random.between(1, 200);
  return dense(table.dense_rows_bf16, random, to_bfloat16(random_rows(random, rows * count)), rows, count);
}

Bytes rms_norm(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(0, 4), count = random.between(1, 700);
  const std::vector<float> x = random_rows(random, rows * count), weight = random.reals(count, 2.0f);
  std::vector<float> out(x.size());
  table.rms_norm(x.data(), weight.data(), rows, count, 1e-5f, out.data());
  return bytes_of(out);
}

Bytes layer_norm(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(0, 4), count = random.between(1, 700);
  const std::vector<float> x = random_rows(random, rows * count);
  const std::vector<float> weight = random.reals(count, 2.0f), bias = random.reals(count, 1.0f);
  std::vector<float> out(x.size());
  table.layer_norm(x.data(), weight.data(), bias.data(), rows, count, 1e-5f, out.data());
  return bytes_of(out);
}

Bytes gated(void (*kernel)(const float*, const float*, int64_t, float*), Random& random) {
  const int64_t count = random.between(0, 1000);
  const std::vector<float> gate = random_rows(random, count), up = random.reals(count, 3.0f);
  std::vector<float> out(gate.size());
  kernel(gate.data(), up.data(), count, out.data());
  return bytes_of(out);
}

Bytes silu_multiply(const KernelTable& table, Random& random) {
  return gated(table.silu_multiply, random);
}

Bytes relu2_multiply(const KernelTable& table, Random& random) {
  return gated(table.relu2_multiply, random);
}

Bytes gelu_tanh_multiply(const KernelTable& table, Random& random) {
  return gated(table.gelu_tanh_multiply, random);
}

Bytes gelu(const KernelTable& table, Random& random) {
  const std::vector<float> x = random_rows(random, random.between(0, 1000));
  std::vector<float> out(x.size());
  table.gelu(x.data(), static_cast<int64_t>(x.size()), out.data());
  return bytes_of(out);
}

Bytes bound(const KernelTable& table, Random& random) {
  const std::vector<float> x = random_rows(random, random.between(0, 1000));
  std::vector<float> out(x.size());
  table.bound(x.data(), static_cast<int64_t>(x.size()), random_size(random), out.data());
  return bytes_of(out);
}

Bytes add(const KernelTable& table, Random& random) {
  const std::vector<float> a = random_rows(random, random.between(0, 1000));
  const std::vector<float> b = random_rows(random, static_cast<int64_t>(a.size()));
  std::vector<float> out(a.size());
  table.add(a.data(), b.data(), static_cast<int64_t>(a.size()), out.data());
  return bytes_of(out);
}

Bytes is_finite(const KernelTable& table, Random& random) {
  std::vector<float> x = random_rows(random, random.between(1, 1000));
  const auto at = static_cast<size_t>(random.between(0, static_cast<int64_t>(x.size()) - 1));
  if (random.chance(2)) x[at] = random.chance(2) ? -INFINITY : NAN;
  return {table.is_finite(x.data(), static_cast<int64_t>(x.size()))};
}

Bytes rotate(const KernelTable& table, Random& random) {
  const int64_t half = random.between(1, 100);
  const std::vector<float> cosine = random.reals(half, 1.0f), sine = random.reals(half, 1.0f);
  std::vector<float> head = random_rows(random, 2 * half);
  table.rotate(head.data(), cosine.data(), sine.data(), half);
  return bytes_of(head);
}

Bytes softmax(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(0, 4), count = random.between(1, 700);
  const std::vector<float> x = random_rows(random, rows * count);
  std::vector<float> out(x.size());
  table.softmax(x.data(), rows, count, out.data());
  return bytes_of(out);
}

// Writes random positions into pages that lie backwards, and attends to them.
Bytes attend(const KernelTable& table, Random& random) {
  constexpr KvType kTypes[] = {KvType::kFloat32, KvType::kFloat16, KvType::kInt8};
  const int64_t length = random.chance(4) ? random.between(500, 1100) : random.between(1, 150);
  const int64_t blocks = (length + kPagePositions - 1) / kPagePositions, rows = random.between(1, 9);
  KvPool pool{kTypes[random.between(0, 2)], nullptr, blocks, random.between(1, 2), random.between(1, 140)};
  std::vector<uint8_t> memory(static_cast<size_t>(blocks * pool.block_bytes()), 0xff);
  pool.memory = memory.data();
  std::vector<int32_t> order;
  for (int64_t i = 0; i < blocks; ++i) order.push_back(static_cast<int32_t>(blocks - 1 - i));
  const int64_t head = pool.heads - 1;
  for (int64_t i = 0; i < length; ++i) {
    const std::vector<float> key = random.reals(pool.dim, 4.0f), value = random_rows(random, pool.dim);
    const int64_t slot = order[static_cast<size_t>(i / kPagePositions)] * kPagePositions + i % kPagePositions;
    table.write_position(pool, key.data(), value.data(), slot, head);
  }
  const std::vector<float> q = random.reals(rows * pool.dim, 4.0f);
  std::vector<const float*> queries;
  std::vector<int32_t> starts, lengths;
  const int64_t window = random.chance(2) ? random.between(1, length) : length;
  for (int64_t i = 0; i < rows; ++i) {
    queries.push_back(q.data() + i * pool.dim);
    lengths.push_back(static_cast<int32_t>(length - std::min(length - 1, rows - 1 - i)));
    starts.push_back(static_cast<int32_t>(std::max<int64_t>(0, lengths.back() - window)));
  }
  const AttentionTask task{.type = pool.type,
                           .place = {pool.memory + head * pool.page_bytes(), order.data()},
                           .next = {},
                           .next_positions = 0,
                           .block_bytes = pool.block_bytes(),
                           .half_page_bytes = pool.half_page_bytes(),
                           .dim = pool.dim,
                           .padded = pool.padded(),
                           .rows = rows,
                           .q = queries.data(),
                           .starts = starts.data(),
                           .lengths = lengths.data(),
                           .scale = 0.125f,
                           .cap = random.chance(2) ? static_cast<float>(random.between(1, 50)) : 0.0f};
  std::vector<float> numbers(static_cast<size_t>(2 * rows * (pool.padded() + 2))), out(q.size());
  AttentionState states[2];
  for (int i = 0; i < 2; ++i) {
    float* first = numbers.data() + i * rows * (pool.padded() + 2);
    states[i] = {first, first + rows, first + 2 * rows};
  }
  const auto scratch = std::make_unique<AttentionScratch>();
  table.attend(task, starts[0] / kSegmentPositions, (length + kSegmentPositions - 1) / kSegmentPositions,
               states[0], states[1], *scratch);
  for (int64_t i = 0; i < rows; ++i) {
    table.finish_attention(states[0].mixed + i * task.padded, states[0].total[i], pool.dim,
                           out.data() + i * pool.dim);
  }
  return bytes_of(out);
}

constexpr Case kCases[] = {
    {"quantize_activations", quantize_activations},
    {"dense_rows", dense_rows},
    {"dense_rows_bf16", dense_rows_bf16},
    {"rms_norm", rms_norm},
    {"layer_norm", layer_norm},
    {"silu_multiply", silu_multiply},
    {"relu2_multiply", relu2_multiply},
    {"gelu_tanh_multiply", gelu_tanh_multiply},
    {"gelu", gelu},
    {"bound", bound},
    {"add", add},
    {"is_finite", is_finite},
    {"rotate", rotate},
    {"softmax", softmax},
    {"attend", attend},
};

}  // namespace

std::span<const Case> row_cases() {
  return kCases;
}

}  // namespace tritium::agreement
