#include <algorithm>
#include <cmath>
#include <vector>

#include "finite.h"
#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kNanosecondsPerWeight = 0.1;
constexpr const char* kNotFinite = "The weights hold NaN or infinity.";

struct WeightMatrix {
  const void* data;
  int type;  // index by WeightType
  int64_t rows;
  int64_t columns;
};

WeightMatrix weight_matrix(const Array& weights) {
  const nb::dlpack::dtype dtype = weights.dtype();
  const bool is_half = dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && dtype.bits == 16;
  const bool is_known = is_half || holds<float>(weights) || holds<uint16_t>(weights);
  require(is_known && weights.ndim() == 2 && is_contiguous(weights) && weights.size() > 0,
          "weights must be a C-contiguous matrix of float32, float16 or uint16 (bfloat16 bits) with at least "
          "one element.");
  const WeightType type = is_half                 ? WeightType::kHalf
                          : holds<float>(weights) ? WeightType::kFloat32
                                                  : WeightType::kBFloat16;
  return {weights.data(), static_cast<int>(type), size_of(weights, 0), size_of(weights, 1)};
}

// A group is at most a row.
int64_t checked_group_size(int64_t group_size, int64_t columns) {
  require(group_size >= 1, "group_size must be at least 1.");
  return std::min(group_size, columns);
}

int64_t groups_of(int64_t columns, int64_t group_size) {
  return (columns + group_size - 1) / group_size;
}

void require_finite(const float* values, size_t count) {
  require(std::all_of(values, values + count, [](float value) { return std::isfinite(value); }), kNotFinite);
}

// The mean of all rows' sums, added in the order of the rows.
float tensor_mean(const std::vector<double>& sums, int64_t columns) {
  double total = 0;
  for (const double row : sums) total += row;
  const double count = static_cast<double>(sums.size()) * static_cast<double>(columns);
  return std::max(static_cast<float>(total / count), 1e-5f);
}

// group_size 0 takes one scale for the whole tensor.
nb::tuple absmean(const Array& weights, int64_t group_size, int threads) {
  const WeightMatrix matrix = weight_matrix(weights);
  require_threads(threads);
  const bool is_per_tensor = group_size == 0;
  group_size = is_per_tensor ? matrix.columns : checked_group_size(group_size, matrix.columns);
  const int64_t groups = groups_of(matrix.columns, group_size);
  require(groups == 1 || group_size % 32 == 0, "A group that is no whole row is a multiple of 32 weights.");
  const int64_t stride = (matrix.columns + 127) / 128 * 32;
  Fresh<float> means({is_per_tensor ? 1 : matrix.rows, groups});
  Fresh<uint8_t> planes({matrix.rows, stride});
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    const double cost = kNanosecondsPerWeight * static_cast<double>(matrix.columns);
    std::vector<double> sums(static_cast<size_t>(is_per_tensor ? matrix.rows : 0));
    const AbsmeanTask task = {matrix.data, matrix.columns, groups,      group_size, is_per_tensor,
                              sums.data(), means.data,     planes.data, stride};
    if (is_per_tensor) {
      parallel_for(matrix.rows, 1, threads, cost,
                   [&](int64_t begin, int64_t end) { kernels.absmean_sums[matrix.type](task, begin, end); });
      *means.data = tensor_mean(sums, matrix.columns);
    }
    // From the last rows to the first: of a tensor that was just summed, those are still in the cache.
    parallel_for(matrix.rows, 1, threads, cost, [&](int64_t begin, int64_t end) {
      kernels.absmean_pack[matrix.type](task, matrix.rows - end, matrix.rows - begin);
    });
  }
  require_finite(means.data, means.count);
  return nb::make_tuple(planes.release(), means.release());
}

// group_size 0 takes one scale for the whole tensor.
Result<float> least_squares_scales(const Array& weights, int64_t group_size, int threads) {
  WeightMatrix matrix = weight_matrix(weights);
  require_threads(threads);
  if (group_size == 0) {
    matrix.columns *= matrix.rows;
    matrix.rows = 1;
    group_size = matrix.columns;
  }
  group_size = checked_group_size(group_size, matrix.columns);
  const int64_t groups = groups_of(matrix.columns, group_size);
  Fresh<float> scales({matrix.rows, groups});
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    const LeastSquaresTask task = {matrix.data, matrix.columns, groups, group_size, scales.data};
    const double cost = 4 * kNanosecondsPerWeight * static_cast<double>(group_size);
    parallel_for(matrix.rows * groups, 16, threads, cost,
                 [&](int64_t begin, int64_t end) { kernels.least_squares[matrix.type](task, begin, end); });
  }
  require_finite(scales.data, scales.count);
  return scales.release();
}

Result<int8_t> round_levels(const Array& weights, const Array& scales, int64_t group_size, int limit,
                            int threads) {
  const auto* from = elements<const float>(weights, "weights", {kAny, kAny});
  const int64_t rows = size_of(weights, 0), columns = size_of(weights, 1);
  require(columns >= 1 && limit >= 1 && limit <= 127, "limit must be between 1 and 127.");
  require_threads(threads);
  group_size = checked_group_size(group_size, columns);
  const int64_t groups = groups_of(columns, group_size);
  const int64_t scale_rows = size_of(scales, 0);
  require(scale_rows == 1 || scale_rows == rows, "scales must have one row, or one for each row of weights.");
  const auto* per_group = elements<const float>(scales, "scales", {kAny, groups});
  Fresh<int8_t> levels({rows, columns});
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    const LevelsTask task = {from, columns, per_group, scale_rows, groups, group_size, limit, levels.data};
    parallel_for(rows, 1, threads, 2 * kNanosecondsPerWeight * static_cast<double>(columns),
                 [&](int64_t begin, int64_t end) { kernels.round_levels(task, begin, end); });
  }
  return levels.release();
}

// uint16 means the bits of bfloat16.
int64_t first_not_finite_of(const Array& values, int threads) {
  const nb::dlpack::dtype dtype = values.dtype();
  const bool is_float = dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float);
  require(values.ndim() == 1 && is_contiguous(values) && (is_float || holds<uint16_t>(values)),
          "values must be floating-point numbers, one after the other.");
  require_threads(threads);
  const int64_t count = size_of(values, 0);
  const void* data = values.data();
  nb::gil_scoped_release released;
  switch (dtype.bits) {
    case 16:
      return first_not_finite<uint16_t>(static_cast<const uint16_t*>(data), count, is_float ? 0x7c00 : 0x7f80,
                                        threads);
    case 32:
      return first_not_finite<uint32_t>(static_cast<const uint32_t*>(data), count, 0x7f800000, threads);
    case 64:
      return first_not_finite<uint64_t>(static_cast<const uint64_t*>(data), count, uint64_t{0x7ff} << 52,
                                        threads);
    default:
      throw std::invalid_argument("values must be numbers of 16, 32 or 64 bits.");
  }
}

}  // namespace

void bind_quantize(nb::module_& m) {
  m.def("first_not_finite", &first_not_finite_of, nb::arg("values").noconvert(), nb::arg("threads"));
  m.def("absmean", &absmean, nb::arg("weights").noconvert(), nb::arg("group_size"), nb::arg("threads"));
  m.def("least_squares_scales", &least_squares_scales, nb::arg("weights").noconvert(), nb::arg("group_size"),
        nb::arg("threads"));
  m.def("round_levels", &round_levels, nb::arg("weights").noconvert(), nb::arg("scales").noconvert(),
        nb::arg("group_size"), nb::arg("limit"), nb::arg("threads"));
}

}  // namespace tritium
