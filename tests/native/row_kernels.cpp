// Kernels of floats: their sums have one order, whatever the registers' width.
#include <cmath>

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
  std::vector<uint16_t> weight;
  for (const float value : random_rows(random, rows * count)) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    weight.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return dense(table.dense_rows_bf16, random, weight, rows, count);
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

Bytes gelu(const KernelTable& table, Random& random) {
  const std::vector<float> x = random_rows(random, random.between(0, 1000));
  std::vector<float> out(x.size());
  table.gelu(x.data(), static_cast<int64_t>(x.size()), out.data());
  return bytes_of(out);
}

Bytes softmax(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(0, 4), count = random.between(1, 700);
  const std::vector<float> x = random_rows(random, rows * count);
  std::vector<float> out(x.size());
  table.softmax(x.data(), rows, count, out.data());
  return bytes_of(out);
}

Bytes attend(const KernelTable& table, Random& random) {
  const int64_t heads = random.between(1, 6), dim = random.between(1, 140), length = random.between(1, 90);
  const std::vector<float> q = random.reals(heads * dim, 4.0f);
  const std::vector<float> keys = random.reals(length * dim, 4.0f);
  const std::vector<float> values = random_rows(random, length * dim);
  std::vector<const float*> key_rows, value_rows;
  for (int64_t i = 0; i < length; ++i) {
    key_rows.push_back(keys.data() + i * dim);
    value_rows.push_back(values.data() + i * dim);
  }
  std::vector<float> out(q.size()), scores(static_cast<size_t>(length));
  table.attend(AttentionTask{.q = q.data(),
                             .keys = key_rows.data(),
                             .values = value_rows.data(),
                             .out = out.data(),
                             .scores = scores.data(),
                             .heads = heads,
                             .dim = dim,
                             .length = length,
                             .scale = 0.125f});
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
    {"gelu", gelu},
    {"softmax", softmax},
    {"attend", attend},
};

}  // namespace

std::span<const Case> row_cases() {
  return kCases;
}

}  // namespace tritium::agreement
