#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "attention_work.h"
#include "pool.h"
#include "pool_view.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int64_t kWriteGrain = 16;            // rows
constexpr double kNanosecondsPerNumber = 2.0;  // of writing it

// starts[0] = 0, rising, starts[count] = rows.
void require_starts(const int32_t* starts, int64_t count, int64_t rows, const char* name) {
  require(starts[0] == 0 && starts[count] == rows,
          std::string(name) + " must begin with 0 and end with the number of rows of q, " +
              std::to_string(rows) + ".");
  for (int64_t i = 0; i < count; ++i) {
    require(starts[i] <= starts[i + 1], std::string(name) + " must not fall.");
  }
}

void require_pages(const AttentionCall& call) {
  for (int64_t b = 0; b < call.sequences; ++b) {
    const int64_t queries = call.query_starts[b + 1] - call.query_starts[b], length = call.context_lengths[b];
    require(length >= queries && length <= call.table_width * kPagePositions,
            "context_lengths[" + std::to_string(b) + "] = " + std::to_string(length) +
                " must cover its queries and fit its block table.");
    for (int64_t i = 0; i * kPagePositions < length; ++i) {
      const int32_t block = call.block_tables[b * call.table_width + i];
      require(block >= 0 && block < call.shape.blocks, "block_tables names block " + std::to_string(block) +
                                                           " of a pool of " +
                                                           std::to_string(call.shape.blocks) + ".");
    }
  }
}

void attend_all(const AttentionCall& call, const AttentionLayer& layer, int threads) {
  AttentionWork work;
  work.begin(call, threads);
  if (work.items() == 0) return;
  const double nanoseconds = work.nanoseconds() / static_cast<double>(work.items());
  parallel_for(work.items(), 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    AttentionMemory memory(call.shape.dim);
    work.run(layer, begin, end, memory);
  });
}

Result<float> paged_attention(const Array& q, const Array& pool, const Array& block_tables,
                              const Array& query_starts, const Array& context_lengths, float scale,
                              int64_t window, float cap, int threads) {
  const int64_t rows = size_of(q, 0), dim = size_of(q, 2), sequences = size_of(block_tables, 0);
  require(window >= 0, "A window has at least one position; 0 means none.");
  require(cap >= 0.0f && std::isfinite(cap), "A cap of scores is a positive number; 0 means none.");
  const auto* queries = elements<const float>(q, "q", {kAny, kAny, kAny});
  const AttentionCall call{
      .shape = pool_of(pool, dim),
      .block_tables = elements<const int32_t>(block_tables, "block_tables", {kAny, kAny}),
      .query_starts = elements<const int32_t>(query_starts, "query_starts", {sequences + 1}),
      .context_lengths = elements<const int32_t>(context_lengths, "context_lengths", {sequences}),
      .sequences = sequences,
      .table_width = size_of(block_tables, 1),
      .query_heads = size_of(q, 1),
      .is_causal = true,
  };
  require(call.query_heads % call.shape.heads == 0,
          "The heads of q must be a multiple of those of the pool.");
  require_threads(threads);
  require_starts(call.query_starts, sequences, rows, "query_starts");
  require_pages(call);
  Fresh<float> out({rows, call.query_heads, dim});
  {
    nb::gil_scoped_release released;
    attend_all(call, {queries, out.data, call.shape.memory, scale, window, cap}, threads);
  }
  return out.release();
}

// Rows of k and v [rows, pool.heads, pool.dim] into their slots.
void write_rows(const KvPool& pool, const float* k, const float* v, const int64_t* slots, int64_t rows,
                int threads) {
  const double nanoseconds = kNanosecondsPerNumber * static_cast<double>(2 * pool.heads * pool.dim);
  parallel_for(rows, kWriteGrain, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * pool.heads; i < end * pool.heads; ++i) {
      table().write_position(pool, k + i * pool.dim, v + i * pool.dim, slots[i / pool.heads], i % pool.heads);
    }
  });
}

// Two-way attention lays keys and values out in pages of its own.
struct OwnPages {
  OwnPages(const int32_t* starts, int64_t sequences, int64_t heads, int64_t dim) : lengths(0) {
    for (int64_t b = 0; b < sequences; ++b) {
      lengths.push_back(starts[b + 1] - starts[b]);
      width = std::max(width, (int64_t{lengths.back()} + kPagePositions - 1) / kPagePositions);
    }
    tables.assign(static_cast<size_t>(sequences * width), 0);
    int32_t block = 0;
    for (int64_t b = 0; b < sequences; ++b) {
      const int32_t first = block;
      for (int64_t at = 0; at < lengths[static_cast<size_t>(b)]; at += kPagePositions) {
        tables[static_cast<size_t>(b * width + at / kPagePositions)] = block++;
      }
      for (int64_t at = 0; at < lengths[static_cast<size_t>(b)]; ++at) {
        slots.push_back(first * kPagePositions + at);
      }
    }
    pool = {KvType::kFloat32, nullptr, block, heads, dim};
    memory = std::make_unique<Fresh<uint8_t>>(std::initializer_list<int64_t>{block, pool.block_bytes()});
    pool.memory = memory->data;
  }

