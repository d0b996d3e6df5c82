// One query position against the keys and values of its context, for the heads that share them.
#pragma once

#include "elementwise.h"
#include "table.h"

namespace tritium {
namespace {

TRITIUM_INLINE float dot(const float* a, const float* b, int64_t count) {
  return sum(accumulate(
      count, [&](int64_t i, int64_t left) { return load_some(a + i, left) * load_some(b + i, left); }));
}

// out[0, Lanes x Wide) = sum over positions, in order, of weight x value; then divided by `total`.
template <int Wide>
TRITIUM_INLINE void mix_values(const AttentionTask& task, int64_t offset, int64_t left, float total,
                               float* out) {
  Lanes mixed[Wide];
  for (Lanes& one : mixed) one = broadcast(0.0f);
  for (int64_t position = 0; position < task.length; ++position) {
    const Lanes weight = broadcast(task.scores[position]);
    const float* value = task.values[position] + offset;
#pragma GCC unroll 4
    for (int i = 0; i < Wide; ++i) {
      mixed[i] = mixed[i] + weight * load_some(value + i * kLanes, left - i * kLanes);
    }
  }
  const Lanes divisor = broadcast(total);
  for (int i = 0; i < Wide; ++i) {
    store_some(out + offset + i * kLanes, mixed[i] / divisor, left - i * kLanes);
  }
}

void attend(const AttentionTask& task) {
  for (int64_t head = 0; head < task.heads; ++head) {
    const float* query = task.q + head * task.dim;
    float* out = task.out + head * task.dim;
    for (int64_t position = 0; position < task.length; ++position) {
      task.scores[position] = dot(query, task.keys[position], task.dim) * task.scale;
    }
    const float total = exponentiate(task.scores, task.length, largest_of(task.scores, task.length));
    int64_t offset = 0;
    for (; offset + 4 * kLanes <= task.dim; offset += 4 * kLanes) {
      mix_values<4>(task, offset, 4 * kLanes, total, out);
    }
    for (; offset < task.dim; offset += kLanes) mix_values<1>(task, offset, task.dim - offset, total, out);
  }
}

}  // namespace
}  // namespace tritium
