// Fills a KernelTable with the kernels as this source file's flags compile them.
#pragma once

#include "absmean.h"
#include "attention.h"
#include "bound.h"
#include "coded_kernel.h"
#include "coded_round.h"
#include "dense.h"
#include "descend.h"
#include "elementwise.h"
#include "gram.h"
#include "kv_write.h"
#include "least_squares.h"
#include "levels.h"
#include "pack.h"
#include "softmax_weights.h"
#include "tell.h"
#include "ternary.h"

namespace tritium {
namespace {

template <typename Set>
constexpr KernelTable make_table(const char* name) {
  return KernelTable{
      .name = name,
      .trits_per_byte = Set::kTritsPerByte,
      .quantize_activations = quantize_activations,
      .sum_groups = sum_groups,
      .ternary_tiles = ternary_tiles<Set, float>,
      .ternary_sums = ternary_tiles<Set, int32_t>,
      .dense_rows = dense_rows<float>,
      .dense_rows_bf16 = dense_rows<uint16_t>,
      .arrange_coded = arrange_coded,
      .coded_tiles = coded_tiles,
      .round_tile = round_coded_tile<float>,
      .round_tile_bf16 = round_coded_tile<uint16_t>,
      .rms_norm = rms_norm,
      .layer_norm = layer_norm,
      .silu_multiply = silu_multiply,
      .relu2_multiply = relu2_multiply,
      .gelu_tanh_multiply = gelu_tanh_multiply,
      .gelu = gelu,
      .bound = bound,
      .add = add,
      .is_finite = is_finite,
      .rotate = rotate,
      .softmax_weights = softmax_weights,
      .find_largest = find_largest,
      .softmax = softmax,
      .attend = attend,
      .merge_attention = merge_attention,
      .finish_attention = finish_attention,
      .write_position = write_position,
      .absmean_sums = {absmean_sums<float>, absmean_sums<Half>, absmean_sums<BFloat16>},
      .absmean_pack = {absmean_pack<float>, absmean_pack<Half>, absmean_pack<BFloat16>},
      .least_squares = {least_squares<float>, least_squares<Half>, least_squares<BFloat16>},
      .round_levels = round_levels,
      .weigh_group = weigh_group,
      .round_group = round_group_levels,
      .tell = tell,
      .pair_rows = pair_rows,
      .add_gram = add_gram,
      .pack_trits = pack_row_of_trits,
      .lay_out_trits = lay_out_row_of_trits,
  };
}

}  // namespace
}  // namespace tritium
