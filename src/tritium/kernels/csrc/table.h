// The kernels that exist once per instruction set, and the table that picks one set at load.
#pragma once

#include <cstdint>

#include "coded.h"
#include "tiles.h"

namespace tritium {

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
  int64_t trits_per_byte;  // of the tiles that its kernels read
  void (*quantize_activations)(const float* x, int64_t rows, int64_t count, int64_t stride, int8_t* q,
                               float* scale);
  // One row of q, summed in groups of `group_chunks` x 32; the sums are written `stride` apart.
  void (*sum_groups)(const int8_t* q, int64_t chunks, int64_t group_chunks, int64_t stride, int32_t* sums);
  // Tiles [begin, end) of the weight for all columns; `out` is [columns, rows].
  void (*ternary_tiles)(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                        int64_t end, float* out);
  // The integer part alone; `out` is [columns, rows, groups].
  void (*ternary_sums)(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, int32_t* out);
  void (*dense_rows)(const float* x, int64_t columns, int64_t count, const float* weight, int64_t rows,
                     int64_t begin, int64_t end, float* out);
  void (*dense_rows_bf16)(const float* x, int64_t columns, int64_t count, const uint16_t* weight,
                          int64_t rows, int64_t begin, int64_t end, float* out);
  // Rows of q, `stride` apart, as CodedActivations has them: `arranged` [groups, columns, 32], `corrections`
  // [groups, columns].
  void (*arrange_coded)(const int8_t* q, int64_t columns, int64_t stride, int64_t groups, int bits,
                        int8_t* arranged, int32_t* corrections);
  // Tiles [begin, end) of the weight for all columns; `out` is [columns, rows].
  void (*coded_tiles)(const CodedView& weight, const CodedActivations& activations, int64_t begin,
                      int64_t end, float* out);
  // `count` <= 16 rows of `inputs` finite floats of at most 10^15 become one tile.
  CodedError (*round_tile)(const float* rows, int64_t count, int64_t inputs, int64_t blocks, int bits,
                           uint8_t* tile);
  CodedError (*round_tile_bf16)(const uint16_t* rows, int64_t count, int64_t inputs, int64_t blocks, int bits,
                                uint8_t* tile);
  void (*rms_norm)(const float* x, const float* weight, int64_t rows, int64_t count, float eps, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t rows, int64_t count,
                     float eps, float* out);
  void (*silu_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*relu2_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*gelu)(const float* x, int64_t count, float* out);
  void (*add)(const float* a, const float* b, int64_t count, float* out);  // out may be a
  bool (*is_finite)(const float* x, int64_t count);
  void (*rotate)(float* head, const float* cosine, const float* sine, int64_t half);
  void (*softmax)(const float* x, int64_t rows, int64_t count, float* out);
  void (*attend)(const AttentionTask& task);
};

extern const KernelTable kScalarTable;
#ifdef TRITIUM_X86
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512VbmiTable;
#endif
#ifdef TRITIUM_ARM
extern const KernelTable kNeonDotprodTable;
extern const KernelTable kNeonI8mmTable;
#endif

// The table in use; the widest one that the processor can run unless select_table chose another.
const KernelTable& table();
// Tables that this processor can run, widest first, ended by nullptr.
const KernelTable* const* available_tables();
// Uses the table of that name; false when this processor cannot run it.
bool select_table(const char* name);

}  // namespace tritium
