#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>

#include "pool.h"
#include "prepare.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int64_t kTileGrain = 4;
constexpr double kNanosecondsPerInput = 0.1;      // of one thread, like the next
constexpr double kOperationsPerNanosecond = 300;  // of one thread: an order of magnitude is enough
constexpr int64_t kChunk = 32;
constexpr int64_t kPortableBlock = 128;
constexpr int64_t kMostRows = int64_t{1} << 31;
constexpr int64_t kMostInputs = int64_t{1} << 20;  // keeps sums inside an int32

int64_t padded(int64_t inputs) {
  return (inputs + kPortableBlock - 1) / kPortableBlock * kPortableBlock;
}

TernaryShape checked(const TernaryShape& shape, const Array& scales) {
  const int64_t inputs = shape.inputs, group_size = shape.group_size;
  require(shape.plane_count >= 1 && shape.plane_count <= 3, "A weight has 1 to 3 planes.");
  require(shape.rows >= 1 && shape.rows <= kMostRows, "A weight has 1 to 2^31 rows.");
  require(inputs >= 1 && inputs <= kMostInputs, "A weight has 1 to 2^20 inputs.");
  require(size_of(scales, 0) == 1 || size_of(scales, 0) == shape.rows,
          "scales must have one row, or one per output.");
  if (shape.groups != 1) {
    require(group_size >= kChunk && group_size % kChunk == 0, "group_size must be a multiple of 32.");
    require(shape.groups == (inputs + group_size - 1) / group_size,
            "scales must have one column for each group of inputs.");
  }
  require(!shape.divides || shape.groups == 1, "A weight whose scale divides has one group per row.");
  return shape;
}

std::unique_ptr<PreparedWeight> prepare(const Array& planes, const Array& scales, int64_t inputs,
                                        int64_t group_size, bool divides, int threads,
                                        const std::optional<std::string>& isa) {
  const KernelTable* kernels = isa ? find_table(isa->c_str()) : &table();
  require(kernels != nullptr, "This processor has no such instruction set.");
  const auto* packed = elements<const uint8_t>(planes, "planes", {kAny, kAny, padded(inputs) / 4});
  const auto* factors = elements<const float>(scales, "scales", {kAny, kAny});
  const TernaryShape shape = checked(
      {size_of(planes, 0), size_of(planes, 1), inputs, size_of(scales, 1), group_size, divides}, scales);
  require_threads(threads);
  nb::gil_scoped_release released;
  auto weight = std::make_unique<PreparedWeight>(shape, *kernels);
  require(weight->fill(packed, factors, size_of(scales, 0), threads),
          "The compute layout holds code 3, which is no trit.");
  return weight;
}

std::unique_ptr<PreparedWeight> prepare_packed(const Array& packed, const Array& scales, int64_t rows,
                                               int64_t inputs, int64_t group_size, bool divides,
                                               int threads) {
  const auto* factors = elements<const float>(scales, "scales", {kAny, kAny});
  const TernaryShape shape =
      checked({size_of(packed, 0), rows, inputs, size_of(scales, 1), group_size, divides}, scales);
  const auto* trits = elements<const uint8_t>(packed, "packed", {kAny, (rows * inputs + 4) / 5});
  require_threads(threads);
  nb::gil_scoped_release released;
  auto weight = std::make_unique<PreparedWeight>(shape, table());
  require(weight->fill_packed(trits, factors, size_of(scales, 0), threads),
          "A byte of packed trits is at most 242; the array holds a larger one.");
  return weight;
}

// The activations' group sums, computed once per call.
struct Inputs {
  ActivationView view;
  std::vector<int32_t> sums;
};

Inputs inputs_of(const PreparedWeight& weight, const int8_t* q, const float* scale, int64_t columns,
                 int threads) {
  const TernaryView& view = weight.view();
  Inputs inputs{{q, padded(weight.inputs()), scale, nullptr, columns},
                std::vector<int32_t>(static_cast<size_t>(columns * view.groups))};
  const int64_t chunks = (weight.inputs() + kChunk - 1) / kChunk;
  const int64_t group_chunks = view.groups == 1 ? chunks : view.group_quads * kQuad / kChunk;
  const double nanoseconds = kNanosecondsPerInput * static_cast<double>(weight.inputs());
  parallel_for(columns, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; ++column) {
      weight.kernels().sum_groups(q + column * inputs.view.stride, chunks, group_chunks, columns,
                                  inputs.sums.data() + column);
    }
  });
  inputs.view.sums = inputs.sums.data();
  return inputs;
}

