// Positions and the cache: cut by heads of keys, each with the heads of queries that share it.
#include <algorithm>
#include <cmath>

#include "plan_operations.h"

namespace tritium {
namespace {

constexpr double kAngleNanoseconds = 20;  // a cosine and a sine
constexpr double kElementNanoseconds = 0.1;
constexpr double kAttentionOperations = 10;  // of one thread in a nanosecond: an order of magnitude is enough

class Angles final : public Operation {
 public:
  Angles(const float* frequencies, int64_t half, float scaling)
      : Operation("angles", Domain::kRows, Rows::kTokens),
        frequencies_(frequencies),
        half_(half),
        scaling_(scaling) {}

  int64_t items(const Step& step) const override { return step.batch.tokens; }
  double nanoseconds(const Step& step) const override {
    return kAngleNanoseconds * static_cast<double>(step.batch.tokens * half_);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    for (int64_t row = begin; row < end; ++row) {
      float* cosine = step.at<float>(writes[0], thread) + row * 2 * half_;
      for (int64_t i = 0; i < half_; ++i) {
        const float angle = static_cast<float>(step.batch.positions[row]) * frequencies_[i];
        cosine[i] = std::cos(angle) * scaling_;
        cosine[half_ + i] = std::sin(angle) * scaling_;
      }
    }
  }

 private:
  const float* frequencies_;
  int64_t half_;
  float scaling_;
};

// Cut into rows x heads of keys, row after row.
class HeadOperation : public Operation {
 public:
  HeadOperation(const char* kind, const AttentionShape& shape)
      : Operation(kind, Domain::kHeads, Rows::kTokens), shape(shape) {
    fixed_items = shape.kv_heads;
  }
  int64_t items(const Step& step) const override { return step.batch.tokens * shape.kv_heads; }

 protected:
  AttentionShape shape;
};

class Rope final : public HeadOperation {
 public:
  Rope(const AttentionShape& shape, int64_t heads)
      : HeadOperation("rope", shape), heads_per_item_(heads / shape.kv_heads) {}

  double nanoseconds(const Step& step) const override {
    return kElementNanoseconds * static_cast<double>(items(step) * heads_per_item_ * shape.dim);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* x = step.at<float>(reads[0], thread);
    const float* angles = step.at<float>(reads[1], thread);
    for (int64_t item = begin; item < end; ++item) {
      const float* cosine = angles + item / shape.kv_heads * shape.dim;
      for (int64_t head = item * heads_per_item_; head < (item + 1) * heads_per_item_; ++head) {
        table().rotate(x + head * shape.dim, cosine, cosine + shape.dim / 2, shape.dim / 2);
      }
    }
  }

 private:
  int64_t heads_per_item_;
};

class WriteKv final : public HeadOperation {
 public:
  explicit WriteKv(const AttentionShape& shape) : HeadOperation("write_kv", shape) {}

  double nanoseconds(const Step& step) const override {
    return kElementNanoseconds * static_cast<double>(items(step) * shape.dim);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const float* k = step.at<float>(reads[0], thread);
    const float* v = step.at<float>(reads[1], thread);
    const Cache& cache = *step.batch.cache;
    float* keys = cache.keys[static_cast<size_t>(shape.layer)];
    float* values = cache.values[static_cast<size_t>(shape.layer)];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t slot = step.batch.slots[item / shape.kv_heads];
      const int64_t to = (slot * shape.kv_heads + item % shape.kv_heads) * shape.dim;
      std::copy_n(k + item * shape.dim, shape.dim, keys + to);
      std::copy_n(v + item * shape.dim, shape.dim, values + to);
    }
  }
};

class Attention final : public HeadOperation {
 public:
  explicit Attention(const AttentionShape& shape) : HeadOperation("attention", shape) {}

  // A decoding row reads its own new key and those of earlier steps; others read what their neighbours write.
  bool crosses_items(bool is_decode) const override { return !is_decode; }
  double nanoseconds(const Step& step) const override {
    const int64_t products = step.attended * shape.heads * shape.dim;
    return 4.0 * static_cast<double>(products) / kAttentionOperations;
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    for (int64_t item = begin; item < end; ++item) {
      attend(step, thread, item / shape.kv_heads, item % shape.kv_heads);
    }
  }

 private:
  void attend(Step& step, int thread, int64_t row, int64_t head) const {
    const Batch& batch = step.batch;
    const Cache& cache = *batch.cache;
    const int64_t b = step.sequence_of_row[static_cast<size_t>(row)];
    const int64_t length = batch.context_lengths[b] - (batch.sequence_starts[b + 1] - row) + 1;
    const int32_t* blocks = batch.block_tables + b * batch.table_width;
    char* scratch = step.scratch + step.scratch_bytes * thread;
    auto** keys = reinterpret_cast<const float**>(scratch);
    auto** values = keys + step.longest;
    auto* scores = reinterpret_cast<float*>(values + step.longest);
    const float* key_pool = cache.keys[static_cast<size_t>(shape.layer)] + head * shape.dim;
    const float* value_pool = cache.values[static_cast<size_t>(shape.layer)] + head * shape.dim;
    const int64_t width = shape.kv_heads * shape.dim;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t slot = blocks[i / cache.block_size] * cache.block_size + i % cache.block_size;
      keys[i] = key_pool + slot * width;
      values[i] = value_pool + slot * width;
    }
    const int64_t shared = shape.heads / shape.kv_heads;
    const int64_t first = (row * shape.heads + head * shared) * shape.dim;
    table().attend({step.at<float>(reads[0], thread) + first, keys, values,
                    step.at<float>(writes[0], thread) + first, scores, shared, shape.dim, length,
                    shape.scale});
  }
};

}  // namespace

ValueId record_angles(Plan& plan, const float* frequencies, int64_t half, float scaling) {
  const int64_t width = 2 * half;
  const ValueId out = plan.add_value(Rows::kTokens, width, width * static_cast<int64_t>(sizeof(float)));
  auto operation = std::make_unique<Angles>(frequencies, half, scaling);
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

void record_rope(Plan& plan, ValueId x, ValueId angles, int64_t heads, const AttentionShape& shape) {
  require_width(plan, x, heads * shape.dim);
  require_width(plan, angles, shape.dim);
  auto operation = std::make_unique<Rope>(shape, heads);
  operation->reads = {x, angles};
  operation->writes = {x};
  plan.add(std::move(operation));
}

ValueId record_write_kv(Plan& plan, ValueId k, ValueId v, const AttentionShape& shape) {
  require_width(plan, k, shape.kv_heads * shape.dim);
  require_width(plan, v, shape.kv_heads * shape.dim);
  const ValueId written = plan.add_value(Rows::kTokens, 0, 0);
  auto operation = std::make_unique<WriteKv>(shape);
  operation->reads = {k, v};
  operation->writes = {written};
  plan.add(std::move(operation));
  return written;
}

ValueId record_attention(Plan& plan, ValueId q, ValueId written, const AttentionShape& shape) {
  const int64_t width = shape.heads * shape.dim;
  require_width(plan, q, width);
  const ValueId out = plan.add_value(Rows::kTokens, width, width * static_cast<int64_t>(sizeof(float)));
  auto operation = std::make_unique<Attention>(shape);
  operation->reads = {q, written};
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

}  // namespace tritium
