// How a ternary weight lies in memory when it runs. Sixteen rows of the weight form a tile, and a tile is cut
// along its inputs into units of 64 bytes, one cache line each. A byte holds D trits (D = 5, 1.6 bits a
// weight, where the instruction set can look 128 entries up; D = 4 of two bits elsewhere), coded 0, 1 and 2.
// Five count 1, 3, 9, 27 and 84: a base of 3, but for the last, which is a multiple of 4 so that the upper
// six bits of a byte tell it. The first digit is least significant:
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
#include <cstring>

namespace tritium {

constexpr int64_t kTileRows = 16;
constexpr int64_t kUnitBytes = 64;
constexpr int64_t kQuad = 4;
constexpr int kLastDigitWeight = 84;

// What each digit counts, for D = 5 and D = 4.
constexpr uint32_t kWeightsOf5[] = {1, 3, 9, 27, kLastDigitWeight};
constexpr uint32_t kWeightsOf4[] = {1, 4, 16, 64};

// The four bytes of a row in a unit, from its codes in the order of the inputs.
inline uint32_t unit_word(const uint8_t* codes, int64_t digits) {
  const uint32_t* weights = digits == 5 ? kWeightsOf5 : kWeightsOf4;
  uint32_t word = 0;
  for (int64_t digit = 0; digit < digits; ++digit) {
    uint32_t quad;
    std::memcpy(&quad, codes + digit * kQuad, sizeof(quad));
    word += quad * weights[digit];
  }
  return word;
}

// A weight of `plane_count` planes; rows and inputs that pad the last tile and unit have trit 0.
struct TernaryView {
  const uint8_t* planes;  // [plane_count, tiles, units, 64]
  const void* scales;     // [tiles, groups, 16], floats of 16 bits where these hold them exactly, else of 32
  bool has_half_scales;
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
