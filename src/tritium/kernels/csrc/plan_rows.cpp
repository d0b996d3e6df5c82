// Operations on whole rows, or on each element: everything but matrices and attention.
#include <algorithm>
#include <cstring>

#include "plan_operations.h"

namespace tritium {
namespace {

// Measured on one core at 3.9 GHz with AVX-512: an order of magnitude is enough.
constexpr double kNormNanoseconds = 0.06;  // of an element
constexpr double kQuantizeNanoseconds = 0.09;
constexpr double kCopyNanoseconds = 0.03;
constexpr double kGateNanoseconds = 0.3;
constexpr double kTritNanoseconds = 2;

class RowOperation : public Operation {
 public:
  RowOperation(const char* kind, Rows rows, int64_t width, double element_nanoseconds)
      : Operation(kind, Domain::kRows, rows), width(width), element_nanoseconds_(element_nanoseconds) {}

  int64_t items(const Step& step) const override { return step.count(rows); }
  double nanoseconds(const Step& step) const override {
    return element_nanoseconds_ * static_cast<double>(step.count(rows) * width);
  }

 protected:
  int64_t width;

 private:
  double element_nanoseconds_;
};

class Embed final : public RowOperation {
 public:
  explicit Embed(const DenseView& table)
      : RowOperation("embed", Rows::kTokens, table.columns, kCopyNanoseconds), table_(table) {}

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* out = step.at<float>(writes[0], thread);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = step.batch.token_ids[row] * width;
      if (table_.floats != nullptr) {
        std::copy_n(table_.floats + from, width, out + row * width);
      } else {
        widen(table_.halves + from, out + row * width);
      }
    }
  }

 private:
  void widen(const uint16_t* bfloat16, float* out) const {
    for (int64_t i = 0; i < width; ++i) {
      const uint32_t bits = static_cast<uint32_t>(bfloat16[i]) << 16;
      std::memcpy(out + i, &bits, sizeof(bits));
    }
  }

  DenseView table_;
};

class Scale final : public RowOperation {
 public:
  Scale(Rows rows, int64_t width, float factor)
      : RowOperation("scale", rows, width, kCopyNanoseconds), factor_(factor) {}

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* x = step.at<float>(writes[0], thread);
    for (int64_t i = begin * width; i < end * width; ++i) x[i] *= factor_;
  }

 private:
  float factor_;
};

class TernaryEmbed final : public RowOperation {
 public:
  explicit TernaryEmbed(const PreparedWeight& table)
      : RowOperation("embed", Rows::kTokens, table.inputs(), kTritNanoseconds), table_(table) {}

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* out = step.at<float>(writes[0], thread);
    for (int64_t row = begin; row < end; ++row) {
      table_.read_floats(step.batch.token_ids[row], out + row * width);
    }
  }

 private:
  const PreparedWeight& table_;
};

class RmsNorm final : public RowOperation {
 public:
  RmsNorm(Rows rows, int64_t width, const float* weight, float eps)
      : RowOperation("rms_norm", rows, width, kNormNanoseconds), weight_(weight), eps_(eps) {
    may_replicate = true;
  }

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const float* x = step.at<float>(reads[0], thread);
    float* out = step.at<float>(writes[0], thread);
    table().rms_norm(x + begin * width, weight_, end - begin, width, eps_, out + begin * width);
  }

 private:
  const float* weight_;
  float eps_;
};

class Quantize final : public RowOperation {
 public:
  Quantize(Rows rows, int64_t width, int64_t padded)
      : RowOperation("quantize", rows, width, kQuantizeNanoseconds), padded_(padded) {
    may_replicate = true;
  }

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const float* x = step.at<float>(reads[0], thread) + begin * width;
    int8_t* q = step.at<int8_t>(writes[0], thread) + begin * padded_;
    float* scale = step.at<float>(writes[1], thread) + begin;
    if (!table().quantize_activations(x, end - begin, width, padded_, q, scale)) {
      step.has_overflowed.store(true, std::memory_order_relaxed);
    }
    for (int64_t row = 0; row < end - begin; ++row) {
      std::memset(q + row * padded_ + width, 0, static_cast<size_t>(padded_ - width));
    }
  }

 private:
  int64_t padded_;
};

class LogitRows final : public RowOperation {
 public:
  explicit LogitRows(int64_t width) : RowOperation("logit_rows", Rows::kLogits, width, kCopyNanoseconds) {
    may_replicate = true;
  }
  bool crosses_items(bool) const override { return true; }

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const float* x = step.at<float>(reads[0], thread);
    float* out = step.at<float>(writes[0], thread);
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(x + step.batch.logit_rows[row] * width, width, out + row * width);
    }
    if (!table().is_finite(out + begin * width, (end - begin) * width)) {
      step.has_overflowed.store(true, std::memory_order_relaxed);
    }
  }
};

// Elementwise, cut by columns, so that it follows a matrix without waiting.
class ColumnOperation : public Operation {
 public:
  ColumnOperation(const char* kind, Rows rows, int64_t width, double element_nanoseconds)
      : Operation(kind, Domain::kColumns, rows), width(width), element_nanoseconds_(element_nanoseconds) {
    fixed_items = width;
  }

