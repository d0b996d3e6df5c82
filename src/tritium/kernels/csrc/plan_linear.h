// What all matrices of a plan have in common: they are cut by columns of the output, rows of the weight.
#pragma once

#include "plan_operations.h"

namespace tritium {

class Linear : public Operation {
 public:
  Linear(const char* kind, Rows rows, int64_t width, const float* bias)
      : Operation(kind, Domain::kColumns, rows), width_(width), bias_(bias) {
    fixed_items = width;
  }

  int64_t items(const Step& step) const override { return step.count(rows) == 0 ? 0 : width_; }
  bool crosses_items(bool) const override { return true; }

  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const int64_t count = step.count(rows);
    float* out = step.at<float>(writes[0], thread);
    multiply(step, thread, count, begin, end, out);
    if (bias_ == nullptr) return;
    for (int64_t row = 0; row < count; ++row) {
      float* part = out + row * width_ + begin;
      table().add(part, bias_ + begin, end - begin, part);
    }
  }

 protected:
  // Columns [begin, end) of out [count, width_].
  virtual void multiply(Step& step, int thread, int64_t count, int64_t begin, int64_t end,
                        float* out) const = 0;

 private:
  int64_t width_;
  const float* bias_;
};

}  // namespace tritium
