#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "pool.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

struct Heads {
  const float* q;
  float* out;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t dim;
  float scale;
};

// Attends from query row `row`, for every head of keys, to `length` positions found by `position_of`.
// `position_of(i)` is the offset, in floats, of position i's first head in `keys` and `values`.
template <typename PositionOf>
void attend_row(const Heads& heads, int64_t row, const float* keys, const float* values, int64_t length,
                PositionOf position_of) {
  std::vector<const float*> key_rows(static_cast<size_t>(length)), value_rows(static_cast<size_t>(length));
  std::vector<float> scores(static_cast<size_t>(length));
  const int64_t shared = heads.query_heads / heads.kv_heads;
  for (int64_t head = 0; head < heads.kv_heads; ++head) {
    for (int64_t i = 0; i < length; ++i) {
      const int64_t offset = position_of(i) + head * heads.dim;
      key_rows[static_cast<size_t>(i)] = keys + offset;
      value_rows[static_cast<size_t>(i)] = values + offset;
    }
    const int64_t first = (row * heads.query_heads + head * shared) * heads.dim;
    table().attend({heads.q + first, key_rows.data(), value_rows.data(), heads.out + first, scores.data(),
                    shared, heads.dim, length, heads.scale});
  }
}

// starts[0] = 0, rising, starts[count] = rows; returns the sequence of every row.
std::vector<int32_t> sequence_of_rows(const int32_t* starts, int64_t count, int64_t rows, const char* name) {
  require(starts[0] == 0 && starts[count] == rows,
          std::string(name) + " must begin with 0 and end with the number of rows of q, " +
              std::to_string(rows) + ".");
  std::vector<int32_t> sequence(static_cast<size_t>(rows));
  for (int64_t i = 0; i < count; ++i) {
    require(starts[i] >= 0 && starts[i] <= starts[i + 1] && starts[i + 1] <= rows,
            std::string(name) + " must not fall.");
    for (int32_t row = starts[i]; row < starts[i + 1]; ++row)
      sequence[static_cast<size_t>(row)] = static_cast<int32_t>(i);
  }
  return sequence;
}

constexpr double kOperationsPerNanosecond = 10;  // of one thread: an order of magnitude is enough

double row_nanoseconds(const Heads& heads, int64_t length) {
  return 4.0 * static_cast<double>(heads.query_heads * heads.dim * length) / kOperationsPerNanosecond;
}

struct Pages {
  const int32_t* tables;
  const int32_t* starts;
  const int32_t* lengths;
  int64_t sequences;
  int64_t table_width;
  int64_t blocks;
  int64_t block_size;
};

void require_pages(const Pages& pages) {
  for (int64_t b = 0; b < pages.sequences; ++b) {
    const int64_t queries = pages.starts[b + 1] - pages.starts[b], length = pages.lengths[b];
    require(length >= queries && length <= pages.table_width * pages.block_size,
            "context_lengths[" + std::to_string(b) + "] = " + std::to_string(length) +
                " must cover its queries and fit its block table.");
    for (int64_t i = 0; i * pages.block_size < length; ++i) {
      const int32_t block = pages.tables[b * pages.table_width + i];
      require(block >= 0 && block < pages.blocks, "block_tables names block " + std::to_string(block) +
                                                      " of a pool of " + std::to_string(pages.blocks) + ".");
    }
  }
}

Result<float> paged_attention(const Array& q, const Array& k_pool, const Array& v_pool,
                              const Array& block_tables, const Array& query_starts,
                              const Array& context_lengths, float scale, int threads) {
  const int64_t rows = size_of(q, 0), dim = size_of(q, 2), kv_heads = size_of(k_pool, 2);
  const int64_t sequences = size_of(block_tables, 0), block_size = size_of(k_pool, 1);
  const auto* keys = elements<const float>(k_pool, "k_pool", {kAny, kAny, kAny, dim});
  const auto* values =
      elements<const float>(v_pool, "v_pool", {size_of(k_pool, 0), block_size, kv_heads, dim});
  Heads heads{
      elements<const float>(q, "q", {kAny, kAny, kAny}), nullptr, size_of(q, 1), kv_heads, dim, scale};
  const Pages pages{elements<const int32_t>(block_tables, "block_tables", {kAny, kAny}),
                    elements<const int32_t>(query_starts, "query_starts", {sequences + 1}),
                    elements<const int32_t>(context_lengths, "context_lengths", {sequences}),
                    sequences,
                    size_of(block_tables, 1),
                    size_of(k_pool, 0),
                    block_size};
  require(kv_heads >= 1 && heads.query_heads % kv_heads == 0,
          "The heads of q must be a multiple of those of k_pool.");
  require_threads(threads);
  const std::vector<int32_t> sequence = sequence_of_rows(pages.starts, sequences, rows, "query_starts");
  require_pages(pages);
  Fresh<float> out({rows, heads.query_heads, dim});
  heads.out = out.data;
  {
    nb::gil_scoped_release released;
    const int64_t longest = std::accumulate(pages.lengths, pages.lengths + sequences, int64_t{0},
                                            [](int64_t a, int32_t b) { return std::max<int64_t>(a, b); });
    parallel_for(rows, 1, threads, row_nanoseconds(heads, longest), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t b = sequence[static_cast<size_t>(row)];
        const int32_t* blocks = pages.tables + b * pages.table_width;
        const int64_t length = pages.lengths[b] - (pages.starts[b + 1] - row) + 1;
        attend_row(heads, row, keys, values, length, [&](int64_t i) {
          return (blocks[i / block_size] * block_size + i % block_size) * kv_heads * dim;
        });
      }
    });
  }
  return out.release();
}

