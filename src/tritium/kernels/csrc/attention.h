// Attention over the pages of one head: softmax as it goes, in tiles of 64 positions.
#pragma once

#include <limits>

#include "bound.h"
#include "half.h"
#include "integer_pairs.h"
#include "kv_pages.h"
#include "table.h"

namespace tritium {
namespace {

constexpr int64_t kTilePages = kTilePositions / kPagePositions;
constexpr float kLargestWord = 32767.0f;

// How much fits the registers: rows at once, pages of keys at once, vectors of values at once.
constexpr int kRowsAtOnce = kWidth == 16 ? 4 : 2;
constexpr int kPagesAtOnce = kWidth == 16 ? 4 : kWidth == 8 ? 2 : 1;
constexpr int kNumberPagesAtOnce = kWidth == 16 ? 2 : 1;
constexpr int kVectorsAtOnce = kPagesAtOnce;

// The pages of 64 positions, of which the first `count` exist. What lies behind is read, never used.
struct KvTile {
  const uint8_t* page[kTilePages];
  int64_t begin;
  int64_t count;
  int64_t ahead[kTilePages] = {};  // bytes from a page to the one that is fetched meanwhile; 0: none
};

// What lies at the same place of the page that comes next.
TRITIUM_INLINE void fetch(const void* at, int64_t ahead) {
  __builtin_prefetch(static_cast<const uint8_t*>(at) + ahead, 0, 2);
}

TRITIUM_INLINE KvTile tile_of(const KvPlace& place, int64_t block_bytes, int64_t begin, int64_t length) {
  KvTile tile{{}, begin, length - begin < kTilePositions ? length - begin : kTilePositions};
  const int32_t* blocks = place.blocks + begin / kPagePositions;
  for (int64_t i = 0; i < kTilePages; ++i) {
    const int32_t block = i * kPagePositions < tile.count ? blocks[i] : blocks[0];
    tile.page[i] = place.pages + block * block_bytes;
  }
  return tile;
}

// Lanes l with l + first < count, others `otherwise`.
TRITIUM_INLINE Lanes keep_first(const Lanes& lanes, int64_t first, int64_t count, float otherwise) {
  alignas(64) static constexpr int32_t kIndex[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
  if (first + kLanes <= count) return lanes;
  const auto limit = static_cast<int32_t>(count - first);
  return each([&](int i) {
    NativeInt index;
    std::memcpy(&index, kIndex + i * kWidth, sizeof(index));
    return index < NativeInt{} + limit ? lanes.part[i] : NativeFloat{} + otherwise;
  });
}

// Lanes l with l + first >= start, others `otherwise`.
TRITIUM_INLINE Lanes keep_from(const Lanes& lanes, int64_t first, int64_t start, float otherwise) {
  if (first >= start) return lanes;
  const Lanes before = keep_first(broadcast(1.0f), first, start, 0.0f);
  return each([&](int i) { return before.part[i] > 0.0f ? NativeFloat{} + otherwise : lanes.part[i]; });
}

TRITIUM_INLINE float largest_lane(const Lanes& lanes) {
  Float4 quarter[4];
  std::memcpy(quarter, lanes.part, sizeof(quarter));
  const auto pick = [](Float4 a, Float4 b) { return a > b ? a : b; };
  const Float4 four = pick(pick(quarter[0], quarter[2]), pick(quarter[1], quarter[3]));
  const float a = four[0] > four[2] ? four[0] : four[2], b = four[1] > four[3] ? four[1] : four[3];
  return a > b ? a : b;
}

TRITIUM_INLINE float exponential_of(float x) {
  float lanes[kLanes];
  store(lanes, exponential(broadcast(x)));
  return lanes[0];
}

// Pages whose numbers are floats of type Element.
template <typename Element>
struct NumberPages {
  static void prepare(const AttentionTask&, AttentionScratch&) {}

  // Scores of rows [row, row + Rows): the even and the odd dimensions are summed apart, in rising order.
  template <int Rows>
  static TRITIUM_INLINE void score(const AttentionTask& task, const KvTile& tile, int64_t row,
                                   AttentionScratch& scratch) {
    const Lanes scale = broadcast(task.scale);
    for (int64_t first = 0; first < kTilePages; first += kNumberPagesAtOnce) {
      Lanes sums[Rows][kNumberPagesAtOnce][2];
      for (auto& sum_row : sums) {
        for (auto& both : sum_row) both[0] = both[1] = broadcast(0.0f);
      }
      const auto add = [&](int64_t d, int parity) {
        Lanes keys[kNumberPagesAtOnce];
#pragma GCC unroll 2
        for (int i = 0; i < kNumberPagesAtOnce; ++i) {
          const Element* from = reinterpret_cast<const Element*>(tile.page[first + i]) + d * kPagePositions;
          keys[i] = load(from);
          fetch(from, tile.ahead[first + i]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Lanes query = broadcast(task.q[row + r][d]);
#pragma GCC unroll 2
          for (int i = 0; i < kNumberPagesAtOnce; ++i) {
            sums[r][i][parity] = sums[r][i][parity] + query * keys[i];
          }
        }
      };
      int64_t d = 0;
      for (; d + 2 <= task.dim; d += 2) {
        add(d, 0);
        add(d + 1, 1);
      }
      if (d < task.dim) add(d, 0);
      for (int r = 0; r < Rows; ++r) {
        for (int i = 0; i < kNumberPagesAtOnce; ++i) {
          store(scratch.weights[r] + (first + i) * kPagePositions, (sums[r][i][0] + sums[r][i][1]) * scale);
        }
      }
    }
  }

  template <int Rows, int Vectors>
  static TRITIUM_INLINE void mix_vectors(const AttentionTask& task, const KvTile& tile, int64_t positions,
                                         int64_t d, const float* kept, AttentionScratch& scratch,
                                         float* mixed) {
    Lanes sums[Rows][Vectors];
    for (auto& row : sums) {
      for (Lanes& one : row) one = broadcast(0.0f);
    }
    for (int64_t begin = 0; begin < positions; begin += kPagePositions) {
      const auto* values =
          reinterpret_cast<const Element*>(tile.page[begin / kPagePositions] + task.half_page_bytes) + d;
      const int64_t count = positions - begin < kPagePositions ? positions - begin : kPagePositions;
      for (int64_t i = 0; i < count; ++i, values += task.padded) {
        Lanes value[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) value[v] = load(values + v * kLanes);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) fetch(values + v * kLanes, tile.ahead[begin / kPagePositions]);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Lanes weight = broadcast(scratch.weights[r][begin + i]);
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sums[r][v] = sums[r][v] + weight * value[v];
        }
      }
    }
    for (int r = 0; r < Rows; ++r) {
      float* to = mixed + r * task.padded + d;
      for (int v = 0; v < Vectors; ++v) {
        store(to + v * kLanes, load(to + v * kLanes) * broadcast(kept[r]) + sums[r][v]);
      }
    }
  }

  template <int Rows>
  static TRITIUM_INLINE void weigh(const AttentionTask&, const KvTile&, AttentionScratch&) {}
};

// Pages of bytes. Queries, and weights x scales of values, are rounded to 16 bits (relative to the largest of
// a row in a tile), so that all products and sums are exact integers.
struct BytePages {
  static void prepare(const AttentionTask& task, AttentionScratch& scratch) {
    for (int64_t row = 0; row < task.rows; ++row) {
      const float* q = task.q[row];
      Lanes largest = broadcast(0.0f), spoilt = broadcast(0.0f);
      for (int64_t d = 0; d < task.dim; d += kLanes) {
        const Lanes magnitude = absolute(load_some(q + d, task.dim - d));
        largest = larger(magnitude, largest);
        spoilt = spoilt + magnitude * broadcast(0.0f);
      }
      const float top = largest_lane(largest) + sum(spoilt);  // NaN, where an element is not finite
      const bool is_zero = !(top >= 1e-30f);
      const Lanes factor = broadcast(is_zero ? 0.0f : kLargestWord / top);
      scratch.query_scale[row] = is_zero ? top * 0.0f : top / kLargestWord * task.scale;
      for (int64_t d = 0; d < task.padded; d += kLanes) {
        const Lanes scaled = load_some(q + d, task.dim - d) * factor;
        store_words(scratch.query_words[row] + d, round_to_integers(scaled));
      }
    }
  }

