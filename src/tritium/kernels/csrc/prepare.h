// From the portable form of a ternary weight to the tiles that run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "table.h"

namespace tritium {

// Memory on a cache line; in huge pages where it is large, because a weight is read from end to end.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size);
  uint8_t* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
};

// The sizes of a weight, whatever form its trits have.
struct TernaryShape {
  int64_t plane_count;
  int64_t rows;
  int64_t inputs;
  int64_t groups;
  int64_t group_size;  // inputs per group; a multiple of 32 unless there is one group
  bool divides;
};

// A weight laid out for one instruction set, and the kernels that read it.
class PreparedWeight {
 public:
  PreparedWeight(const TernaryShape& shape, const KernelTable& kernels);

  // Lays the portable form out: planes uint8 [plane_count, rows, blocks * 32] of packing.h, scales
  // [scale_rows, groups]. False where a code is no trit.
  bool fill(const uint8_t* planes, const float* scales, int64_t scale_rows, int threads);

  // The same from trits five to a byte, row after row without a gap: [plane_count, ceil(rows x inputs / 5)].
  // False where a byte is no five trits.
  bool fill_packed(const uint8_t* packed, const float* scales, int64_t scale_rows, int threads);

  // Row `row` as floats, [inputs]: levels times their scales, or by them.
  void read_floats(int64_t row, float* out) const;

  const TernaryView& view() const { return view_; }
  const KernelTable& kernels() const { return kernels_; }
  int64_t inputs() const { return inputs_; }
  size_t nbytes() const { return plane_bytes() + scale_bytes(); }

 private:
  bool fill_tile(int64_t plane, int64_t tile, const uint8_t* portable, uint8_t* codes);
  bool fill_packed_tile(int64_t item, const uint8_t* plane, uint8_t* codes);
  float scale_at(int64_t tile, int64_t group, int64_t lane) const;
  void fill_scales(const float* scales, int64_t scale_rows);
  uint8_t* planes() { return memory_.data(); }
  size_t plane_bytes() const;
  size_t scale_bytes() const;

  const KernelTable& kernels_;
  int64_t inputs_;
  TernaryView view_;
  AlignedBytes memory_;  // planes, then scales
};

}  // namespace tritium
