// From floats to coded weights. Each group takes the scale, among the bfloat16 values around absmax /
// (largest code), that makes its squared error smallest; the first of equals, from the largest scale down.
#pragma once

#include "coded.h"
#include "vector.h"

namespace tritium {
namespace {

constexpr int kScalesAbove = 8;           // bfloat16 values above absmax / (largest code) that are tried
constexpr int kScalesBelow = 16;          // and below it
constexpr float kSmallestGroup = 1e-30f;  // a group whose absmax is smaller becomes zeros

struct CodedGroup {
  Lanes low, high;  // 32 weights of one row
};

TRITIUM_INLINE uint16_t round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

TRITIUM_INLINE float from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Codes less their offset, as floats: w / scale, rounded half to even and clipped.
TRITIUM_INLINE Lanes round_codes(const Lanes& weights, float inverse, float most) {
  const Lanes magic = broadcast(12582912.0f);  // 1.5 x 2^23: adding it rounds to an integer
  const Lanes clipped = smaller(larger(weights * broadcast(inverse), broadcast(-most)), broadcast(most));
  return (clipped + magic) - magic;
}

TRITIUM_INLINE float squared_error(const CodedGroup& group, float scale, float most) {
  const float inverse = 1.0f / scale;
  const Lanes low = group.low - round_codes(group.low, inverse, most) * broadcast(scale);
  const Lanes high = group.high - round_codes(group.high, inverse, most) * broadcast(scale);
  return sum(low * low + high * high);
}

TRITIUM_INLINE uint16_t best_scale(const CodedGroup& group, float absmax, float most) {
  const uint16_t middle = round_to_bfloat16(absmax / most);
  uint16_t best = static_cast<uint16_t>(middle + kScalesAbove);
  float least = squared_error(group, from_bfloat16(best), most);
  for (int step = kScalesAbove - 1; step >= -kScalesBelow; --step) {
    const auto candidate = static_cast<uint16_t>(middle + step);
    const float error = squared_error(group, from_bfloat16(candidate), most);
    if (error < least) {
      least = error;
      best = candidate;
    }
  }
  return best;
}

// One group of one row into the lines of its block, which hold zeros.
template <int Bits>
TRITIUM_INLINE void round_group(const CodedGroup& group, int64_t lane, int64_t index, uint8_t* block,
                                CodedError& total) {
  constexpr float kMost = static_cast<float>(code_of_zero_weight(Bits) - 1);
  const float absmax = maximum(larger(absolute(group.low), absolute(group.high)));
  uint16_t half = 0;
  float codes[kCodedGroup] = {};
  if (absmax >= kSmallestGroup) {
    half = best_scale(group, absmax, kMost);
    const float inverse = 1.0f / from_bfloat16(half);
    store(codes, round_codes(group.low, inverse, kMost));
    store(codes + kLanes, round_codes(group.high, inverse, kMost));
    total.error += squared_error(group, from_bfloat16(half), kMost);
    total.weight += sum(group.low * group.low + group.high * group.high);
  }
  uint8_t* lines = block + index * coded_group_bytes(Bits);
  for (int64_t i = 0; i < kCodedGroup; ++i) {
    write_code<Bits>(lines, i / kCodedQuad, lane * kCodedQuad + i % kCodedQuad,
                     static_cast<int>(codes[i]) + code_of_zero_weight(Bits));
  }
  uint8_t* scales = block + kCodedGroups * coded_group_bytes(Bits);
  std::memcpy(scales + 2 * (index * kCodedRows + lane), &half, sizeof(half));
}

template <typename Weight>
TRITIUM_INLINE Lanes load_inputs(const Weight* row, int64_t begin, int64_t count) {
  return begin < count ? load_some(row + begin, count - begin) : broadcast(0.0f);
}

template <int Bits, typename Weight>
CodedError round_tile(const Weight* rows, int64_t count, int64_t inputs, int64_t blocks, uint8_t* tile) {
  CodedError total;
  std::memset(tile, 0, static_cast<size_t>(blocks * coded_block_bytes(Bits)));
  for (int64_t lane = 0; lane < kCodedRows; ++lane) {
    for (int64_t group = 0; group < blocks * kCodedGroups; ++group) {
      CodedGroup weights{broadcast(0.0f), broadcast(0.0f)};
      if (lane < count) {
        const Weight* row = rows + lane * inputs;
        weights.low = load_inputs(row, group * kCodedGroup, inputs);
        weights.high = load_inputs(row, group * kCodedGroup + kLanes, inputs);
      }
      uint8_t* block = tile + group / kCodedGroups * coded_block_bytes(Bits);
      round_group<Bits>(weights, lane, group % kCodedGroups, block, total);
    }
  }
  return total;
}

// `count` <= 16 rows of `inputs` finite floats below 10^15 as one tile of `blocks` blocks.
template <typename Weight>
CodedError round_coded_tile(const Weight* rows, int64_t count, int64_t inputs, int64_t blocks, int bits,
                            uint8_t* tile) {
  return bits == 6 ? round_tile<6>(rows, count, inputs, blocks, tile)
                   : round_tile<8>(rows, count, inputs, blocks, tile);
}

}  // namespace
}  // namespace tritium