  std::vector<int32_t> lengths, tables;
  std::vector<int64_t> slots;
  int64_t width = 0;
  KvPool pool{};
  std::unique_ptr<Fresh<uint8_t>> memory;
};

Result<float> ragged_attention(const Array& q, const Array& k, const Array& v, const Array& sequence_starts,
                               float scale, int threads) {
  const int64_t rows = size_of(q, 0), heads = size_of(q, 1), dim = size_of(q, 2);
  const auto* queries = elements<const float>(q, "q", {kAny, kAny, kAny});
  const auto* keys = elements<const float>(k, "k", {rows, heads, dim});
  const auto* values = elements<const float>(v, "v", {rows, heads, dim});
  const auto* starts = elements<const int32_t>(sequence_starts, "sequence_starts", {kAny});
  const int64_t sequences = size_of(sequence_starts, 0) - 1;
  require(sequences >= 0 && heads >= 1 && dim >= 1, "sequence_starts and the heads must not be empty.");
  require_threads(threads);
  require_starts(starts, sequences, rows, "sequence_starts");
  Fresh<float> out({rows, heads, dim});
  {
    nb::gil_scoped_release released;
    const OwnPages pages(starts, sequences, heads, dim);
    write_rows(pages.pool, keys, values, pages.slots.data(), rows, threads);
    attend_all(
        {pages.pool, pages.tables.data(), starts, pages.lengths.data(), sequences, pages.width, heads, false},
        {queries, out.data, pages.pool.memory, scale, 0, 0.0f}, threads);
  }
  return out.release();
}

void write_kv(const Array& k, const Array& v, const WritableArray& pool_array, const Array& slots,
              int threads) {
  const int64_t rows = size_of(k, 0), heads = size_of(k, 1), dim = size_of(k, 2);
  const auto* keys = elements<const float>(k, "k", {kAny, kAny, kAny});
  const auto* values = elements<const float>(v, "v", {rows, heads, dim});
  const KvPool pool = pool_of(pool_array, dim);
  require(pool.heads == heads,
          "The pool has " + std::to_string(pool.heads) + " heads, k " + std::to_string(heads) + ".");
  const auto* to = elements<const int64_t>(slots, "slots", {rows});
  require_threads(threads);
  for (int64_t row = 0; row < rows; ++row) {
    require(to[row] >= 0 && to[row] < pool.blocks * kPagePositions,
            "slot " + std::to_string(to[row]) + " is outside a pool of " +
                std::to_string(pool.blocks * kPagePositions) + ".");
  }
  nb::gil_scoped_release released;
  write_rows(pool, keys, values, to, rows, threads);
}

void rotate(float* head, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[i + half];
    head[i] = first * cosine[i] - second * sine[i];
    head[i + half] = second * cosine[i] + first * sine[i];
  }
}

void rope_inplace(const WritableArray& x, const Array& positions, const Array& inv_freq, float scaling) {
  const int64_t rows = size_of(x, 0), heads = size_of(x, 1), dim = size_of(x, 2), half = dim / 2;
  auto* values = elements<float>(x, "x", {kAny, kAny, kAny});
  const auto* where = elements<const int32_t>(positions, "positions", {rows});
  const auto* frequency = elements<const float>(inv_freq, "inv_freq", {half});
  require(dim % 2 == 0, "A head that is rotated has an even size.");
  nb::gil_scoped_release released;
  std::vector<float> cosine(static_cast<size_t>(half)), sine(static_cast<size_t>(half));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(where[row]) * frequency[i];
      cosine[static_cast<size_t>(i)] = std::cos(angle) * scaling;
      sine[static_cast<size_t>(i)] = std::sin(angle) * scaling;
    }
    for (int64_t head = 0; head < heads; ++head) {
      rotate(values + (row * heads + head) * dim, cosine.data(), sine.data(), half);
    }
  }
}

}  // namespace

void bind_attention(nb::module_& m) {
  m.def("paged_attention", &paged_attention, nb::arg("q").noconvert(), nb::arg("pool").noconvert(),
        nb::arg("block_tables").noconvert(), nb::arg("query_starts").noconvert(),
        nb::arg("context_lengths").noconvert(), nb::arg("scale"), nb::arg("window"), nb::arg("cap"),
        nb::arg("threads"));
  m.def("ragged_attention", &ragged_attention, nb::arg("q").noconvert(), nb::arg("k").noconvert(),
        nb::arg("v").noconvert(), nb::arg("sequence_starts").noconvert(), nb::arg("scale"),
        nb::arg("threads"));
  m.def("write_kv", &write_kv, nb::arg("k").noconvert(), nb::arg("v").noconvert(),
        nb::arg("pool").noconvert(), nb::arg("slots").noconvert(), nb::arg("threads"));
  m.def("rope_inplace", &rope_inplace, nb::arg("x").noconvert(), nb::arg("positions").noconvert(),
        nb::arg("inv_freq").noconvert(), nb::arg("scaling"));
}

}  // namespace tritium
