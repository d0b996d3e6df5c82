// A model's forward pass, recorded once as a list of operations and run as one call for any batch.
//
//   values       what operations make: matrices with one row per token (or per row of logits)
//   operations   in the order they were recorded; each can be cut into items (rows, columns or heads)
//   phases       stretches of operations which threads go through without waiting for one another
//
// Everything a run needs lies in an arena that only grows.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "arena.h"
#include "attention_work.h"
#include "table.h"
#include "team.h"

namespace tritium {

using ValueId = int32_t;

enum class Rows { kTokens, kLogits };

// Along what an operation is cut. Operations cut alike into equally many items can share a phase.
enum class Domain { kRows, kColumns, kHeads };

// Items that are never parted: 64 columns are four tiles of a ternary weight, and whole cache lines.
constexpr int64_t grain_of(Domain domain) {
  return domain == Domain::kColumns ? 64 : 1;
}

struct Value {
  int64_t width = 0;      // elements of a row
  int64_t row_bytes = 0;  // 0: it says only that something was done, and has no memory
  Rows rows = Rows::kTokens;
  int producer = -1;       // the last operation that writes it
  int buffer = -1;         // where it lies in the arena; -1: the caller's logits
  int replicable_in = -1;  // the epoch in which every thread may have its own copy; -1: never
};

// The cache as the caller gives it: a pool for every layer, all of one shape.
struct Cache {
  KvPool shape;
  std::vector<uint8_t*> pools;
};

// One call's work; see ForwardBatch in model/batch.py.
struct Batch {
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* sequence_starts;
  const int32_t* block_tables;
  const int32_t* context_lengths;
  const int64_t* slots;
  const int32_t* logit_rows;
  int64_t tokens;
  int64_t sequences;
  int64_t table_width;
  int64_t logit_count;
  const Cache* cache;
};

class Plan;

// One run of a plan: where its values lie, and what all its operations read.
struct Step {
  const Plan* plan;
  Batch batch;
  float* logits;
  AttentionWork attention;
  std::vector<std::unique_ptr<AttentionMemory>> attention_memory;  // by thread
  bool is_decode;  // every sequence has one new token, and no context is divided among threads
  std::vector<char*> buffers;
  std::vector<int64_t> copy_bytes;  // from one thread's copy of a buffer to the next
  std::vector<char> replicates;     // by epoch: whether threads use their own copies
  std::atomic<bool> has_overflowed{false};

  int64_t count(Rows rows) const { return rows == Rows::kTokens ? batch.tokens : batch.logit_count; }
  // The memory of a value as this thread sees it.
  template <typename Element>
  Element* at(ValueId id, int thread) const;
};

// Operations say how they can be cut and what they cost; `run` must not allocate.
class Operation {
 public:
  Operation(const char* kind, Domain domain, Rows rows) : kind(kind), domain(domain), rows(rows) {}
  virtual ~Operation() = default;
  virtual int64_t items(const Step& step) const = 0;
  virtual double nanoseconds(const Step& step) const = 0;  // of all items on one thread, roughly
  virtual void run(Step& step, int thread, int64_t begin, int64_t end) const = 0;
  // The first item of piece p of so many. Operations that share a phase are cut alike.
  virtual int64_t begin_of(const Step& step, int64_t piece, int64_t pieces) const;
  // Whether an item needs more of what the operation reads than the same item of it.
  virtual bool crosses_items(bool is_decode) const {
    (void)is_decode;
    return false;
  }

  const char* kind;
  Domain domain;
  Rows rows;
  int64_t fixed_items = 0;  // what tells two cuts apart: columns, or heads of a row; 0: rows
  bool may_replicate = false;
  std::vector<ValueId> reads, writes;
  std::vector<int> producers;  // of `reads`: the operations that wrote them last
  // Set when the plan is sealed.
  int epoch = 0;
  bool is_replicable = false;
};

// What one operation took, summed over threads and runs.
struct OperationTime {
  const char* kind;
  int64_t pieces;
  double nanoseconds;
};

class Plan final : public Work {
 public:
  ValueId add_value(Rows rows, int64_t width, int64_t row_bytes);
  // Takes an operation whose `reads` and `writes` are set; throws std::invalid_argument if it reads nothing
  // that was made.
  void add(std::unique_ptr<Operation> operation);
  const Value& value(ValueId id) const;
  // Chooses buffers; `output` is where the logits come from.
  void seal(ValueId output);
  bool is_sealed() const { return is_sealed_; }
  int64_t output_width() const { return values_[static_cast<size_t>(output_)].width; }

  // Writes logits [logit_count, output_width]; false if an activation became NaN or infinite. The batch must
  // have been checked. Calls from several threads wait for one another.
  bool run(const Batch& batch, float* logits, int threads);

  // Begins to time operations, or ends it; times so far are forgotten.
  void set_profiling(bool is_on);
  std::vector<OperationTime> times() const;
  int64_t phase_count() const { return static_cast<int64_t>(phases_.size()); }  // of the last run

  void run_piece(int phase, int piece, int thread) override;

  int64_t query_heads = 0;                                    // of every attention; 0: none was recorded
  std::map<std::pair<ValueId, int64_t>, ValueId> group_sums;  // by quantized value and group

 private:
  struct Stage {
    int operation;
    bool is_replicated;
  };
  struct Stretch {  // of stages: a phase
    int first, last;
  };
  struct Buffer {
    Rows rows;
    int64_t row_bytes;
    bool is_replicable;
    int free_from;  // the epoch from which on it can be used again
  };
  struct alignas(64) Worker {
    int prepared = -1;                // the phase whose replicated operations this thread has done
    std::vector<double> nanoseconds;  // by operation
    std::vector<int64_t> pieces;
  };

  void find_epochs();
  void place_values();
  int take_buffer(const Value& value, bool is_replicable, int epoch);
  void lay_out(Step& step, int threads);
  void schedule(int threads);
  void choose_replication(int threads);
  void close_phase(int first, int threads);
  bool waits(const Operation& consumer, bool is_replicated, int first_stage) const;
  void run_stage(const Stage& stage, int thread, int piece, int pieces);

  std::vector<Value> values_;
  std::vector<std::unique_ptr<Operation>> operations_;
  std::vector<Buffer> buffers_;
  ValueId output_ = -1;
  bool is_sealed_ = false;

  std::mutex turn_;
  Step step_{};
  Arena arena_;
  std::vector<Stage> stages_;
  std::vector<int> stage_of_operation_;
  std::vector<double> epoch_cost_;
  std::vector<Stretch> stretches_;
  std::vector<Phase> phases_;
  std::vector<Worker> workers_;
  bool is_profiling_ = false;
};

template <typename Element>
Element* Step::at(ValueId id, int thread) const {
  const Value& value = plan->value(id);
  if (value.buffer < 0) return reinterpret_cast<Element*>(logits);
  const auto index = static_cast<size_t>(value.buffer);
  const bool is_own = value.replicable_in >= 0 && replicates[static_cast<size_t>(value.replicable_in)] != 0;
  return reinterpret_cast<Element*>(buffers[index] + (is_own ? copy_bytes[index] * thread : 0));
}

}  // namespace tritium
