#include <algorithm>
#include <cmath>
#include <cstring>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int64_t kRowGrain = 16;
constexpr double kOperationsPerNanosecond = 20;  // of one thread: an order of magnitude is enough

Result<float> dense_matmul(const Array& x, const Array& weight, int threads) {
  const int64_t columns = size_of(x, 0), count = size_of(x, 1), rows = size_of(weight, 0);
  const auto* inputs = elements<const float>(x, "x", {kAny, kAny});
  const bool is_bfloat16 = holds<uint16_t>(weight);
  const auto* halves = is_bfloat16 ? elements<const uint16_t>(weight, "weight", {kAny, count}) : nullptr;
  const auto* floats = is_bfloat16 ? nullptr : elements<const float>(weight, "weight", {kAny, count});
  require_threads(threads);
  Fresh<float> out({columns, rows});
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    const double operations = 2.0 * static_cast<double>(count * columns);
    parallel_for(rows, kRowGrain, threads, operations / kOperationsPerNanosecond,
                 [&](int64_t begin, int64_t end) {
                   if (is_bfloat16) {
                     kernels.dense_rows_bf16(inputs, columns, count, halves, rows, begin, end, out.data);
                   } else {
                     kernels.dense_rows(inputs, columns, count, floats, rows, begin, end, out.data);
                   }
                 });
  }
  return out.release();
}

void copy_row(const float* from, int64_t width, float* to) {
  std::copy_n(from, width, to);
}

void copy_row(const uint16_t* from, int64_t width, float* to) {
  for (int64_t i = 0; i < width; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof(bits));
  }
}

template <typename Weight>
Result<float> look_up(const Array& weight, const Array& ids) {
  const auto* rows = elements<const Weight>(weight, "weight", {kAny, kAny});
  const auto* wanted = elements<const int32_t>(ids, "ids", {kAny});
  const int64_t vocabulary = size_of(weight, 0), width = size_of(weight, 1), count = size_of(ids, 0);
  Fresh<float> out({count, width});
  {
    nb::gil_scoped_release released;
    for (int64_t i = 0; i < count; ++i) {
      require(wanted[i] >= 0 && wanted[i] < vocabulary, "id " + std::to_string(wanted[i]) +
                                                            " is not one of the table's " +
                                                            std::to_string(vocabulary) + " rows.");
      copy_row(rows + wanted[i] * width, width, out.data + i * width);
    }
  }
  return out.release();
}

Result<float> embedding_lookup(const Array& weight, const Array& ids) {
  return holds<uint16_t>(weight) ? look_up<uint16_t>(weight, ids) : look_up<float>(weight, ids);
}

Result<float> rms_norm(const Array& x, const Array& weight, float eps) {
  const int64_t rows = size_of(x, 0), count = size_of(x, 1);
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  const auto* factor = elements<const float>(weight, "weight", {count});
  Fresh<float> out({rows, count});
  {
    nb::gil_scoped_release released;
    table().rms_norm(from, factor, rows, count, eps, out.data);
  }
  return out.release();
}

Result<float> layer_norm(const Array& x, const Array& weight, const Array& bias, float eps) {
  const int64_t rows = size_of(x, 0), count = size_of(x, 1);
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  const auto* factor = elements<const float>(weight, "weight", {count});
  const auto* shift = elements<const float>(bias, "bias", {count});
  Fresh<float> out({rows, count});
  {
    nb::gil_scoped_release released;
    table().layer_norm(from, factor, shift, rows, count, eps, out.data);
  }
  return out.release();
}

Result<float> gated(void (*kernel)(const float*, const float*, int64_t, float*), const Array& gate,
                    const Array& up) {
  const int64_t rows = size_of(gate, 0), count = size_of(gate, 1);
  const auto* left = elements<const float>(gate, "gate", {kAny, kAny});
  const auto* right = elements<const float>(up, "up", {rows, count});
  Fresh<float> out({rows, count});
  {
    nb::gil_scoped_release released;
    kernel(left, right, rows * count, out.data);
  }
  return out.release();
}

Result<float> gelu(const Array& x) {
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  Fresh<float> out({size_of(x, 0), size_of(x, 1)});
  {
    nb::gil_scoped_release released;
    table().gelu(from, static_cast<int64_t>(out.count), out.data);
  }
  return out.release();
}

Result<float> bound(const Array& x, float cap) {
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  require(cap > 0.0f && std::isfinite(cap), "A cap is a positive number.");
  Fresh<float> out({size_of(x, 0), size_of(x, 1)});
  {
    nb::gil_scoped_release released;
    table().bound(from, static_cast<int64_t>(out.count), cap, out.data);
  }
  return out.release();
}

Result<float> softmax(const Array& x) {
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  const int64_t rows = size_of(x, 0), count = size_of(x, 1);
  require(count >= 1, "x must have at least one column.");
  Fresh<float> out({rows, count});
  {
    nb::gil_scoped_release released;
    table().softmax(from, rows, count, out.data);
  }
  return out.release();
}

}  // namespace

void bind_dense(nb::module_& m) {
  m.def("dense_matmul", &dense_matmul, nb::arg("x").noconvert(), nb::arg("weight").noconvert(),
        nb::arg("threads"));
  m.def("embedding_lookup", &embedding_lookup, nb::arg("weight").noconvert(), nb::arg("ids").noconvert());
  m.def("rms_norm", &rms_norm, nb::arg("x").noconvert(), nb::arg("weight").noconvert(), nb::arg("eps"));
  m.def("layer_norm", &layer_norm, nb::arg("x").noconvert(), nb::arg("weight").noconvert(),
        nb::arg("bias").noconvert(), nb::arg("eps"));
  m.def(
      "silu_multiply",
      [](const Array& gate, const Array& up) { return gated(table().silu_multiply, gate, up); },
      nb::arg("gate").noconvert(), nb::arg("up").noconvert());
  m.def(
      "relu2_multiply",
      [](const Array& gate, const Array& up) { return gated(table().relu2_multiply, gate, up); },
      nb::arg("gate").noconvert(), nb::arg("up").noconvert());
  m.def(
      "gelu_tanh_multiply",
      [](const Array& gate, const Array& up) { return gated(table().gelu_tanh_multiply, gate, up); },
      nb::arg("gate").noconvert(), nb::arg("up").noconvert());
  m.def("gelu", &gelu, nb::arg("x").noconvert());
  m.def("bound", &bound, nb::arg("x").noconvert(), nb::arg("cap"));
  m.def("softmax", &softmax, nb::arg("x").noconvert());
}

}  // namespace tritium
