#include <nanobind/stl/pair.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "coded_matrix.h"
#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kBytesPerNanosecond = 30;  // of one thread: an order of magnitude is enough
constexpr double kOperationsPerNanosecond = 500;
constexpr double kNanosecondsToRound = 8;  // one weight
constexpr int64_t kMostInputs = int64_t{1} << 19;
constexpr int64_t kMostRows = int64_t{1} << 31;
constexpr float kLargestWeight = 1e15f;

int64_t rounded_up(int64_t count, int64_t step) {
  return (count + step - 1) / step;
}

CodedView view_of(int64_t rows, int64_t inputs, int bits) {
  require(bits == 6 || bits == 8, "A code has 6 or 8 bits, not " + std::to_string(bits) + ".");
  require(rows >= 1 && rows <= kMostRows, "A coded weight has 1 to 2^31 rows.");
  require(inputs >= 1 && inputs <= kMostInputs, "A coded weight has 1 to 2^19 inputs.");
  return {nullptr, bits, rows, inputs, rounded_up(rows, kCodedRows), rounded_up(inputs, kCodedBlock)};
}

std::unique_ptr<CodedMatrix> prepare(const Array& tiles, int64_t rows, int64_t inputs, int bits,
                                     int threads) {
  CodedView view = view_of(rows, inputs, bits);
  view.tiles =
      elements<const uint8_t>(tiles, "tiles", {view.tile_count, view.blocks, coded_block_bytes(bits)});
  require_threads(threads);
  nb::gil_scoped_release released;
  auto weight = std::make_unique<CodedMatrix>(view, threads);
  require(weight->is_valid(), "A coded weight holds a code or a scale that is not possible: it is damaged.");
  return weight;
}

Result<float> matmul(const CodedMatrix& weight, const Array& q, const Array& scale, int threads) {
  const CodedView& view = weight.view();
  const int64_t columns = size_of(q, 0), stride = rounded_up(view.inputs, 128) * 128;
  const auto* inputs = elements<const int8_t>(q, "q", {kAny, stride});
  const auto* input_scale = elements<const float>(scale, "scale", {columns});
  require_threads(threads);
  Fresh<float> out({columns, view.rows});
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    const int64_t groups = view.blocks * kCodedGroups;
    std::vector<int8_t> arranged(static_cast<size_t>(groups * columns * kCodedGroup));
    std::vector<int32_t> corrections(static_cast<size_t>(groups * columns));
    kernels.arrange_coded({inputs, columns, stride, groups, view.bits}, 0, columns, arranged.data(),
                          corrections.data());
    const CodedActivations activations{arranged.data(), corrections.data(), input_scale, columns};
    const auto tile = static_cast<double>(kCodedRows * view.inputs);
    const double nanoseconds = tile * view.bits / 8 / kBytesPerNanosecond +
                               2 * tile * static_cast<double>(columns) / kOperationsPerNanosecond;
    parallel_for(view.tile_count, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
      kernels.coded_tiles(view, activations, begin, end, out.data);
    });
  }
  return out.release();
}

Result<float> look_up(const CodedMatrix& weight, const Array& ids) {
  const auto* wanted = elements<const int32_t>(ids, "ids", {kAny});
  const CodedView& view = weight.view();
  const int64_t count = size_of(ids, 0);
  Fresh<float> out({count, view.inputs});
  {
    nb::gil_scoped_release released;
    for (int64_t i = 0; i < count; ++i) {
      require(wanted[i] >= 0 && wanted[i] < view.rows, "id " + std::to_string(wanted[i]) +
                                                           " is not one of the table's " +
                                                           std::to_string(view.rows) + " rows.");
      read_coded_row(view, wanted[i], out.data + i * view.inputs);
    }
  }
  return out.release();
}

bool is_possible(float value) {
  return std::abs(value) <= kLargestWeight;  // false for what is not a number
}
bool is_possible(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return is_possible(value);
}

// The tiles, and sums of squares per tile: of the errors and of the weights.
template <typename Weight, typename Round>
std::pair<Result<uint8_t>, Result<double>> round_rows(const Array& weight, int bits, int threads,
                                                      Round round) {
  const auto* from = elements<const Weight>(weight, "weight", {kAny, kAny});
  const CodedView view = view_of(size_of(weight, 0), size_of(weight, 1), bits);
  require_threads(threads);
  Fresh<uint8_t> tiles({view.tile_count, view.blocks, coded_block_bytes(bits)});
  Fresh<double> errors({view.tile_count, 2});
  {
    nb::gil_scoped_release released;
    std::atomic<bool> valid{true};
    const double nanoseconds = kNanosecondsToRound * static_cast<double>(kCodedRows * view.inputs);
    parallel_for(view.tile_count, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t row = tile * kCodedRows, count = std::min(kCodedRows, view.rows - row);
        const Weight* rows = from + row * view.inputs;
        if (!std::all_of(rows, rows + count * view.inputs, [](Weight one) { return is_possible(one); })) {
          valid = false;
          return;
        }
        uint8_t* to = tiles.data + tile * view.blocks * coded_block_bytes(bits);
        const CodedError error = round(rows, count, view.inputs, view.blocks, bits, to);
        errors.data[2 * tile] = error.error;
        errors.data[2 * tile + 1] = error.weight;
      }
    });
    require(valid, "weight holds a value that is not finite or beyond 10^15.");
  }
  return {tiles.release(), errors.release()};
}

std::pair<Result<uint8_t>, Result<double>> round_to_codes(const Array& weight, int bits, int threads) {
  return holds<uint16_t>(weight) ? round_rows<uint16_t>(weight, bits, threads, table().round_tile_bf16)
                                 : round_rows<float>(weight, bits, threads, table().round_tile);
}

}  // namespace

void bind_coded(nb::module_& m) {
  nb::class_<CodedMatrix>(m, "CodedMatrix")
      .def_prop_ro("out_features", [](const CodedMatrix& weight) { return weight.view().rows; })
      .def_prop_ro("in_features", [](const CodedMatrix& weight) { return weight.view().inputs; })
      .def_prop_ro("bits", [](const CodedMatrix& weight) { return weight.view().bits; })
      .def_prop_ro("nbytes", &CodedMatrix::nbytes);
  m.def("prepare_coded", &prepare, nb::arg("tiles").noconvert(), nb::arg("rows"), nb::arg("inputs"),
        nb::arg("bits"), nb::arg("threads"));
  m.def("coded_matmul", &matmul, nb::arg("weight"), nb::arg("q").noconvert(), nb::arg("scale").noconvert(),
        nb::arg("threads"));
  m.def("coded_lookup", &look_up, nb::arg("weight"), nb::arg("ids").noconvert());
  m.def("round_to_codes", &round_to_codes, nb::arg("weight").noconvert(), nb::arg("bits"),
        nb::arg("threads"));
}

}  // namespace tritium
