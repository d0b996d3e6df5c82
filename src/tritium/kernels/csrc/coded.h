// Coded weights: matrices whose weights are codes of 6 or 8 bits, with a scale per row and group of 32
// inputs. One layout serves the file, the memory and every instruction set. Sixteen rows form a tile; along
// its inputs a tile is cut into blocks of 64 inputs, and a block is made of whole cache lines. What a
// multiply-add of bytes in groups of four takes, 16 rows times a quad of inputs, is a unit of 64 bytes:
//
//            byte 0   1   2   3  |  4   5   6   7  | ... | 60  61  62  63
//   row        0   0   0   0     |  1   1   1   1  | ... | 15  15  15  15
//   input      0   1   2   3     |  0   1   2   3  | ... |  0   1   2   3     + 4 x unit
//
// A group of 32 inputs is 8 units. With 8 bits a unit is one line. With 6 bits two units share a line of
// nibbles and four units a line of upper bits, each part in the byte that the unit has it in:
//
//   6 bits, 13 lines                               8 bits, 17 lines
//   line 0     units 0 (low nibbles) and 1 (high)  line 0      unit 0
//   line 1     units 2 and 3                       line 1      unit 1
//   line 2, 3  units 4 to 7                        ...
//   line 4     upper bits of units 0 (bits 0, 1)   line 7      unit 7
//              to 3 (bits 6, 7)                    line 8..15  units of the second group
//   line 5     upper bits of units 4 to 7          line 16     scales, as on the left
//   line 6..11 the same for the second group
//   line 12    bfloat16 scales: rows 0 to 15 of the first group, then of the second
//
// A weight is (code - 2^(bits - 1)) x scale; codes run from 1 to 2^bits - 1. Rows and inputs that pad the
// last tile and block have weight 0. 6.5 and 8.5 bits a weight, scales included.
#pragma once

#include <cstdint>

namespace tritium {

constexpr int64_t kCodedRows = 16;
constexpr int64_t kCodedQuad = 4;
constexpr int64_t kCodedGroup = 32;
constexpr int64_t kCodedBlock = 64;
constexpr int64_t kCodedLine = 64;
constexpr int64_t kCodedUnits = kCodedGroup / kCodedQuad;    // per group
constexpr int64_t kCodedGroups = kCodedBlock / kCodedGroup;  // per block

constexpr int64_t coded_group_bytes(int bits) {
  return kCodedRows * kCodedGroup * bits / 8;
}
constexpr int64_t coded_block_bytes(int bits) {
  return kCodedGroups * coded_group_bytes(bits) + kCodedLine;
}
constexpr int32_t code_of_zero_weight(int bits) {
  return 1 << (bits - 1);
}

// A coded weight as the kernels see it.
struct CodedView {
  const uint8_t* tiles;  // [tile_count, blocks, coded_block_bytes(bits)], on a cache line
  int bits;              // 6 or 8
  int64_t rows;
  int64_t inputs;
  int64_t tile_count;  // of 16 rows
  int64_t blocks;      // of 64 inputs, per tile
};

// Quantized activations as they are made, row by row, for weights of `groups` groups.
struct CodedInputs {
  const int8_t* q;  // [columns, stride]
  int64_t columns;
  int64_t stride;
  int64_t groups;
  int bits;
};

// Quantized activations, group by group: the 32 bytes of all columns lie side by side, so that the kernel
// reads on and never strides. corrections[g * columns + c] takes the codes' offset back: minus
// code_of_zero_weight times the sum of group g of column c.
struct CodedActivations {
  const int8_t* q;  // [groups, columns, 32]; groups = blocks x 2
  const int32_t* corrections;
  const float* scale;  // [columns]
  int64_t columns;
};

// The code of byte `byte` of a unit, from the lines of its group.
template <int Bits>
inline uint8_t read_code(const uint8_t* lines, int64_t unit, int64_t byte) {
  if constexpr (Bits == 8) {
    return lines[unit * kCodedLine + byte];
  } else {
    const int nibble = lines[unit / 2 * kCodedLine + byte] >> (unit % 2 * 4) & 15;
    const int upper = lines[(4 + unit / 4) * kCodedLine + byte] >> (unit % 4 * 2) & 3;
    return static_cast<uint8_t>(nibble | upper << 4);
  }
}

// Writes what read_code reads, into lines of zeros.
template <int Bits>
inline void write_code(uint8_t* lines, int64_t unit, int64_t byte, int code) {
  if constexpr (Bits == 8) {
    lines[unit * kCodedLine + byte] = static_cast<uint8_t>(code);
  } else {
    uint8_t& nibbles = lines[unit / 2 * kCodedLine + byte];
    uint8_t& upper = lines[(4 + unit / 4) * kCodedLine + byte];
    nibbles = static_cast<uint8_t>(nibbles | (code & 15) << (unit % 2 * 4));
    upper = static_cast<uint8_t>(upper | code >> 4 << (unit % 4 * 2));
  }
}

// What rounding to codes costs: sums of squares over a tile.
struct CodedError {
  double error = 0;
  double weight = 0;
};

// Row `row` of the weight as floats, [inputs].
void read_coded_row(const CodedView& weight, int64_t row, float* out);
// Whether every code of 8 bits is at least 1 and every scale finite and not negative.
bool is_valid_coded(const CodedView& weight);

}  // namespace tritium