Result<float> matmul(const PreparedWeight& weight, const Array& q, const Array& scale, int threads) {
  const int64_t columns = size_of(q, 0);
  const TernaryView& view = weight.view();
  const auto* inputs = elements<const int8_t>(q, "q", {kAny, padded(weight.inputs())});
  const auto* input_scale = elements<const float>(scale, "scale", {columns});
  require_threads(threads);
  Fresh<float> out({columns, view.rows});
  {
    nb::gil_scoped_release released;
    const Inputs prepared = inputs_of(weight, inputs, input_scale, columns, threads);
    const double operations =
        2.0 * static_cast<double>(kTileRows * weight.inputs() * view.plane_count * columns);
    parallel_for(view.tiles, kTileGrain, threads, operations / kOperationsPerNanosecond,
                 [&](int64_t begin, int64_t end) {
                   weight.kernels().ternary_tiles(view, prepared.view, begin, end, out.data);
                 });
  }
  return out.release();
}

Result<int32_t> accumulate(const PreparedWeight& weight, const Array& q) {
  const int64_t columns = size_of(q, 0);
  const TernaryView& view = weight.view();
  const auto* inputs = elements<const int8_t>(q, "q", {kAny, padded(weight.inputs())});
  Fresh<int32_t> out({columns, view.rows, view.groups});
  {
    nb::gil_scoped_release released;
    const Inputs prepared = inputs_of(weight, inputs, nullptr, columns, 1);
    weight.kernels().ternary_sums(view, prepared.view, 0, view.tiles, out.data);
  }
  return out.release();
}

Result<float> look_up(const PreparedWeight& weight, const Array& ids) {
  const auto* wanted = elements<const int32_t>(ids, "ids", {kAny});
  const int64_t count = size_of(ids, 0), rows = weight.view().rows;
  Fresh<float> out({count, weight.inputs()});
  {
    nb::gil_scoped_release released;
    for (int64_t i = 0; i < count; ++i) {
      require(wanted[i] >= 0 && wanted[i] < rows, "id " + std::to_string(wanted[i]) +
                                                      " is not one of the table's " + std::to_string(rows) +
                                                      " rows.");
      weight.read_floats(wanted[i], out.data + i * weight.inputs());
    }
  }
  return out.release();
}

nb::tuple quantize(const Array& x, int threads) {
  const auto* from = elements<const float>(x, "x", {kAny, kAny});
  const int64_t rows = size_of(x, 0), count = size_of(x, 1);
  require(count >= 1, "x must have at least one column.");
  require_threads(threads);
  const int64_t stride = (count + 127) / 128 * 128;
  Fresh<int8_t> q({rows, stride});
  Fresh<float> scale({rows});
  {
    nb::gil_scoped_release released;
    const double nanoseconds = kNanosecondsPerInput * static_cast<double>(count);
    parallel_for(rows, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
      int8_t* to = q.data + begin * stride;
      std::memset(to, 0, static_cast<size_t>((end - begin) * stride));
      table().quantize_activations(from + begin * count, end - begin, count, stride, to, scale.data + begin);
    });
  }
  return nb::make_tuple(q.release(), scale.release());
}

}  // namespace

void bind_ternary(nb::module_& m) {
  nb::class_<PreparedWeight>(m, "PreparedWeight")
      .def_prop_ro("isa", [](const PreparedWeight& weight) { return weight.kernels().name; })
      .def_prop_ro("in_features", &PreparedWeight::inputs)
      .def_prop_ro("out_features", [](const PreparedWeight& weight) { return weight.view().rows; })
      .def_prop_ro("groups", [](const PreparedWeight& weight) { return weight.view().groups; })
      .def_prop_ro("planes", [](const PreparedWeight& weight) { return weight.view().plane_count; })
      .def_prop_ro("nbytes", &PreparedWeight::nbytes);
  m.def("prepare_packed", &prepare_packed, nb::arg("packed").noconvert(), nb::arg("scales").noconvert(),
        nb::arg("rows"), nb::arg("inputs"), nb::arg("group_size"), nb::arg("divides"), nb::arg("threads"));
  m.def("prepare", &prepare, nb::arg("planes").noconvert(), nb::arg("scales").noconvert(),
        nb::arg("in_features"), nb::arg("group_size"), nb::arg("divides"), nb::arg("threads"),
        nb::arg("isa") = nb::none());
  m.def("ternary_matmul", &matmul, nb::arg("weight"), nb::arg("q").noconvert(), nb::arg("scale").noconvert(),
        nb::arg("threads"));
  m.def("ternary_accumulate", &accumulate, nb::arg("weight"), nb::arg("q").noconvert());
  m.def("ternary_lookup", &look_up, nb::arg("weight"), nb::arg("ids").noconvert());
  m.def("quantize_activations", &quantize, nb::arg("x").noconvert(), nb::arg("threads"));
}

}  // namespace tritium