  static TRITIUM_INLINE const int8_t* bytes(const uint8_t* half_page) {
    return reinterpret_cast<const int8_t*>(half_page + kScaleBytes);
  }
  static TRITIUM_INLINE Lanes scales(const uint8_t* half_page) {
    return load(reinterpret_cast<const float*>(half_page));
  }

  template <int Rows>
  static TRITIUM_INLINE void score(const AttentionTask& task, const KvTile& tile, int64_t row,
                                   AttentionScratch& scratch) {
    for (int64_t first = 0; first < kTilePages; first += kPagesAtOnce) {
      IntLanes sums[Rows][kPagesAtOnce];
      for (auto& sum_row : sums) {
        for (IntLanes& one : sum_row) one = zero_sums();
      }
      for (int64_t d = 0; d < task.dim; d += 2) {
        Pairs keys[kPagesAtOnce];
#pragma GCC unroll 4
        for (int i = 0; i < kPagesAtOnce; ++i) {
          const int8_t* from = bytes(tile.page[first + i]) + d * kPagePositions;
          keys[i] = load_pairs(from);
          if (d % 4 == 0) fetch(from, tile.ahead[first + i]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Pairs query = broadcast_pair(scratch.query_words[row + r] + d);
#pragma GCC unroll 4
          for (int i = 0; i < kPagesAtOnce; ++i) add_products(sums[r][i], keys[i], query);
        }
      }
      for (int i = 0; i < kPagesAtOnce; ++i) {
        const Lanes scale = scales(tile.page[first + i]);
        fetch(tile.page[first + i], tile.ahead[first + i]);
        for (int r = 0; r < Rows; ++r) {
          const Lanes both = scale * broadcast(scratch.query_scale[row + r]);
          store(scratch.weights[r] + (first + i) * kPagePositions, to_float(sums[r][i]) * both);
        }
      }
    }
  }

  template <int Rows>
  static TRITIUM_INLINE void weigh(const AttentionTask& task, const KvTile& tile, AttentionScratch& scratch) {
    Lanes scale[kTilePages];
    for (int64_t i = 0; i < kTilePages; ++i) {
      fetch(tile.page[i] + task.half_page_bytes, tile.ahead[i]);
      scale[i] =
          keep_first(scales(tile.page[i] + task.half_page_bytes), i * kPagePositions, tile.count, 0.0f);
    }
    for (int r = 0; r < Rows; ++r) {
      Lanes weight[kTilePages];
      Lanes largest = broadcast(0.0f), spoilt = broadcast(0.0f);
      for (int64_t i = 0; i < kTilePages; ++i) {
        weight[i] = load(scratch.weights[r] + i * kPagePositions) * scale[i];
        largest = larger(weight[i], largest);
        spoilt = spoilt + weight[i] * broadcast(0.0f);
      }
      const float top = largest_lane(largest) + sum(spoilt);
      const bool is_zero = !(top >= 1e-30f);
      const Lanes factor = broadcast(is_zero ? 0.0f : kLargestWord / top);
      scratch.word_scale[r] = is_zero ? top * 0.0f : top / kLargestWord;
      for (int64_t i = 0; i < kTilePages; ++i) {
        store_words(scratch.words[r] + i * kPagePositions, round_to_integers(weight[i] * factor));
      }
    }
  }

  template <int Rows, int Vectors>
  static TRITIUM_INLINE void mix_vectors(const AttentionTask& task, const KvTile& tile, int64_t positions,
                                         int64_t d, const float* kept, AttentionScratch& scratch,
                                         float* mixed) {
    IntLanes sums[Rows][Vectors];
    for (auto& row : sums) {
      for (IntLanes& one : row) one = zero_sums();
    }
    for (int64_t begin = 0; begin < positions; begin += kPagePositions) {
      const int8_t* values = bytes(tile.page[begin / kPagePositions] + task.half_page_bytes) + 2 * d;
      const int64_t count = positions - begin < kPagePositions ? positions - begin : kPagePositions;
      for (int64_t i = 0; i < count; i += 2, values += 2 * task.padded) {
        Pairs value[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) value[v] = load_pairs(values + v * 2 * kLanes);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v += 2)
          fetch(values + v * 2 * kLanes, tile.ahead[begin / kPagePositions]);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Pairs weight = broadcast_pair(scratch.words[r] + begin + i);
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) add_products(sums[r][v], value[v], weight);
        }
      }
    }
    for (int r = 0; r < Rows; ++r) {
      float* to = mixed + r * task.padded + d;
      for (int v = 0; v < Vectors; ++v) {
        const Lanes sum = to_float(sums[r][v]) * broadcast(scratch.word_scale[r]);
        store(to + v * kLanes, load(to + v * kLanes) * broadcast(kept[r]) + sum);
      }
    }
  }
};

