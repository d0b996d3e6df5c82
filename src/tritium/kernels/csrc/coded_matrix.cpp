#include "coded_matrix.h"

#include <atomic>
#include <cstring>

#include "pool.h"

namespace tritium {
namespace {

constexpr double kBytesPerNanosecond = 5;  // copied and checked by one thread

}  // namespace

CodedMatrix::CodedMatrix(const CodedView& from, int threads)
    : view_(from), memory_(static_cast<size_t>(nbytes())) {
  view_.tiles = memory_.data();
  std::atomic<bool> valid{true};
  const int64_t tile_bytes = view_.blocks * coded_block_bytes(view_.bits);
  const double nanoseconds = static_cast<double>(tile_bytes) / kBytesPerNanosecond;
  parallel_for(view_.tile_count, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    const int64_t offset = begin * tile_bytes;
    std::memcpy(memory_.data() + offset, from.tiles + offset,
                static_cast<size_t>((end - begin) * tile_bytes));
    CodedView part = view_;
    part.tiles += offset;
    part.tile_count = end - begin;
    if (!is_valid_coded(part)) valid = false;
  });
  is_valid_ = valid;
}

}  // namespace tritium
