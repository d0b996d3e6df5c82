#include <algorithm>
#include <vector>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int64_t kBlock = 16;        // columns
constexpr int64_t kBlocksApiece = 8;  // of a thread: the other side is read once for all of them
constexpr double kNanosecondsPerProduct = 0.01;

// What a chunk of rows becomes.
struct PairedRows {
  explicit PairedRows(int64_t all_columns)
      : columns(all_columns),
        blocks((all_columns + kBlock - 1) / kBlock),
        pairs(static_cast<size_t>(blocks * kBlock * kGramRows)),
        units(static_cast<size_t>(blocks * kBlock)) {}

  void read(const float* values, int64_t rows, int threads) {
    const PairTask task = {values, rows, columns, (rows + 1) / 2, pairs.data(), units.data()};
    parallel_for(blocks, 1, threads, 4.0 * kBlock * static_cast<double>(rows),
                 [&](int64_t begin, int64_t end) { table().pair_rows(task, begin, end); });
  }

  int64_t columns, blocks;
  std::vector<int16_t> pairs;
  std::vector<float> units;
};

void add_products(const PairedRows& first, const PairedRows& second, int64_t rows, bool is_symmetric,
                  float* out, int threads) {
  const GramTask task = {first.pairs.data(),  second.pairs.data(), first.units.data(),
                         second.units.data(), (rows + 1) / 2,      first.columns,
                         second.columns,      is_symmetric,        out};
  const double cost = kNanosecondsPerProduct * static_cast<double>(kBlock * second.columns * rows);
  parallel_for(first.blocks, kBlocksApiece, threads, cost,
               [&](int64_t begin, int64_t end) { table().add_gram(task, begin, end); });
}

int64_t rows_of_chunk(int64_t start, int64_t rows) {
  return std::min(rows - start, kGramRows);
}

void add_gram(const Array& values, const WritableArray& out, int threads) {
  const auto* from = elements<const float>(values, "values", {kAny, kAny});
  const int64_t rows = size_of(values, 0), columns = size_of(values, 1);
  float* to = elements<float>(out, "out", {columns, columns});
  require_threads(threads);
  nb::gil_scoped_release released;
  PairedRows paired(columns);
  for (int64_t start = 0; start < rows; start += kGramRows) {
    const int64_t count = rows_of_chunk(start, rows);
    paired.read(from + start * columns, count, threads);
    add_products(paired, paired, count, true, to, threads);
  }
}

void add_cross_gram(const Array& first, const Array& second, const WritableArray& out, int threads) {
  const auto* left = elements<const float>(first, "first", {kAny, kAny});
  const int64_t rows = size_of(first, 0), columns = size_of(first, 1), others = size_of(second, 1);
  const auto* right = elements<const float>(second, "second", {rows, kAny});
  float* to = elements<float>(out, "out", {columns, others});
  require_threads(threads);
  nb::gil_scoped_release released;
  PairedRows paired(columns), paired_others(others);
  for (int64_t start = 0; start < rows; start += kGramRows) {
    const int64_t count = rows_of_chunk(start, rows);
    paired.read(left + start * columns, count, threads);
    paired_others.read(right + start * others, count, threads);
    add_products(paired, paired_others, count, false, to, threads);
  }
}

}  // namespace

void bind_gram(nb::module_& m) {
  m.def("add_gram", &add_gram, nb::arg("values").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"));
  m.def("add_cross_gram", &add_cross_gram, nb::arg("first").noconvert(), nb::arg("second").noconvert(),
        nb::arg("out").noconvert(), nb::arg("threads"));
}

}  // namespace tritium
