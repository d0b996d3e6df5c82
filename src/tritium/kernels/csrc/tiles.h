// How a ternary weight lies in memory when it runs. Sixteen rows of the weight form a tile, and a tile is cut
// along its inputs into units of 64 bytes, one cache line each. A byte holds D trits (D = 5 in base 3, 1.6
// bits a weight, where the instruction set can look 256 entries up; D = 4 of two bits elsewhere), coded 0, 1
// and 2, the first digit least significant:
//
//            byte 0   1   2   3  |  4   5   6   7  | ... | 60  61  62  63
//   row        0   0   0   0     |  1   1   1   1  | ... | 15  15  15  15
//   digit 0  input 0   1   2   3 |  0   1   2   3  | ... |  0   1   2   3     + 4 D x unit
//   digit 1  input 4   5   6   7 |  4   5   6   7  | ... |  4   5   6   7     + 4 D x unit
//   ...
//
// So one digit of a unit is sixteen rows times one quad of inputs: what a multiply-add of bytes in groups of
// four takes, with the quad of activations broadcast to all lanes. A lane of the sums is a row of the weight,
// and nothing is ever summed across lanes.
#pragma once

#include <cstdint>

namespace tritium {

constexpr int64_t kTileRows = 16;
constexpr int64_t kUnitBytes = 64;
constexpr int64_t kQuad = 4;

// A weight of `plane_count` planes; rows and inputs that pad the last tile and unit have trit 0.
struct TernaryView {
  const uint8_t* planes;  // [plane_count, tiles, units, 64]
  const float* scales;    // [tiles, groups, 16]
  int64_t plane_count;
  int64_t rows;
  int64_t tiles;
  int64_t units;        // per tile
  int64_t quads;        // inputs / 4, rounded up
  int64_t groups;       // of inputs that share a scale
  int64_t group_quads;  // per group; the last group may be shorter
  bool divides;
};

// Quantized activations, zeros behind the last input; sums[g * columns + c] is the sum of column c over group
// g of the weight.
struct ActivationView {
  const int8_t* q;  // [columns, stride]
  int64_t stride;
  const float* scale;
  const int32_t* sums;
  int64_t columns;
};

}  // namespace tritium
