#include "coded.h"

#include <cstring>

namespace tritium {
namespace {

float scale_of(const uint8_t* block, int bits, int64_t group, int64_t lane) {
  uint16_t half;
  const int64_t place = group * kCodedRows + lane;
  std::memcpy(&half, block + kCodedGroups * coded_group_bytes(bits) + 2 * place, sizeof(half));
  const uint32_t word = static_cast<uint32_t>(half) << 16;
  float scale;
  std::memcpy(&scale, &word, sizeof(scale));
  return scale;
}

template <int Bits>
void read_row(const CodedView& weight, int64_t row, float* out) {
  const int64_t lane = row % kCodedRows, block_bytes = coded_block_bytes(Bits);
  const uint8_t* block = weight.tiles + row / kCodedRows * weight.blocks * block_bytes;
  for (int64_t input = 0; input < weight.inputs; block += block_bytes) {
    for (int64_t group = 0; group < kCodedGroups && input < weight.inputs; ++group) {
      const uint8_t* lines = block + group * coded_group_bytes(Bits);
      const float scale = scale_of(block, Bits, group, lane);
      for (int64_t i = 0; i < kCodedGroup && input < weight.inputs; ++i, ++input) {
        const int64_t byte = lane * kCodedQuad + i % kCodedQuad;
        const int code = read_code<Bits>(lines, i / kCodedQuad, byte);
        out[input] = static_cast<float>(code - code_of_zero_weight(Bits)) * scale;
      }
    }
  }
}

}  // namespace

void read_coded_row(const CodedView& weight, int64_t row, float* out) {
  if (weight.bits == 6) {
    read_row<6>(weight, row, out);
  } else {
    read_row<8>(weight, row, out);
  }
}

bool is_valid_coded(const CodedView& weight) {
  const int64_t code_bytes = kCodedGroups * coded_group_bytes(weight.bits);
  const uint8_t* block = weight.tiles;
  unsigned wrong = 0;
  for (int64_t i = 0; i < weight.tile_count * weight.blocks; ++i, block += coded_block_bytes(weight.bits)) {
    if (weight.bits == 8) {
      for (int64_t byte = 0; byte < code_bytes; ++byte) wrong |= block[byte] == 0;
    }
    for (int64_t place = 0; place < kCodedGroups * kCodedRows; ++place) {
      uint16_t half;
      std::memcpy(&half, block + code_bytes + 2 * place, sizeof(half));
      wrong |= half >= 0x7f80;  // infinite, not a number, or negative
    }
  }
  return wrong == 0;
}

}  // namespace tritium
