// The search for NaN and infinity in the bits of floating-point numbers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "pool.h"

namespace tritium {

// The index of the first number whose exponent is all ones, or -1. Bits is an unsigned integer as wide as the
// numbers, `exponent` the mask of theirs.
template <typename Bits>
int64_t first_not_finite(const Bits* bits, int64_t count, Bits exponent, int threads) {
  constexpr int64_t kPiece = int64_t{1} << 14;
  const auto is_wrong = [&](int64_t begin, int64_t end) {
    Bits wrong = 0;
    for (int64_t i = begin; i < end; ++i) wrong |= static_cast<Bits>((bits[i] & exponent) == exponent);
    return wrong != 0;
  };
  std::atomic<int64_t> first{count};
  parallel_for((count + kPiece - 1) / kPiece, 1, threads, 0.05 * kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end && piece * kPiece < first; ++piece) {
      if (!is_wrong(piece * kPiece, std::min((piece + 1) * kPiece, count))) continue;
      int64_t found = piece * kPiece;
      while ((bits[found] & exponent) != exponent) ++found;
      for (int64_t known = first; found < known && !first.compare_exchange_weak(known, found);) {
      }
      return;
    }
  });
  return first < count ? first.load() : -1;
}

}  // namespace tritium
