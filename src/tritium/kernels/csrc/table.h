// The kernels that exist once per instruction set, and the table that picks one set at load.
#pragma once

#include <cstdint>

namespace tritium {

// A ternary weight as the kernels see it; see TernaryWeight in weight.py for the meaning of each field.
struct TernaryView {
  const uint8_t* planes;  // [plane_count, rows, blocks * 32]
  int64_t plane_count;
  int64_t rows;
  int64_t blocks;       // of 128 weights, per row
  const float* scales;  // [scale_rows, groups]
  int64_t scale_rows;   // 1 or rows
  int64_t groups;
  int64_t group_chunks;  // of 32 weights, per group
  bool divides;
};

// Quantized activations; sums[g * columns + m] is the sum of row m over group g of the weight.
struct ActivationView {
  const int8_t* q;  // [columns, blocks * 128]
  const float* scale;
  const int32_t* sums;
  int64_t columns;
};

// One query position and one head of keys and values, shared by `heads` heads of queries.
struct AttentionTask {
  const float* q;            // [heads, dim]
  const float* const* keys;  // [length] rows of dim
  const float* const* values;
  float* out;     // [heads, dim]
  float* scores;  // [length], scratch
  int64_t heads;
  int64_t dim;
  int64_t length;
  float scale;
};

struct KernelTable {
  const char* name;
  void (*quantize_activations)(const float* x, int64_t rows, int64_t count, int64_t stride, int8_t* q,
                               float* scale);
  // One row of q, summed in groups of `group_chunks` x 32; the sums are written `stride` apart.
  void (*sum_groups)(const int8_t* q, int64_t chunks, int64_t group_chunks, int64_t stride, int32_t* sums);
  // Rows [begin, end) of the weight for all columns; `out` is [columns, rows].
  void (*ternary_rows)(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, float* out);
  // The integer part alone; `out` is [columns, rows, groups].
  void (*ternary_sums)(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, int32_t* out);
  void (*dense_rows)(const float* x, int64_t columns, int64_t count, const float* weight, int64_t rows,
                     int64_t begin, int64_t end, float* out);
  void (*dense_rows_bf16)(const float* x, int64_t columns, int64_t count, const uint16_t* weight,
                          int64_t rows, int64_t begin, int64_t end, float* out);
  void (*rms_norm)(const float* x, const float* weight, int64_t rows, int64_t count, float eps, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t rows, int64_t count,
                     float eps, float* out);
  void (*silu_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*relu2_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*gelu)(const float* x, int64_t count, float* out);
  void (*softmax)(const float* x, int64_t rows, int64_t count, float* out);
  void (*attend)(const AttentionTask& task);
};

extern const KernelTable kScalarTable;
#ifdef TRITIUM_X86
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
#endif

// The table in use; the widest one that the processor can run unless select_table chose another.
const KernelTable& table();
// Tables that this processor can run, widest first, ended by nullptr.
const KernelTable* const* available_tables();
// Uses the table of that name; false when this processor cannot run it.
bool select_table(const char* name);

}  // namespace tritium
