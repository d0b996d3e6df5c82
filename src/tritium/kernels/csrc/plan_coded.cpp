// Matrices of codes: the embedding and the head.
#include <algorithm>

#include "plan_linear.h"

namespace tritium {
namespace {

constexpr double kBytesPerNanosecond = 30;  // of one thread: an order of magnitude is enough
constexpr double kOperationsPerNanosecond = 500;
constexpr double kLookUpNanoseconds = 1;  // of an element
constexpr double kArrangeNanoseconds = 0.1;

class CodedEmbed final : public Operation {
 public:
  explicit CodedEmbed(const CodedView& table)
      : Operation("embed", Domain::kRows, Rows::kTokens), table_(table) {}

  int64_t items(const Step& step) const override { return step.batch.tokens; }
  double nanoseconds(const Step& step) const override {
    return kLookUpNanoseconds * static_cast<double>(step.batch.tokens * table_.inputs);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    float* out = step.at<float>(writes[0], thread);
    for (int64_t row = begin; row < end; ++row) {
      read_coded_row(table_, step.batch.token_ids[row], out + row * table_.inputs);
    }
  }

 private:
  CodedView table_;
};

// Puts the integers of the rows side by side, group by group, as the kernel reads them.
class Arrange final : public Operation {
 public:
  Arrange(Rows rows, int64_t stride, const CodedView& weight)
      : Operation("arrange", Domain::kRows, rows),
        stride_(stride),
        groups_(weight.blocks * kCodedGroups),
        bits_(weight.bits) {
    may_replicate = true;
  }

  int64_t items(const Step& step) const override { return step.count(rows); }
  double nanoseconds(const Step& step) const override {
    return kArrangeNanoseconds * static_cast<double>(step.count(rows) * stride_);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const CodedInputs inputs{step.at<int8_t>(reads[0], thread), step.count(rows), stride_, groups_, bits_};
    table().arrange_coded(inputs, begin, end, step.at<int8_t>(writes[0], thread),
                          step.at<int32_t>(writes[1], thread));
  }

 private:
  int64_t stride_, groups_;
  int bits_;
};

class CodedLinear final : public Linear {
 public:
  CodedLinear(const char* kind, Rows rows, const CodedMatrix& weight)
      : Linear(kind, rows, weight.view().rows, nullptr), weight_(weight) {}

  double nanoseconds(const Step& step) const override {
    const auto codes = static_cast<double>(weight_.view().rows * weight_.view().inputs);
    return static_cast<double>(weight_.nbytes()) / kBytesPerNanosecond +
           2 * codes * static_cast<double>(step.count(rows)) / kOperationsPerNanosecond;
  }

 protected:
  void multiply(Step& step, int thread, int64_t count, int64_t begin, int64_t end,
                float* out) const override {
    const CodedActivations x{step.at<int8_t>(reads[0], thread), step.at<int32_t>(reads[1], thread),
                             step.at<float>(reads[2], thread), count};
    const int64_t first = begin / kCodedRows, last = (end + kCodedRows - 1) / kCodedRows;
    table().coded_tiles(weight_.view(), x, first, last, out);
  }

 private:
  const CodedMatrix& weight_;
};

}  // namespace

ValueId record_coded_embed(Plan& plan, const CodedMatrix& table) {
  const CodedView& view = table.view();
  const ValueId out =
      plan.add_value(Rows::kTokens, view.inputs, view.inputs * static_cast<int64_t>(sizeof(float)));
  auto operation = std::make_unique<CodedEmbed>(view);
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

ValueId record_coded(Plan& plan, const Quantized& x, const CodedMatrix& weight, const char* kind) {
  const CodedView& view = weight.view();
  const int64_t stride = padded_inputs(view.inputs), groups = view.blocks * kCodedGroups;
  require_width(plan, x.q, stride);
  const Rows rows = plan.value(x.q).rows;
  const ValueId arranged = plan.add_value(rows, groups * kCodedGroup, groups * kCodedGroup);
  const ValueId corrections = plan.add_value(rows, groups, groups * static_cast<int64_t>(sizeof(int32_t)));
  auto arrange = std::make_unique<Arrange>(rows, stride, view);
  arrange->reads = {x.q};
  arrange->writes = {arranged, corrections};
  plan.add(std::move(arrange));
  const ValueId out = plan.add_value(rows, view.rows, view.rows * static_cast<int64_t>(sizeof(float)));
  auto operation = std::make_unique<CodedLinear>(kind, rows, weight);
  operation->reads = {arranged, corrections, x.scale};
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

}  // namespace tritium
