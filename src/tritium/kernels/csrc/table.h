// The kernels that exist once per instruction set, and the table that picks one set at load.
#pragma once

#include <cstdint>

#include "coded.h"
#include "kv_pages.h"
#include "tiles.h"

namespace tritium {

// Attention works in tiles of 64 positions and adds tiles up in segments of 512, counted from position 0 of
// the sequence. Segments are merged in rising order. So the order of every sum is the same however a prompt
// is cut into chunks, whoever is in the batch, and whether one thread computes all segments or several do.
constexpr int64_t kTilePositions = 64;
constexpr int64_t kSegmentPositions = 512;
constexpr int64_t kAttentionRows = 32;  // at most in one task

// Where the positions of a head of a sequence lie.
struct KvPlace {
  const uint8_t* pages;   // of this head, in block 0; block b lies b x block_bytes further
  const int32_t* blocks;  // of the sequence
};

// Rows that attend to the same head of keys and values of one sequence: query positions x the query heads
// that share it.
struct AttentionTask {
  KvType type;
  KvPlace place;
  KvPlace next;            // what the same thread reads after this, from its beginning on
  int64_t next_positions;  // of it; 0: nothing
  int64_t block_bytes;
  int64_t half_page_bytes;
  int64_t dim;
  int64_t padded;  // dim, rounded up to 16
  int64_t rows;
  const float* const* q;   // [rows] of dim
  const int32_t* starts;   // [rows], rising: the first position that each row sees
  const int32_t* lengths;  // [rows], rising: behind the last one; at least 1 more
  float scale;
  float cap;  // see AttentionLayer
};

// The first row that sees a position from `begin` on.
inline int64_t first_row_at(const AttentionTask& task, int64_t begin) {
  int64_t row = 0;
  while (row < task.rows && task.lengths[row] <= begin) ++row;
  return row;
}

// The first row that sees no position before `end`: it and all later rows begin behind.
inline int64_t end_row_at(const AttentionTask& task, int64_t end) {
  int64_t row = task.rows;
  while (row > 0 && task.starts[row - 1] >= end) --row;
  return row;
}

// The softmax so far of up to kAttentionRows rows.
struct AttentionState {
  float* largest;  // [rows] scores
  float* total;    // [rows] of exp(score - largest)
  float* mixed;    // [rows, padded] of exp(score - largest) x value
};

// What a thread works with inside one tile.
struct AttentionScratch {
  static constexpr int kRowsAtOnce = 4;
  alignas(64) float weights[kRowsAtOnce][kTilePositions];
  alignas(64) int16_t words[kRowsAtOnce][kTilePositions];
  alignas(64) int16_t query_words[kAttentionRows][kLargestQuantizedHead];
  float word_scale[kRowsAtOnce];
  float query_scale[kAttentionRows];
};

// How the weights of a checkpoint lie in memory.
enum class WeightType { kFloat32, kHalf, kBFloat16 };
constexpr int kWeightTypes = 3;

// Weights [rows, columns] to trits by their mean magnitudes, in the portable layout of packing.py.
struct AbsmeanTask {
  const void* weights;
  int64_t columns;
  int64_t groups;      // per row
  int64_t group_size;  // a multiple of 32 where there are several
  bool is_per_tensor;
  double* sums;     // [rows]: sum of magnitudes
  float* means;     // [rows, groups]; [1] and given where there is one for the tensor
  uint8_t* planes;  // [rows, plane_stride]
  int64_t plane_stride;
};

// Weights [rows, columns] in units: the groups of its rows.
struct LeastSquaresTask {
  const void* weights;
  int64_t columns;
  int64_t groups;  // per row
  int64_t group_size;
  float* scales;  // [rows, groups]; NaN where a weight is not finite
};

// Levels nearest to weight / scale, between -limit and limit; a scale of 0 gives 0.
struct LevelsTask {
  const float* weights;  // [rows, columns]
  int64_t columns;
  const float* scales;  // [scale_rows, groups]
  int64_t scale_rows;   // 1 or rows
  int64_t groups;
  int64_t group_size;
  int limit;
  int8_t* levels;  // [rows, columns]
};

// One group of columns of rows that descend; see descend.h. All matrices are [rows, inputs] but the Hessian.
struct DescentTask {
  const float* hessian;  // [count, apart]: of the group's columns alone, symmetric, its diagonal positive
  int64_t apart;         // from row to row; whole sixteens of columns may be read of each
  int64_t inputs;
  int64_t first;  // of the group's columns
  int64_t count;
  float limit;
  float* levels;
  float* slope;
  float* stiffness;       // [rows] of levels x Hessian x levels; NaN: not known
  float* pull;            // [rows] of levels x slope; written by weigh_group
  const float* before;    // [rows]: the scales that the slope knows; read by round_group
  const float* scales;    // [rows]: the scales that the levels are rounded for
  bool* has_moved;        // [rows]: whether a level moved
  float* changes;         // by how much each of the group's weights moved; written by round_group
  int64_t changes_apart;  // from row to row
};

constexpr int64_t kTellTile = 128;  // columns whose slopes are told at a time

struct Move {
  int32_t place;  // among the weights that may have moved
  float by;
};

// What `count` weights from `first` on moved by, and whose slopes are to know of it; see tell.h and moves.h.
struct TellTask {
  const float* hessian;  // [inputs, inputs]
  int64_t inputs;
  float* slope;  // [rows, inputs]
  int64_t row_begin;
  int64_t row_end;
  const int64_t* ends;  // [rows + 1]: a row's moves end where the next one's begin
  const Move* moves;
  int64_t first;
  int64_t count;
  int64_t told_begin;  // the columns whose slopes move
  int64_t told_end;
};

constexpr int64_t kGramRows = 512;  // of a chunk, whose sums of products are exact

// Rows of inputs as pairs of whole numbers; see gram.h.
struct PairTask {
  const float* values;  // [rows, columns], finite
  int64_t rows;         // at most kGramRows
  int64_t columns;
  int64_t count;   // of pairs: half of the rows, rounded up
  int16_t* pairs;  // [blocks of 16 columns, count, 16, 2]
  float* units;    // [blocks x 16]: what the column's numbers are multiples of
};

// out += first' x second, of a chunk of rows of both.
struct GramTask {
  const int16_t* first;  // as PairTask has them
  const int16_t* second;
  const float* first_units;
  const float* second_units;
  int64_t pairs;
  int64_t rows;     // of out: the columns of `first`
  int64_t columns;  // of out: the columns of `second`
  bool is_symmetric;
  float* out;  // [rows, columns]
};

struct KernelTable {
  const char* name;
  int64_t trits_per_byte;  // of the tiles that its kernels read
  // Whether all rows were finite.
  bool (*quantize_activations)(const float* x, int64_t rows, int64_t count, int64_t stride, int8_t* q,
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
  // Rows [begin, end) of the inputs as CodedActivations has them: `arranged` [groups, columns, 32],
  // `corrections` [groups, columns].
  void (*arrange_coded)(const CodedInputs& inputs, int64_t begin, int64_t end, int8_t* arranged,
                        int32_t* corrections);
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
  void (*gelu_tanh_multiply)(const float* gate, const float* up, int64_t count, float* out);
  void (*gelu)(const float* x, int64_t count, float* out);
  void (*bound)(const float* x, int64_t count, float cap, float* out);     // out may be x
  void (*add)(const float* a, const float* b, int64_t count, float* out);  // out may be a
  bool (*is_finite)(const float* x, int64_t count);
  void (*rotate)(float* head, const float* cosine, const float* sine, int64_t half);
  // weights[i] = e^((x[i] - largest) / temperature), room for whole eights; returns their sum.
  double (*softmax_weights)(const float* x, int64_t count, float largest, double temperature,
                            double* weights);
  int64_t (*find_largest)(const float* x, int64_t count);  // the first among equals; -1: there is a NaN
  void (*softmax)(const float* x, int64_t rows, int64_t count, float* out);
  // Segments [begin, end) of a task into `state`, over `part`. Rows that end before them are left alone;
  // those that start behind them have seen nothing.
  void (*attend)(const AttentionTask& task, int64_t begin, int64_t end, const AttentionState& state,
                 const AttentionState& part, AttentionScratch& scratch);
  // Adds the rows [begin, end) of a later segment.
  void (*merge_attention)(const AttentionState& state, const AttentionState& later, int64_t padded,
                          int64_t begin, int64_t end);
  // One row: mixed / total.
  void (*finish_attention)(const float* mixed, float total, int64_t dim, float* out);
  // One position of one head into its page.
  void (*write_position)(const KvPool& pool, const float* key, const float* value, int64_t slot,
                         int64_t head);
  // By WeightType, for rows [begin, end); see absmean.h.
  void (*absmean_sums[kWeightTypes])(const AbsmeanTask& task, int64_t begin, int64_t end);
  void (*absmean_pack[kWeightTypes])(const AbsmeanTask& task, int64_t begin, int64_t end);
  // By WeightType, for units [begin, end); see least_squares.h.
  void (*least_squares[kWeightTypes])(const LeastSquaresTask& task, int64_t begin, int64_t end);
  void (*round_levels)(const LevelsTask& task, int64_t begin, int64_t end);
  // For rows [begin, end).
  void (*weigh_group)(const DescentTask& task, int64_t begin, int64_t end);
  void (*round_group)(const DescentTask& task, int64_t begin, int64_t end);
  void (*tell)(const TellTask& task, int64_t begin, int64_t end);
  // For blocks [begin, end) of sixteen columns, and of sixteen rows of `out`.
  void (*pair_rows)(const PairTask& task, int64_t begin, int64_t end);
  void (*add_gram)(const GramTask& task, int64_t begin, int64_t end);
  // One row of trits, five to a byte and in the portable layout; false where a value is no trit.
  bool (*pack_trits)(const int8_t* trits, int64_t count, uint8_t* packed);
  bool (*lay_out_trits)(const int8_t* trits, int64_t count, uint8_t* planes);
};

extern const KernelTable kScalarTable;
#ifdef TRITIUM_X86
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512VnniTable;
extern const KernelTable kAvx512VbmiTable;
// ternary_tiles of avx512_amx, whose other kernels are those of avx512_vbmi.
void ternary_tiles_amx(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, float* out);
#endif
#ifdef TRITIUM_ARM
extern const KernelTable kNeonDotprodTable;
extern const KernelTable kNeonI8mmTable;
#endif

// The table in use; the widest one that the processor can run unless select_table chose another.
const KernelTable& table();
// Tables that this processor can run, widest first, ended by nullptr.
const KernelTable* const* available_tables();
// The table of that name; nullptr when this processor cannot run it.
const KernelTable* find_table(const char* name);
// Uses the table of that name; false when this processor cannot run it.
bool select_table(const char* name);

}  // namespace tritium
