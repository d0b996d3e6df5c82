// The paged cache of keys and values: how one layer's pool lies in memory.
//
//   pool   [blocks][kv heads] pages; a block holds 16 positions of one sequence, a page those of one head
//
//   page of floats (32 or 16 bits)      keys [padded dim][16 positions] | values [16 positions][padded dim]
//
//     keys    d0: p0 p1 ... p15         a vector register is one dimension of sixteen positions: a score is
//             d1: p0 p1 ... p15         one lane, and no sum ever crosses lanes
//             ...
//     values  p0: d0 d1 d2 ...          a vector register is sixteen dimensions of one position
//             p1: d0 d1 d2 ...
//
//   page of int8     16 scales of keys | keys | 16 scales of values | values        (scales are float32)
//
//     keys    d0,d1: p0 p0 p1 p1 ... p15 p15      two dimensions side by side, and
//             d2,d3: p0 p0 p1 p1 ...
//     values  p0,p1: d0 d0 d1 d1 ...              two positions side by side: sixteen sums of products of
//             p2,p3: d0 d0 d1 d1 ...              pairs are one instruction
//
// "padded dim" is the head's size rounded up to 16; nobody reads what lies in the padding of keys, and the
// padding of values is computed and dropped. A byte times its position's scale is the number.
#pragma once

#include <cstdint>

namespace tritium {

enum class KvType { kFloat32, kFloat16, kInt8 };

constexpr int64_t kPagePositions = 16;
constexpr int64_t kScaleBytes = kPagePositions * 4;
constexpr int64_t kLargestQuantizedHead = 512;  // 512 x 127 x 32767 is below 2^31

struct KvPool {
  KvType type;
  uint8_t* memory;
  int64_t blocks;
  int64_t heads;
  int64_t dim;

  int64_t padded() const { return (dim + 15) / 16 * 16; }
  int64_t half_page_bytes() const {
    const int64_t numbers = kPagePositions * padded();
    return type == KvType::kFloat32   ? 4 * numbers
           : type == KvType::kFloat16 ? 2 * numbers
                                      : kScaleBytes + numbers;
  }
  int64_t page_bytes() const { return 2 * half_page_bytes(); }
  int64_t block_bytes() const { return heads * page_bytes(); }
};

}  // namespace tritium
