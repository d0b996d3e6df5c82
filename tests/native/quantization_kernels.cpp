// Random rows descend over one group of columns, twice.
#include <algorithm>
#include <limits>
#include <memory>

#include "agreement.h"
#include "moves.h"

namespace tritium::agreement {
namespace {

// Symmetric, with a diagonal that is positive.
std::vector<float> random_hessian(Random& random, int64_t inputs) {
  std::vector<float> hessian(static_cast<size_t>(inputs * inputs));
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t j = 0; j < i; ++j) hessian[i * inputs + j] = hessian[j * inputs + i] = random.real();
    hessian[i * inputs + i] = 2.0f + random.real();
  }
  return hessian;
}

// The part of columns [first, first + count), its rows `apart`.
std::vector<float> part_of(const std::vector<float>& hessian, int64_t inputs, int64_t first, int64_t count,
                           int64_t apart) {
  std::vector<float> part(static_cast<size_t>(count * apart));
  for (int64_t k = 0; k < count; ++k) {
    std::copy_n(&hessian[(first + k) * inputs + first], count, &part[k * apart]);
  }
  return part;
}

Bytes descend(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(1, 4), inputs = random.between(1, 150);
  const int limit = random.chance(2) ? 1 : 13;
  const std::vector<float> hessian = random_hessian(random, inputs);
  std::vector<float> levels(static_cast<size_t>(rows * inputs));
  for (float& level : levels) level = static_cast<float>(random.between(-limit, limit));
  std::vector<float> slope = random.reals(rows * inputs, 4.0f), pull(static_cast<size_t>(rows));
  std::vector<float> before = random.reals(rows, 1.0f), scales = before;
  std::vector<float> stiffness(pull.size(), std::numeric_limits<float>::quiet_NaN());
  for (float& scale : scales)
    scale = random.chance(4) ? 0.0f : scale * static_cast<float>(random.between(1, 2));
  const auto has_moved = std::make_unique<bool[]>(pull.size());
  DescentTask task{};
  task.inputs = inputs;
  task.first = random.between(0, inputs - 1);
  task.count = random.between(1, inputs - task.first);
  task.apart = (task.count + 15) / 16 * 16;
  const std::vector<float> own = part_of(hessian, inputs, task.first, task.count, task.apart);
  task.hessian = own.data();
  task.limit = static_cast<float>(limit);
  task.levels = levels.data();
  task.slope = slope.data();
  task.stiffness = stiffness.data();
  task.pull = pull.data();
  task.before = before.data();
  task.scales = scales.data();
  task.has_moved = has_moved.get();
  std::vector<float> changes(static_cast<size_t>(rows * task.count));
  task.changes = changes.data();
  task.changes_apart = task.count;
  const int64_t told_begin = random.between(0, inputs), told_end = random.between(told_begin, inputs);
  Bytes bytes;
  for (int step = 0; step < 2; ++step) {
    table.weigh_group(task, 0, rows);
    append(bytes, stiffness);
    table.round_group(task, 0, rows);
    const Moves moves(changes.data(), task.count, rows, task.count, 1);
    table.tell({hessian.data(), inputs, task.slope, 0, rows, moves.ends(), moves.data(), task.first,
                task.count, told_begin, told_end},
               0, (told_end - told_begin + kTellTile - 1) / kTellTile);
    task.before = scales.data();
    for (const auto& values : {levels, slope, pull, stiffness, changes}) append(bytes, values);
    bytes.insert(bytes.end(), has_moved.get(), has_moved.get() + rows);
  }
  return bytes;
}

// Rows of two sets of inputs as pairs, and their products.
Bytes multiply_inputs(const KernelTable& table, Random& random) {
  const int64_t rows = random.between(1, 60), columns = random.between(1, 70), others = random.between(1, 70);
  const bool is_symmetric = random.chance(2);
  const int64_t count = (rows + 1) / 2;
  Bytes bytes;
  std::vector<std::vector<int16_t>> pairs;
  std::vector<std::vector<float>> units;
  for (const int64_t width : {columns, is_symmetric ? columns : others}) {
    const std::vector<float> values = random.reals(rows * width, 4.0f);
    const int64_t blocks = (width + 15) / 16;
    pairs.emplace_back(static_cast<size_t>(blocks * count * 32));
    units.emplace_back(static_cast<size_t>(blocks * 16));
    table.pair_rows({values.data(), rows, width, count, pairs.back().data(), units.back().data()}, 0, blocks);
    append(bytes, pairs.back());
    append(bytes, units.back());
  }
  const int64_t right = is_symmetric ? 0 : 1, width = is_symmetric ? columns : others;
  std::vector<float> out = random.reals(columns * width, 1.0f);
  const GramTask task = {
      pairs[0].data(), pairs[right].data(), units[0].data(), units[right].data(), count, columns,
      width,           is_symmetric,        out.data()};
  table.add_gram(task, 0, (columns + 15) / 16);
  append(bytes, out);
  return bytes;
}

constexpr Case kCases[] = {{"descend", descend}, {"multiply_inputs", multiply_inputs}};

}  // namespace

std::span<const Case> quantization_cases() {
  return kCases;
}

}  // namespace tritium::agreement
