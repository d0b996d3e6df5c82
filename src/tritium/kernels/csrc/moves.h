// By how much the weights of some columns moved, of each row those only that did.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "pool.h"
#include "table.h"

namespace tritium {

class Moves {
 public:
  // Of `changes` [rows, count], whose rows lie `apart`.
  Moves(const float* changes, int64_t apart, int64_t rows, int64_t count, int threads)
      : rows_(rows), count_(count), ends_(static_cast<size_t>(rows) + 1) {
    parallel_for(rows, 1, threads, kNanosecondsPerChange * static_cast<double>(count),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t row = begin; row < end; ++row) {
                     const float* of = changes + row * apart;
                     ends_[row + 1] = count - std::count(of, of + count, 0.0f);
                   }
                 });
    for (int64_t row = 0; row < rows; ++row) ends_[row + 1] += ends_[row];
    moves_ = std::make_unique_for_overwrite<Move[]>(static_cast<size_t>(ends_.back()));
    parallel_for(rows, 1, threads, kNanosecondsPerChange * static_cast<double>(count),
                 [&](int64_t begin, int64_t end) { note(changes, apart, begin, end); });
  }

  int64_t rows() const { return rows_; }
  int64_t count() const { return count_; }  // of the columns
  int64_t size() const { return ends_.back(); }
  const int64_t* ends() const { return ends_.data(); }
  const Move* data() const { return moves_.get(); }

 private:
  static constexpr double kNanosecondsPerChange = 0.5;

  void note(const float* changes, int64_t apart, int64_t begin, int64_t end) {
    std::vector<Move> found(static_cast<size_t>(count_) + 1);  // the last may be written to in vain
    for (int64_t row = begin; row < end; ++row) {
      if (ends_[row] == ends_[row + 1]) continue;
      const float* of = changes + row * apart;
      size_t size = 0;
      for (int64_t k = 0; k < count_; ++k) {
        found[size] = {static_cast<int32_t>(k), of[k]};
        size += of[k] != 0.0f;
      }
      std::copy_n(found.data(), size, moves_.get() + ends_[row]);
    }
  }

  int64_t rows_, count_;
  std::vector<int64_t> ends_;  // before each row, and after the last
  std::unique_ptr<Move[]> moves_;
};

}  // namespace tritium
