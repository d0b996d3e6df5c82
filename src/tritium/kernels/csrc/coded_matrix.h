// A coded weight in memory of its own: what Python holds and the kernels run.
#pragma once

#include <cstdint>

#include "coded.h"
#include "prepare.h"

namespace tritium {

class CodedMatrix {
 public:
  // Copies the tiles that `from` shows.
  CodedMatrix(const CodedView& from, int threads);

  const CodedView& view() const { return view_; }
  int64_t nbytes() const { return view_.tile_count * view_.blocks * coded_block_bytes(view_.bits); }
  // Whether every code and scale is one that rounding makes.
  bool is_valid() const { return is_valid_; }

 private:
  CodedView view_;
  AlignedBytes memory_;
  bool is_valid_ = true;
};

}  // namespace tritium
