// The operations a plan can be made of. Each function records one and returns the value it makes; the memory
// behind a weight must outlive the plan. A wrong width throws std::invalid_argument.
#pragma once

#include <stdexcept>
#include <string>

#include "coded_matrix.h"
#include "plan.h"
#include "prepare.h"

namespace tritium {

// A matrix as floats or as the bits of bfloat16: one of both pointers is set.
struct DenseView {
  const float* floats;
  const uint16_t* halves;
  int64_t rows;
  int64_t columns;
};

// Rows of int8 with their scales.
struct Quantized {
  ValueId q;
  ValueId scale;
};

ValueId record_embed(Plan& plan, const DenseView& table);
// Multiplies x in place.
void record_scale(Plan& plan, ValueId x, float factor);
ValueId record_ternary_embed(Plan& plan, const PreparedWeight& table);
ValueId record_rms_norm(Plan& plan, ValueId x, const float* weight, int64_t width, float eps);
// A row that is not finite makes the run fail, as does one in record_logit_rows.
Quantized record_quantize(Plan& plan, ValueId x);
// The rows whose logits are wanted.
ValueId record_logit_rows(Plan& plan, ValueId x);
ValueId record_add(Plan& plan, ValueId a, ValueId b);

enum class Activation { kSilu, kRelu2, kGeluTanh };
ValueId record_gate(Plan& plan, Activation activation, ValueId gate, ValueId up);
// Turns x into cap x tanh(x / cap) in place.
void record_bound(Plan& plan, ValueId x, float cap);

// `bias` may be nullptr. `kind` names the matrix in a profile.
ValueId record_dense(Plan& plan, ValueId x, const DenseView& weight, const float* bias, const char* kind);
ValueId record_ternary(Plan& plan, const Quantized& x, const PreparedWeight& weight, const float* bias);

// Matrices of codes: looked up, and multiplied.
ValueId record_coded_embed(Plan& plan, const CodedMatrix& table);
ValueId record_coded(Plan& plan, const Quantized& x, const CodedMatrix& weight, const char* kind);

struct AttentionShape {
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t layer;
  float scale;
  int64_t window;  // this and the next: see AttentionLayer
  float cap;
};

// Cosines and sines of all positions, [half, half] in a row.
ValueId record_angles(Plan& plan, const float* frequencies, int64_t half, float scaling);
// Divides each head of x [heads * dim] by its root mean square and multiplies by `weight` [dim], in place.
void record_head_norm(Plan& plan, ValueId x, const float* weight, float eps, int64_t heads,
                      const AttentionShape& shape);
// Turns the heads of x [heads * dim] in place.
void record_rope(Plan& plan, ValueId x, ValueId angles, int64_t heads, const AttentionShape& shape);
// Returns a value without memory: what says that the cache holds the rows.
ValueId record_write_kv(Plan& plan, ValueId k, ValueId v, const AttentionShape& shape);
ValueId record_attention(Plan& plan, ValueId q, ValueId written, const AttentionShape& shape);

// A row of int8 is padded with zeros.
constexpr int64_t padded_inputs(int64_t inputs) {
  return (inputs + 127) / 128 * 128;
}

inline void require_width(const Plan& plan, ValueId id, int64_t width) {
  if (plan.value(id).width != width) {
    throw std::invalid_argument("Value " + std::to_string(id) + " of the plan has rows of " +
                                std::to_string(plan.value(id).width) + ", not of " + std::to_string(width) +
                                " elements.");
  }
}

}  // namespace tritium