// Turns a row's scores into exp(score - largest), 0 before `start` and behind `count`; returns what the sums
// so far keep.
TRITIUM_INLINE float soften(float* scores, int64_t start, int64_t count, float* largest, float* total) {
  constexpr float kUnseen = -std::numeric_limits<float>::infinity();
  Lanes score[kTilePages];
  for (int64_t i = 0; i < kTilePages; ++i) {
    score[i] = keep_first(load(scores + i * kLanes), i * kLanes, count, kUnseen);
    if (start > 0) score[i] = keep_from(score[i], i * kLanes, start, kUnseen);
  }
  const float top = largest_lane(larger(larger(score[0], score[1]), larger(score[2], score[3])));
  float kept = 1.0f;
  if (top > *largest) {
    kept = exponential_of(*largest - top);
    *largest = top;
  }
  const Lanes shift = broadcast(*largest);
  for (int64_t i = 0; i < kTilePages; ++i) {
    score[i] = exponential(score[i] - shift);
    store(scores + i * kLanes, score[i]);
  }
  *total = *total * kept + sum((score[0] + score[1]) + (score[2] + score[3]));
  return kept;
}

template <typename Pages, int Rows>
void attend_rows(const AttentionTask& task, const KvTile& tile, int64_t row, const AttentionState& state,
                 AttentionScratch& scratch) {
  Pages::template score<Rows>(task, tile, row, scratch);
  if (task.cap > 0.0f) bound(scratch.weights[0], Rows * kTilePositions, task.cap, scratch.weights[0]);
  float kept[Rows];
  int64_t positions = 0;
  for (int r = 0; r < Rows; ++r) {
    positions = task.lengths[row + r] - tile.begin;
    kept[r] = soften(scratch.weights[r], task.starts[row + r] - tile.begin, positions,
                     state.largest + row + r, state.total + row + r);
  }
  positions = positions < tile.count ? positions : tile.count;  // the last row sees most
  Pages::template weigh<Rows>(task, tile, scratch);
  float* mixed = state.mixed + row * task.padded;
  int64_t d = 0;
  for (; d + kVectorsAtOnce * kLanes <= task.padded; d += kVectorsAtOnce * kLanes) {
    Pages::template mix_vectors<Rows, kVectorsAtOnce>(task, tile, positions, d, kept, scratch, mixed);
  }
  for (; d < task.padded; d += kLanes) {
    Pages::template mix_vectors<Rows, 1>(task, tile, positions, d, kept, scratch, mixed);
  }
}