  int64_t items(const Step& step) const override { return step.count(rows) == 0 ? 0 : width; }
  double nanoseconds(const Step& step) const override {
    return element_nanoseconds_ * static_cast<double>(step.count(rows) * width);
  }

 protected:
  int64_t width;

 private:
  double element_nanoseconds_;
};

class PairOperation : public ColumnOperation {
 public:
  using ColumnOperation::ColumnOperation;

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const float* a = step.at<float>(reads[0], thread);
    const float* b = step.at<float>(reads[1], thread);
    float* out = step.at<float>(writes[0], thread);
    for (int64_t row = 0; row < step.count(rows); ++row) {
      const int64_t first = row * width + begin;
      apply(a + first, b + first, end - begin, out + first);
    }
  }

 protected:
  virtual void apply(const float* a, const float* b, int64_t count, float* out) const = 0;
};

class Add final : public PairOperation {
 public:
  Add(Rows rows, int64_t width) : PairOperation("add", rows, width, kCopyNanoseconds) {}

 protected:
  void apply(const float* a, const float* b, int64_t count, float* out) const override {
    table().add(a, b, count, out);
  }
};

class Bound final : public ColumnOperation {
 public:
  Bound(Rows rows, int64_t width, float cap)
      : ColumnOperation("bound", rows, width, kGateNanoseconds), cap_(cap) {}

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    for (int64_t row = 0; row < step.count(rows); ++row) {
      float* x = step.at<float>(writes[0], thread) + row * width + begin;
      table().bound(x, end - begin, cap_, x);
    }
  }

 private:
  float cap_;
};

class Gate final : public PairOperation {
 public:
  Gate(Rows rows, int64_t width, Activation activation)
      : PairOperation("gate", rows, width, kGateNanoseconds), activation_(activation) {}

 protected:
  void apply(const float* gate, const float* up, int64_t count, float* out) const override {
    switch (activation_) {
      case Activation::kSilu:
        return table().silu_multiply(gate, up, count, out);
      case Activation::kRelu2:
        return table().relu2_multiply(gate, up, count, out);
      case Activation::kGeluTanh:
        return table().gelu_tanh_multiply(gate, up, count, out);
    }
  }

 private:
  Activation activation_;
};

constexpr int64_t kFloat = sizeof(float);

// Records an operation that makes rows of floats.
ValueId record(Plan& plan, std::unique_ptr<Operation> operation, std::vector<ValueId> reads, int64_t width) {
  const ValueId out = plan.add_value(operation->rows, width, width * kFloat);
  operation->reads = std::move(reads);
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

// Records an operation that changes rows of floats in place.
void record_in_place(Plan& plan, std::unique_ptr<Operation> operation, ValueId x) {
  operation->reads = {x};
  operation->writes = {x};
  plan.add(std::move(operation));
}

}  // namespace

ValueId record_embed(Plan& plan, const DenseView& table) {
  return record(plan, std::make_unique<Embed>(table), {}, table.columns);
}

void record_scale(Plan& plan, ValueId x, float factor) {
  const Value& value = plan.value(x);
  record_in_place(plan, std::make_unique<Scale>(value.rows, value.width, factor), x);
}

void record_bound(Plan& plan, ValueId x, float cap) {
  const Value& value = plan.value(x);
  record_in_place(plan, std::make_unique<Bound>(value.rows, value.width, cap), x);
}

ValueId record_ternary_embed(Plan& plan, const PreparedWeight& table) {
  return record(plan, std::make_unique<TernaryEmbed>(table), {}, table.inputs());
}

ValueId record_rms_norm(Plan& plan, ValueId x, const float* weight, int64_t width, float eps) {
  require_width(plan, x, width);
  return record(plan, std::make_unique<RmsNorm>(plan.value(x).rows, width, weight, eps), {x}, width);
}

Quantized record_quantize(Plan& plan, ValueId x) {
  const Value& value = plan.value(x);
  const int64_t width = value.width, padded = padded_inputs(width);
  const Rows rows = value.rows;
  const Quantized made{plan.add_value(rows, padded, padded), plan.add_value(rows, 1, kFloat)};
  auto operation = std::make_unique<Quantize>(rows, width, padded);
  operation->reads = {x};
  operation->writes = {made.q, made.scale};
  plan.add(std::move(operation));
  return made;
}

ValueId record_logit_rows(Plan& plan, ValueId x) {
  const int64_t width = plan.value(x).width;
  return record(plan, std::make_unique<LogitRows>(width), {x}, width);
}

ValueId record_add(Plan& plan, ValueId a, ValueId b) {
  const int64_t width = plan.value(a).width;
  require_width(plan, b, width);
  return record(plan, std::make_unique<Add>(plan.value(a).rows, width), {a, b}, width);
}

ValueId record_gate(Plan& plan, Activation activation, ValueId gate, ValueId up) {
  const int64_t width = plan.value(gate).width;
  require_width(plan, up, width);
  return record(plan, std::make_unique<Gate>(plan.value(gate).rows, width, activation), {gate, up}, width);
}

}  // namespace tritium
