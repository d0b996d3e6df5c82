// Matrices: cut by columns of the output, which are rows of the weight.
#include <algorithm>

#include "plan_linear.h"

namespace tritium {
namespace {

constexpr double kDenseOperations = 20;  // of one thread in a nanosecond: an order of magnitude is enough
constexpr double kTernaryOperations = 200;
constexpr double kBytesPerNanosecond = 30;
constexpr int64_t kChunk = 32;

class DenseLinear final : public Linear {
 public:
  DenseLinear(const char* kind, Rows rows, const DenseView& weight, const float* bias)
      : Linear(kind, rows, weight.rows, bias), weight_(weight) {}

  double nanoseconds(const Step& step) const override {
    const auto elements = static_cast<double>(weight_.rows * weight_.columns);
    const double bytes = elements * (weight_.floats != nullptr ? 4 : 2);
    const double operations = 2.0 * elements * static_cast<double>(step.count(rows));
    return std::max(operations / kDenseOperations, bytes / kBytesPerNanosecond);
  }

 protected:
  void multiply(Step& step, int thread, int64_t count, int64_t begin, int64_t end,
                float* out) const override {
    const float* x = step.at<float>(reads[0], thread);
    const int64_t width = weight_.columns;
    if (weight_.floats != nullptr) {
      table().dense_rows(x, count, width, weight_.floats, weight_.rows, begin, end, out);
    } else {
      table().dense_rows_bf16(x, count, width, weight_.halves, weight_.rows, begin, end, out);
    }
  }

 private:
  DenseView weight_;
};

// What a ternary kernel needs of its inputs beside the integers: their sum in every group of the weight.
class GroupSums final : public Operation {
 public:
  GroupSums(Rows rows, int64_t width, int64_t chunks, int64_t group_chunks)
      : Operation("group_sums", Domain::kRows, rows),
        width_(width),
        chunks_(chunks),
        group_chunks_(group_chunks) {
    may_replicate = true;
  }

  int64_t items(const Step& step) const override { return step.count(rows); }
  double nanoseconds(const Step& step) const override {
    return 0.05 * static_cast<double>(step.count(rows) * width_);
  }
  void run(Step& step, int thread, int64_t begin, int64_t end) const override {
    const int8_t* q = step.at<int8_t>(reads[0], thread);
    int32_t* sums = step.at<int32_t>(writes[0], thread);
    for (int64_t row = begin; row < end; ++row) {
      table().sum_groups(q + row * width_, chunks_, group_chunks_, step.count(rows), sums + row);
    }
  }

 private:
  int64_t width_, chunks_, group_chunks_;
};

class TernaryLinear final : public Linear {
 public:
  TernaryLinear(Rows rows, const PreparedWeight& weight, const float* bias)
      : Linear("ternary", rows, weight.view().rows, bias), weight_(weight) {}

  double nanoseconds(const Step& step) const override {
    const TernaryView& view = weight_.view();
    const auto trits = static_cast<double>(view.rows * weight_.inputs() * view.plane_count);
    return std::max(2.0 * trits * static_cast<double>(step.count(rows)) / kTernaryOperations,
                    static_cast<double>(weight_.nbytes()) / kBytesPerNanosecond);
  }

 protected:
  void multiply(Step& step, int thread, int64_t count, int64_t begin, int64_t end,
                float* out) const override {
    const ActivationView x{step.at<int8_t>(reads[0], thread), step.plan->value(reads[0]).width,
                           step.at<float>(reads[1], thread), step.at<int32_t>(reads[2], thread), count};
    const int64_t first = begin / kTileRows, last = (end + kTileRows - 1) / kTileRows;
    weight_.kernels().ternary_tiles(weight_.view(), x, first, last, out);
  }

 private:
  const PreparedWeight& weight_;
};

ValueId record(Plan& plan, std::unique_ptr<Operation> operation, std::vector<ValueId> reads, int64_t width) {
  const ValueId out = plan.add_value(operation->rows, width, width * static_cast<int64_t>(sizeof(float)));
  operation->reads = std::move(reads);
  operation->writes = {out};
  plan.add(std::move(operation));
  return out;
}

// The sums of q in the groups of the weight, made once for all weights with such groups.
ValueId sums_of(Plan& plan, ValueId q, const PreparedWeight& weight) {
  const TernaryView& view = weight.view();
  const int64_t chunks = (weight.inputs() + kChunk - 1) / kChunk;
  const int64_t group_chunks = view.groups == 1 ? chunks : view.group_quads * kQuad / kChunk;
  const auto [found, is_new] = plan.group_sums.try_emplace({q, group_chunks}, ValueId{-1});
  if (is_new) {
    const Rows rows = plan.value(q).rows;
    found->second = plan.add_value(rows, view.groups, view.groups * static_cast<int64_t>(sizeof(int32_t)));
    auto operation = std::make_unique<GroupSums>(rows, plan.value(q).width, chunks, group_chunks);
    operation->reads = {q};
    operation->writes = {found->second};
    plan.add(std::move(operation));
  }
  return found->second;
}

}  // namespace

ValueId record_dense(Plan& plan, ValueId x, const DenseView& weight, const float* bias, const char* kind) {
  require_width(plan, x, weight.columns);
  return record(plan, std::make_unique<DenseLinear>(kind, plan.value(x).rows, weight, bias), {x},
                weight.rows);
}

ValueId record_ternary(Plan& plan, const Quantized& x, const PreparedWeight& weight, const float* bias) {
  require_width(plan, x.q, padded_inputs(weight.inputs()));
  const Rows rows = plan.value(x.q).rows;
  const ValueId sums = sums_of(plan, x.q, weight);
  return record(plan, std::make_unique<TernaryLinear>(rows, weight, bias), {x.q, x.scale, sums},
                weight.view().rows);
}

}  // namespace tritium