// A tile with what is fetched while it is worked on: the pages that come next, each of which lies somewhere
// else.
TRITIUM_INLINE KvTile fetching_tile_of(const AttentionTask& task, int64_t begin, int64_t length) {
  KvTile tile = tile_of(task.place, task.block_bytes, begin, length);
  const int64_t end = begin + kTilePositions;
  if (end >= length && task.next_positions == 0) return tile;
  const KvTile next = end < length ? tile_of(task.place, task.block_bytes, end, length)
                                   : tile_of(task.next, task.block_bytes, 0, task.next_positions);
  for (int64_t i = 0; i < kTilePages; ++i) tile.ahead[i] = next.page[i] - tile.page[i];
  return tile;
}

template <typename Pages>
TRITIUM_INLINE void attend_tile(const AttentionTask& task, const KvTile& tile, int64_t row, int64_t end,
                                const AttentionState& state, AttentionScratch& scratch) {
  for (; row + kRowsAtOnce <= end; row += kRowsAtOnce) {
    attend_rows<Pages, kRowsAtOnce>(task, tile, row, state, scratch);
  }
  switch (end - row) {
    case 3:
      return attend_rows<Pages, 3>(task, tile, row, state, scratch);
    case 2:
      return attend_rows<Pages, 2>(task, tile, row, state, scratch);
    case 1:
      return attend_rows<Pages, 1>(task, tile, row, state, scratch);
  }
}

