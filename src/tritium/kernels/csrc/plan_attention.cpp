// Positions and the cache: cut by heads of keys, each with the heads of queries that share it.
#include <cmath>

#include "plan_operations.h"

namespace tritium {
namespace {

constexpr double kAngleNanoseconds = 20;  // a cosine and a sine
constexpr double kElementNanoseconds = 0.1;

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

class HeadNorm final : public HeadOperation {
 public:
  HeadNorm(const AttentionShape& shape, int64_t heads, const float* weight, float eps)
      : HeadOperation("head_norm", shape),
        heads_per_item_(heads / shape.kv_heads),
        weight_(weight),
        eps_(eps) {}

  double nanoseconds(const Step& step) const override {
    return kElementNanoseconds * static_cast<double>(items(step) * heads_per_item_ * shape.dim);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* x = step.at<float>(writes[0], thread) + begin * heads_per_item_ * shape.dim;
    table().rms_norm(x, weight_, (end - begin) * heads_per_item_, shape.dim, eps_, x);
  }

 private:
  int64_t heads_per_item_;
  const float* weight_;
  float eps_;
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
    KvPool pool = step.batch.cache->shape;
    pool.memory = step.batch.cache->pools[static_cast<size_t>(shape.layer)];
    for (int64_t item = begin; item < end; ++item) {
      table().write_position(pool, k + item * shape.dim, v + item * shape.dim,
                             step.batch.slots[item / shape.kv_heads], item % shape.kv_heads);
    }
  }
};

class Attention final : public HeadOperation {
 public:
  explicit Attention(const AttentionShape& shape) : HeadOperation("attention", shape) {}

  // A decoding row reads its own new key and those of earlier steps; others read what their neighbours write.
  bool crosses_items(bool is_decode) const override { return !is_decode; }
  int64_t items(const Step& step) const override { return step.attention.items(); }
  double nanoseconds(const Step& step) const override { return step.attention.nanoseconds(); }
  // Beside decoding rows, those of a long prompt are few items and most of the work.
  int64_t begin_of(const Step& step, int64_t piece, int64_t pieces) const override {
    if (step.is_decode) return Operation::begin_of(step, piece, pieces);
    return step.attention.begin_of(piece, pieces);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const AttentionLayer layer{step.at<float>(reads[0], thread),
                               step.at<float>(writes[0], thread),
                               step.batch.cache->pools[static_cast<size_t>(shape.layer)],
                               shape.scale,
                               shape.window,
                               shape.cap};
    step.attention.run(layer, begin, end, *step.attention_memory[static_cast<size_t>(thread)]);
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

void record_head_norm(Plan& plan, ValueId x, const float* weight, float eps, int64_t heads,
                      const AttentionShape& shape) {
  require_width(plan, x, heads * shape.dim);
  auto operation = std::make_unique<HeadNorm>(shape, heads, weight, eps);
  operation->reads = {x};
  operation->writes = {x};
  plan.add(std::move(operation));
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
  if (plan.query_heads != 0 && plan.query_heads != shape.heads) {
    throw std::invalid_argument("All layers of a plan have the same heads.");
  }
  plan.query_heads = shape.heads;
  const ValueId out = plan.add_value(Rows::kTokens, width, width * static_cast<int64_t>(sizeof(float)));
  auto operation = std::make_unique<Attention>(shape);
  operation->reads = {q, written};
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

}  // namespace tritium