Result<float> ragged_attention(const Array& q, const Array& k, const Array& v, const Array& sequence_starts,
                               float scale, int threads) {
  const int64_t rows = size_of(q, 0), count = size_of(q, 1), dim = size_of(q, 2);
  Heads heads{elements<const float>(q, "q", {kAny, kAny, kAny}), nullptr, count, count, dim, scale};
  const auto* keys = elements<const float>(k, "k", {rows, count, dim});
  const auto* values = elements<const float>(v, "v", {rows, count, dim});
  const auto* starts = elements<const int32_t>(sequence_starts, "sequence_starts", {kAny});
  require(size_of(sequence_starts, 0) >= 1 && count >= 1, "sequence_starts and the heads must not be empty.");
  require_threads(threads);
  const auto sequence = sequence_of_rows(starts, size_of(sequence_starts, 0) - 1, rows, "sequence_starts");
  Fresh<float> out({rows, count, dim});
  heads.out = out.data;
  {
    nb::gil_scoped_release released;
    parallel_for(rows, 1, threads, row_nanoseconds(heads, rows), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int32_t* range = starts + sequence[static_cast<size_t>(row)];
        attend_row(heads, row, keys, values, range[1] - range[0],
                   [&](int64_t i) { return (range[0] + i) * count * dim; });
      }
    });
  }
  return out.release();
}

void write_kv(const Array& k, const Array& v, const WritableArray& k_pool, const WritableArray& v_pool,
              const Array& slots) {
  const int64_t rows = size_of(k, 0), heads = size_of(k, 1), dim = size_of(k, 2);
  const int64_t blocks = size_of(k_pool, 0), block_size = size_of(k_pool, 1), width = heads * dim;
  const auto* keys = elements<const float>(k, "k", {kAny, kAny, kAny});
  const auto* values = elements<const float>(v, "v", {rows, heads, dim});
  auto* key_pool = elements<float>(k_pool, "k_pool", {kAny, kAny, heads, dim});
  auto* value_pool = elements<float>(v_pool, "v_pool", {blocks, block_size, heads, dim});
  const auto* to = elements<const int64_t>(slots, "slots", {rows});
  for (int64_t row = 0; row < rows; ++row) {
    require(to[row] >= 0 && to[row] < blocks * block_size, "slot " + std::to_string(to[row]) +
                                                               " is outside a pool of " +
                                                               std::to_string(blocks * block_size) + ".");
  }
  nb::gil_scoped_release released;
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(keys + row * width, width, key_pool + to[row] * width);
    std::copy_n(values + row * width, width, value_pool + to[row] * width);
  }
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
  m.def("paged_attention", &paged_attention, nb::arg("q").noconvert(), nb::arg("k_pool").noconvert(),
        nb::arg("v_pool").noconvert(), nb::arg("block_tables").noconvert(),
        nb::arg("query_starts").noconvert(), nb::arg("context_lengths").noconvert(), nb::arg("scale"),
        nb::arg("threads"));
  m.def("ragged_attention", &ragged_attention, nb::arg("q").noconvert(), nb::arg("k").noconvert(),
        nb::arg("v").noconvert(), nb::arg("sequence_starts").noconvert(), nb::arg("scale"),
        nb::arg("threads"));
  m.def("write_kv", &write_kv, nb::arg("k").noconvert(), nb::arg("v").noconvert(),
        nb::arg("k_pool").noconvert(), nb::arg("v_pool").noconvert(), nb::arg("slots").noconvert());
  m.def("rope_inplace", &rope_inplace, nb::arg("x").noconvert(), nb::arg("positions").noconvert(),
        nb::arg("inv_freq").noconvert(), nb::arg("scaling"));
}

}  // namespace tritium
