#include <algorithm>
#include <cstring>
#include <vector>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int64_t kRowGrain = 16;
constexpr double kOperationsPerNanosecond = 100;  // of one thread: an order of magnitude is enough
constexpr int64_t kChunk = 32;
constexpr int64_t kMostChunks =
    (int64_t{1} << 20) / kChunk;  // in_features <= 2^20 keeps sums inside an int32

// The activations' group sums, computed once per call.
struct Inputs {
  ActivationView view;
  std::vector<int32_t> sums;
};

TernaryView view_of(const Array& planes, const Array& scales, int64_t group_size, bool divides) {
  TernaryView view{};
  view.planes = elements<const uint8_t>(planes, "planes", {kAny, kAny, kAny});
  view.plane_count = size_of(planes, 0);
  view.rows = size_of(planes, 1);
  view.blocks = size_of(planes, 2) / 32;
  require(view.plane_count >= 1 && view.plane_count <= 3, "A weight has 1 to 3 planes.");
  require(size_of(planes, 2) % 32 == 0 && view.blocks >= 1 && view.blocks * 4 <= kMostChunks,
          "A row of planes is made of 1 to 8192 blocks of 32 bytes.");
  view.scales = elements<const float>(scales, "scales", {kAny, kAny});
  view.scale_rows = size_of(scales, 0);
  view.groups = size_of(scales, 1);
  require(view.scale_rows == 1 || view.scale_rows == view.rows,
          "scales must have one row, or one per output.");
  if (view.groups == 1) {
    view.group_chunks = view.blocks * 4;
  } else {
    require(group_size >= kChunk && group_size % kChunk == 0, "group_size must be a multiple of 32.");
    view.group_chunks = group_size / kChunk;
    // The last group may be short, and the padding of the row may add nothing but empty groups to none.
    require((view.groups - 1) * view.group_chunks < view.blocks * 4,
            "scales has more groups than the row has.");
    require(view.groups * view.group_chunks + 3 >= view.blocks * 4,
            "scales has fewer groups than the row has.");
  }
  view.divides = divides;
  require(!divides || view.groups == 1, "A weight whose scale divides has one group per row.");
  return view;
}

Inputs inputs_of(const TernaryView& weight, const int8_t* q, const float* scale, int64_t columns) {
  Inputs inputs{{q, scale, nullptr, columns},
                std::vector<int32_t>(static_cast<size_t>(columns * weight.groups))};
  const int64_t chunks = std::min(weight.groups * weight.group_chunks, weight.blocks * 4);
  for (int64_t column = 0; column < columns; ++column) {
    table().sum_groups(q + column * weight.blocks * 128, chunks, weight.group_chunks, columns,
                       inputs.sums.data() + column);
  }
  inputs.view.sums = inputs.sums.data();
  return inputs;
}

Result<float> matmul(const Array& planes, const Array& scales, int64_t group_size, bool divides,
                     const Array& q, const Array& scale, int threads) {
  const TernaryView weight = view_of(planes, scales, group_size, divides);
  const int64_t columns = size_of(q, 0);
  const auto* inputs = elements<const int8_t>(q, "q", {kAny, weight.blocks * 128});
  const auto* input_scale = elements<const float>(scale, "scale", {columns});
  require_threads(threads);
  Fresh<float> out({columns, weight.rows});
  {
    nb::gil_scoped_release released;
    const Inputs prepared = inputs_of(weight, inputs, input_scale, columns);
    const KernelTable& kernels = table();
    const double operations = 2.0 * 128.0 * static_cast<double>(weight.blocks * weight.plane_count * columns);
    parallel_for(weight.rows, kRowGrain, threads, operations / kOperationsPerNanosecond,
                 [&](int64_t begin, int64_t end) {
                   kernels.ternary_rows(weight, prepared.view, begin, end, out.data);
                 });
  }
  return out.release();
}

Result<int32_t> accumulate(const Array& planes, const Array& scales, int64_t group_size, const Array& q) {
  const TernaryView weight = view_of(planes, scales, group_size, false);
  const int64_t columns = size_of(q, 0);
  const auto* inputs = elements<const int8_t>(q, "q", {kAny, weight.blocks * 128});
  Fresh<int32_t> out({columns, weight.rows, weight.groups});
  {
    nb::gil_scoped_release released;
    const Inputs prepared = inputs_of(weight, inputs, nullptr, columns);
    table().ternary_sums(weight, prepared.view, 0, weight.rows, out.data);
  }
  return out.release();
}

nb::tuple quantize(const Array& x) {
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  const int64_t rows = size_of(x, 0), count = size_of(x, 1);
  require(count >= 1, "x must have at least one column.");
  const int64_t stride = (count + 127) / 128 * 128;
  Fresh<int8_t> q({rows, stride});
  Fresh<float> scale({rows});
  {
    nb::gil_scoped_release released;
    std::memset(q.data, 0, q.count);
    table().quantize_activations(from, rows, count, stride, q.data, scale.data);
  }
  return nb::make_tuple(q.release(), scale.release());
}

}  // namespace

void bind_ternary(nb::module_& m) {
  m.def("ternary_matmul", &matmul, nb::arg("planes").noconvert(), nb::arg("scales").noconvert(),
        nb::arg("group_size"), nb::arg("divides"), nb::arg("q").noconvert(), nb::arg("scale").noconvert(),
        nb::arg("threads"));
  m.def("ternary_accumulate", &accumulate, nb::arg("planes").noconvert(), nb::arg("scales").noconvert(),
        nb::arg("group_size"), nb::arg("q").noconvert());
  m.def("quantize_activations", &quantize, nb::arg("x").noconvert());
}

}  // namespace tritium
