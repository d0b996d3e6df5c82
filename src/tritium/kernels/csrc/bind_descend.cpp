#include <algorithm>
#include <memory>
#include <utility>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kNanosecondsPerWeight = 4;  // of the group, while most rest
constexpr double kNanosecondsPerSlope = 1;
constexpr int64_t kRowsApiece = 256;  // of a thread, which copies parts of the Hessian for them

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

void tell_rows(const TellTask& task, int64_t rows, int threads) {
  const KernelTable& kernels = table();
  const double slopes = static_cast<double>(task.told_end - task.told_begin);
  parallel_for(rows, kRowsApiece, threads, kNanosecondsPerSlope * slopes,
               [&](int64_t begin, int64_t end) { kernels.tell(task, begin, end); });
}

bool round_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                 const WritableArray& stiffness, const WritableArray& changes, int64_t first, int64_t count,
                 int64_t block, const Array& before, const Array& scales, int limit, int threads) {
  const Group group = checked_group(levels, slope, hessian, stiffness, first, count, threads);
  const int64_t width = size_of(changes, 1);
  require(limit >= 1 && limit <= 127, "limit must be between 1 and 127.");
  require(block >= 0 && block + width <= group.task.inputs, "The block's columns are not all there.");
  require(block <= first && first + count <= block + width, "The group's columns are not the block's.");
  DescentTask task = group.task;
  task.before = elements<const float>(before, "before", {group.rows});
  task.scales = elements<const float>(scales, "scales", {group.rows});
  task.limit = static_cast<float>(limit);
  task.changes = elements<float>(changes, "changes", {group.rows, width}) + first - block;
  task.changes_apart = width;
  const auto has_moved = std::make_unique<bool[]>(static_cast<size_t>(group.rows));
  task.has_moved = has_moved.get();
  nb::gil_scoped_release released;
  const KernelTable& kernels = table();
  parallel_for(group.rows, 1, threads, kNanosecondsPerWeight * static_cast<double>(count),
               [&](int64_t begin, int64_t end) { kernels.round_group(task, begin, end); });
  tell_rows({task.hessian, task.inputs, task.slope, task.changes, width, first, count, block, block + width},
            group.rows, threads);
  return std::find(has_moved.get(), has_moved.get() + group.rows, true) != has_moved.get() + group.rows;
}

void tell_others(const WritableArray& slope, const Array& hessian, const Array& changes, int64_t first,
                 int threads) {
  const int64_t rows = size_of(slope, 0), inputs = size_of(slope, 1), count = size_of(changes, 1);
  require(first >= 0 && first + count <= inputs, "The block's columns are not all there.");
  require_threads(threads);
  TellTask task{};
  task.hessian = elements<const float>(hessian, "hessian", {inputs, inputs});
  task.inputs = inputs;
  task.slope = elements<float>(slope, "slope", {rows, inputs});
  task.changes = elements<const float>(changes, "changes", {rows, count});
  task.changes_apart = task.count = count;
  task.first = first;
  nb::gil_scoped_release released;
  for (const auto& [begin, end] : {std::pair{int64_t{0}, first}, std::pair{first + count, inputs}}) {
    task.told_begin = begin;
    task.told_end = end;
    tell_rows(task, rows, threads);
  }
}

}  // namespace

void bind_descend(nb::module_& m) {
  m.def("weigh_group", &weigh_group, nb::arg("levels").noconvert(), nb::arg("slope").noconvert(),
        nb::arg("hessian").noconvert(), nb::arg("stiffness").noconvert(), nb::arg("first"), nb::arg("count"),
        nb::arg("threads"));
  m.def("round_group", &round_group, nb::arg("levels").noconvert(), nb::arg("slope").noconvert(),
        nb::arg("hessian").noconvert(), nb::arg("stiffness").noconvert(), nb::arg("changes").noconvert(),
        nb::arg("first"), nb::arg("count"), nb::arg("block"), nb::arg("before").noconvert(),
        nb::arg("scales").noconvert(), nb::arg("limit"), nb::arg("threads"));
  m.def("tell_others", &tell_others, nb::arg("slope").noconvert(), nb::arg("hessian").noconvert(),
        nb::arg("changes").noconvert(), nb::arg("first"), nb::arg("threads"));
}

}  // namespace tritium
