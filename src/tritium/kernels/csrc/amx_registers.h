// The matrix registers of AMX, by number: the compiler's own intrinsics do not take a parameter for one.
//
//   0 to 3   sums, by piece of columns and tile of the weight; or of one piece, in turns by group
//   4, 5     activations of a piece
//   6, 7     codes of a tile
#pragma once

#include <immintrin.h>

#include "tiles.h"
#include "vector.h"

namespace tritium {
namespace {

// The matrix instructions are opaque to the compiler: what they read has to be in memory before them.
TRITIUM_INLINE void write_back() {
  asm volatile("" ::: "memory");
}

// For pieces of so many columns and codes of so many quads.
inline void configure(int64_t columns, int64_t quads) {
  struct alignas(64) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } shape{};
  shape.palette = 1;
  for (int i = 0; i < 8; ++i) {
    const bool holds_activations = i == 4 || i == 5, holds_codes = i >= 6;
    shape.row_bytes[i] = static_cast<uint16_t>(holds_activations ? quads * kQuad : kUnitBytes);
    shape.rows[i] = static_cast<uint8_t>(holds_codes ? quads : columns);
  }
  write_back();
  _tile_loadconfig(&shape);
}

template <int Register>
TRITIUM_INLINE void clear_register() {
  asm volatile("tilezero %%tmm%c0" ::"n"(Register));
}
template <int Register>
TRITIUM_INLINE void load_register(const void* from, int64_t stride = kUnitBytes) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"n"(Register), "r"(from), "r"(stride));
}
// What is not read again soon does not drive other things out of the first-level cache.
template <int Register>
TRITIUM_INLINE void stream_register(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" ::"n"(Register), "r"(from), "r"(stride));
}
template <int Register>
TRITIUM_INLINE void store_register(void* to) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"n"(Register), "r"(to), "r"(kUnitBytes) : "memory");
}
template <int Sums, int Activations, int Codes>
TRITIUM_INLINE void multiply() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(Sums), "n"(Activations), "n"(Codes));
}

}  // namespace
}  // namespace tritium
