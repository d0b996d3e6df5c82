// One attention call over a batch, cut into items that any number of threads may take in any order.
//
//   AttentionWork work;                   // kept between calls: its memory grows, and is never given back
//   work.begin(call, threads);            // one thread; the call must have been checked
//   work.run(layer, begin, end, memory);  // any thread with its own memory, until [0, items()) is covered
//
// `run` may be repeated for other layers of the same shape, one after the other.
//
// An item is 32 rows (query positions x the query heads of one head of keys and values) over all they see.
// Where that makes too few items to go round (long contexts being continued), an item is one segment of 512
// positions, and whoever ends the last segment of a head merges them: the result is the same to the bit.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "table.h"

namespace tritium {

struct AttentionCall {
  KvPool shape;                    // of the pool; the memory is that of a layer
  const int32_t* block_tables;     // [sequences, table_width]
  const int32_t* query_starts;     // [sequences + 1]: a sequence's rows of q
  const int32_t* context_lengths;  // [sequences]: positions, those of the queries included
  int64_t sequences;
  int64_t table_width;
  int64_t query_heads;  // a multiple of shape.heads
  bool is_causal;       // otherwise every query sees its whole sequence
};

struct AttentionLayer {
  const float* q;  // [rows, query_heads, dim]
  float* out;      // like q
  const uint8_t* pool;
  float scale;
  int64_t window;  // a row sees so many positions, its own the last; 0: all up to its own
  float cap;       // scores s become cap x tanh(s / cap); 0: they stay
};

// What one thread needs: fixed for a head size.
class AttentionMemory {
 public:
  explicit AttentionMemory(int64_t dim);

  AttentionScratch scratch;
  AttentionState state;
  AttentionState part;

 private:
  std::unique_ptr<float[]> numbers_;
};

class AttentionWork {
 public:
  void begin(const AttentionCall& call, int threads);
  int64_t items() const { return items_; }
  double nanoseconds() const { return first_cost_.back(); }  // of all items, roughly, without a window
  // Where piece p of so many begins, that all take about as long.
  int64_t begin_of(int64_t piece, int64_t pieces) const;
  // Whether item r x shape.heads + h is row r and head h alone: every sequence has one query, none is split.
  bool is_by_row() const { return is_by_row_; }
  void run(const AttentionLayer& layer, int64_t begin, int64_t end, AttentionMemory& memory);

 private:
  struct Item;

  int64_t rows_of(int64_t sequence) const;
  int64_t splits_of(int64_t sequence) const;
  int64_t cut();
  Item item_at(int64_t index) const;
  // Where a position of an item's sequence and head lies.
  KvPlace place_of(const AttentionLayer& layer, const Item& item, int64_t position) const;
  // Where row `row` of a sequence ends, and what of it an item reads first in a layer.
  int32_t length_at(int64_t sequence, int64_t row) const;
  int64_t first_position(const AttentionLayer& layer, const Item& item) const;
  void run_item(const AttentionLayer& layer, const Item& item, const Item& next, AttentionMemory& memory);
  void merge_parts(const AttentionLayer& layer, const Item& item, const AttentionTask& task);
  double estimate(int64_t sequence) const;
  AttentionState part_at(int64_t index);

  AttentionCall call_{};
  int64_t shared_ = 1;  // query heads per head of keys
  bool is_split_ = false;
  bool is_by_row_ = false;
  int64_t items_ = 0;
  int64_t part_rows_ = 0;                         // rows of the largest task that is split
  std::vector<int64_t> first_item_;               // [sequences + 1]
  std::vector<double> first_cost_;                // [sequences + 1] nanoseconds of those before
  std::vector<float> parts_;                      // [items] states, where split
  std::unique_ptr<std::atomic<int32_t>[]> left_;  // [sequences, heads] segments to come, where split
  int64_t left_size_ = 0;
};

}  // namespace tritium
