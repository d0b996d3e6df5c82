#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <memory>

#include "arena.h"
#include "moves.h"
#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kNanosecondsPerWeight = 4;  // of the group, while most rest
constexpr double kNanosecondsPerMove = 3;    // of a tile's columns
constexpr int64_t kRowsApiece = 512;         // about, whose slopes of a tile stay in a near cache
constexpr int64_t kWhole = 16;               // columns, which kernels take at once
constexpr int64_t kLongGroup = 1024;         // columns

// What both calls work on.
struct Group {
  DescentTask task;
  int64_t rows;
};

// The Hessian of the group's columns alone. Its rows lie pages apart and fall into few sets of a cache, so
// they are copied, unless the group is so long that this would be a second Hessian.
void take_own_part(const float* hessian, DescentTask& task, Arena& memory) {
  const float* from = hessian + task.first * task.inputs + task.first;
  task.hessian = from;
  task.apart = task.inputs;
  if (task.count > kLongGroup && task.count % kWhole == 0) return;
  task.apart = (task.count + kWhole - 1) / kWhole * kWhole;
  float* to = reinterpret_cast<float*>(memory.reserve(task.count * task.apart * int64_t{sizeof(float)}));
  task.hessian = to;
  for (int64_t k = 0; k < task.count; ++k, from += task.inputs, to += task.apart) {
    std::fill(std::copy_n(from, task.count, to), to + task.apart, 0.0f);
  }
}

Group checked_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                    const WritableArray& stiffness, int64_t first, int64_t count, int threads,
                    Arena& memory) {
  const int64_t rows = size_of(levels, 0), inputs = size_of(levels, 1);
  require(first >= 0 && count >= 1 && first + count <= inputs, "The group's columns are not all there.");
  require_threads(threads);
  DescentTask task{};
  const float* all = elements<const float>(hessian, "hessian", {inputs, inputs});
  task.inputs = inputs;
  task.first = first;
  task.count = count;
  task.levels = elements<float>(levels, "levels", {rows, inputs});
  task.slope = elements<float>(slope, "slope", {rows, inputs});
  task.stiffness = elements<float>(stiffness, "stiffness", {rows});
  take_own_part(all, task, memory);
  return {task, rows};
}

Result<float> weigh_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                          const WritableArray& stiffness, int64_t first, int64_t count, int threads) {
  Arena memory;
  Group group = checked_group(levels, slope, hessian, stiffness, first, count, threads, memory);
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

TellTask tell_task(const float* hessian, float* slope, int64_t inputs, int64_t first, int64_t told_first,
                   int64_t told_count) {
  TellTask task{};
  task.hessian = hessian;
  task.inputs = inputs;
  task.slope = slope;
  task.first = first;
  task.told_begin = told_first;
  task.told_end = told_first + told_count;
  return task;
}

// Some rows and a tile of columns at a time.
void tell_tiles(TellTask task, const Moves& moves, int threads) {
  task.ends = moves.ends();
  task.moves = moves.data();
  task.count = moves.count();
  const int64_t tiles = (task.told_end - task.told_begin + kTellTile - 1) / kTellTile;
  const int64_t pieces = std::max<int64_t>(1, moves.rows() / kRowsApiece);
  if (moves.size() == 0 || tiles == 0) return;
  const KernelTable& kernels = table();
  const double each = static_cast<double>(moves.size()) / static_cast<double>(pieces);
  parallel_for(tiles * pieces, 1, threads, kNanosecondsPerMove * each, [&](int64_t begin, int64_t end) {
    for (TellTask part = task; begin < end; ++begin) {
      part.row_begin = moves.rows() * (begin / tiles) / pieces;
      part.row_end = moves.rows() * (begin / tiles + 1) / pieces;
      kernels.tell(part, begin % tiles, begin % tiles + 1);
    }
  });
}

bool round_group(const WritableArray& levels, const WritableArray& slope, const Array& hessian,
                 const WritableArray& stiffness, const WritableArray& changes, int64_t first, int64_t count,
                 int64_t block, const Array& before, const Array& scales, int limit, int threads) {
  Arena memory;
  const Group group = checked_group(levels, slope, hessian, stiffness, first, count, threads, memory);
  const int64_t inputs = group.task.inputs, width = size_of(changes, 1);
  require(limit >= 1 && limit <= 127, "limit must be between 1 and 127.");
  require(block >= 0 && block + width <= inputs, "The block's columns are not all there.");
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
  const Moves moves(task.changes, width, group.rows, count, threads);
  tell_tiles(tell_task(static_cast<const float*>(hessian.data()), task.slope, inputs, first, block, width),
             moves, threads);
  return std::find(has_moved.get(), has_moved.get() + group.rows, true) != has_moved.get() + group.rows;
}

std::unique_ptr<Moves> find_moves(const Array& changes, int threads) {
  require_threads(threads);
  const int64_t rows = size_of(changes, 0), count = size_of(changes, 1);
  const float* values = elements<const float>(changes, "changes", {rows, count});
  nb::gil_scoped_release released;
  return std::make_unique<Moves>(values, count, rows, count, threads);
}

void tell(const WritableArray& slope, const Array& hessian, const Moves& moves, int64_t first,
          int64_t told_first, int64_t told_count, int threads) {
  const int64_t inputs = size_of(slope, 1);
  require_threads(threads);
  require(first >= 0 && first + moves.count() <= inputs, "The columns that moved are not all there.");
  require(told_first >= 0 && told_count >= 0 && told_first + told_count <= inputs,
          "The columns that are told are not all there.");
  const TellTask task = tell_task(elements<const float>(hessian, "hessian", {inputs, inputs}),
                                  elements<float>(slope, "slope", {moves.rows(), inputs}), inputs, first,
                                  told_first, told_count);
  nb::gil_scoped_release released;
  tell_tiles(task, moves, threads);
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
  nb::class_<Moves>(m, "Moves").def_prop_ro("size", &Moves::size);
  m.def("find_moves", &find_moves, nb::arg("changes").noconvert(), nb::arg("threads"));
  m.def("tell", &tell, nb::arg("slope").noconvert(), nb::arg("hessian").noconvert(), nb::arg("moves"),
        nb::arg("first"), nb::arg("told_first"), nb::arg("told_count"), nb::arg("threads"));
}

}  // namespace tritium
