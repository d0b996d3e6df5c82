#include <algorithm>
#include <memory>
#include <vector>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kNanosecondsPerWeight = 4;  // of the group, while most rest
constexpr double kNanosecondsPerInput = 1;
constexpr int64_t kRowsApiece = 128;  // of a thread, which copies the group's part of the Hessian for them

// What both calls work on.
struct Group {
  DescentTask task;
  int64_t rows;
};

Group checked_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                    const WritableArray& stiffness, int64_t first, int64_t count, int threads) {
  const int64_t rows = size_of(levels, 0), inputs = size_of(levels, 1);
  require(first >= 0 && count >= 1 && first + count <= inputs, "The group's columns are not all there.");
  require_threads(threads);
  DescentTask task{};
  task.hessian = elements<const float>(hessian, "hessian", {inputs, inputs});
  task.inputs = inputs;
  task.first = first;
  task.count = count;
  task.levels = elements<float>(levels, "levels", {rows, inputs});
  task.slope = elements<float>(slope, "slope", {rows, inputs});
  task.stiffness = elements<float>(stiffness, "stiffness", {rows});
  return {task, rows};
}

Result<float> weigh_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                          const WritableArray& stiffness, int64_t first, int64_t count, int threads) {
  Group group = checked_group(levels, slope, hessian, stiffness, first, count, threads);
  Fresh<float> pull({group.rows});
  group.task.pull = pull.data;
  {
    nb::gil_scoped_release released;
    const KernelTable& kernels = table();
    parallel_for(group.rows, 1, threads, kNanosecondsPerWeight * static_cast<double>(count),
                 [&](int64_t begin, int64_t end) { kernels.weigh_group(group.task, begin, end); });
  }
  return pull.release();
}

bool round_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                 const WritableArray& stiffness, int64_t first, int64_t count, const Array& before,
                 const Array& scales, int limit, int threads) {
  Group group = checked_group(levels, slope, hessian, stiffness, first, count, threads);
  require(limit >= 1 && limit <= 127, "limit must be between 1 and 127.");
  group.task.before = elements<const float>(before, "before", {group.rows});
  group.task.scales = elements<const float>(scales, "scales", {group.rows});
  group.task.limit = static_cast<float>(limit);
  const auto has_moved = std::make_unique<bool[]>(static_cast<size_t>(group.rows));
  group.task.has_moved = has_moved.get();
  std::vector<int32_t> move_counts(static_cast<size_t>(group.rows));
  std::vector<int32_t> places(static_cast<size_t>(group.rows * count));
  std::vector<float> moves(places.size());
  group.task.move_counts = move_counts.data();
  group.task.places = places.data();
  group.task.moves = moves.data();
  nb::gil_scoped_release released;
  const KernelTable& kernels = table();
  parallel_for(group.rows, 1, threads, kNanosecondsPerWeight * static_cast<double>(count),
               [&](int64_t begin, int64_t end) { kernels.round_group(group.task, begin, end); });
  parallel_for(group.rows, kRowsApiece, threads,
               kNanosecondsPerInput * static_cast<double>(group.task.inputs),
               [&](int64_t begin, int64_t end) { kernels.tell_group(group.task, begin, end); });
  return std::find(has_moved.get(), has_moved.get() + group.rows, true) != has_moved.get() + group.rows;
}

}  // namespace

void bind_descend(nb::module_& m) {
  m.def("weigh_group", &weigh_group, nb::arg("levels").noconvert(), nb::arg("slope").noconvert(),
        nb::arg("hessian").noconvert(), nb::arg("stiffness").noconvert(), nb::arg("first"), nb::arg("count"),
        nb::arg("threads"));
  m.def("round_group", &round_group, nb::arg("levels").noconvert(), nb::arg("slope").noconvert(),
        nb::arg("hessian").noconvert(), nb::arg("stiffness").noconvert(), nb::arg("first"), nb::arg("count"),
        nb::arg("before").noconvert(), nb::arg("scales").noconvert(), nb::arg("limit"), nb::arg("threads"));
}

}  // namespace tritium