template <typename Pages>
void attend_segment(const AttentionTask& task, int64_t segment, const AttentionState& state,
                    AttentionScratch& scratch) {
  const int64_t longest = task.lengths[task.rows - 1], begin = segment * kSegmentPositions;
  const int64_t end = begin + kSegmentPositions < longest ? begin + kSegmentPositions : longest;
  for (int64_t row = first_row_at(task, begin); row < task.rows; ++row) {
    state.largest[row] = -std::numeric_limits<float>::infinity();
    state.total[row] = 0.0f;
    std::memset(state.mixed + row * task.padded, 0, static_cast<size_t>(task.padded) * 4);
  }
  const int64_t first = task.starts[0] / kTilePositions * kTilePositions;
  for (int64_t at = first > begin ? first : begin; at < end; at += kTilePositions) {
    const KvTile tile = fetching_tile_of(task, at, longest);
    attend_tile<Pages>(task, tile, first_row_at(task, at), end_row_at(task, at + kTilePositions), state,
                       scratch);
  }
}

void merge_attention(const AttentionState& state, const AttentionState& later, int64_t padded, int64_t begin,
                     int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float top = later.largest[row] > state.largest[row] ? later.largest[row] : state.largest[row];
    const float kept = exponential_of(state.largest[row] - top);
    const float added = exponential_of(later.largest[row] - top);
    state.largest[row] = top;
    state.total[row] = state.total[row] * kept + later.total[row] * added;
    float* mixed = state.mixed + row * padded;
    const float* more = later.mixed + row * padded;
    for (int64_t d = 0; d < padded; d += kLanes) {
      store(mixed + d, load(mixed + d) * broadcast(kept) + load(more + d) * broadcast(added));
    }
  }
}

template <typename Pages>
void attend_segments(const AttentionTask& task, int64_t begin, int64_t end, const AttentionState& state,
                     const AttentionState& part, AttentionScratch& scratch) {
  Pages::prepare(task, scratch);
  attend_segment<Pages>(task, begin, state, scratch);
  for (int64_t segment = begin + 1; segment < end; ++segment) {
    attend_segment<Pages>(task, segment, part, scratch);
    merge_attention(state, part, task.padded, first_row_at(task, segment * kSegmentPositions),
                    end_row_at(task, (segment + 1) * kSegmentPositions));
  }
}

void attend(const AttentionTask& task, int64_t begin, int64_t end, const AttentionState& state,
            const AttentionState& part, AttentionScratch& scratch) {
  switch (task.type) {
    case KvType::kFloat32:
      return attend_segments<NumberPages<float>>(task, begin, end, state, part, scratch);
    case KvType::kFloat16:
      return attend_segments<NumberPages<Half>>(task, begin, end, state, part, scratch);
    case KvType::kInt8:
      return attend_segments<BytePages>(task, begin, end, state, part, scratch);
  }
}

void finish_attention(const float* mixed, float total, int64_t dim, float* out) {
  const Lanes divisor = broadcast(total);
  for (int64_t d = 0; d < dim; d += kLanes) store_some(out + d, load(mixed + d) / divisor, dim - d);
}

}  // namespace
}  // namespace tritium
