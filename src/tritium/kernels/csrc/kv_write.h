// Writing one position of one head into its page, in the pool's own kind of numbers.
#pragma once

#include <limits>

#include "elementwise.h"
#include "half.h"

namespace tritium {
namespace {

// A page of floats.
template <typename Element, typename Convert>
TRITIUM_INLINE void write_numbers(uint8_t* page, int64_t half_page_bytes, int64_t offset, int64_t dim,
                                  int64_t padded, const float* key, const float* value, Convert convert) {
  auto* keys = reinterpret_cast<Element*>(page) + offset;
  auto* values = reinterpret_cast<Element*>(page + half_page_bytes) + offset * padded;
  for (int64_t d = 0; d < dim; ++d) keys[d * kPagePositions] = convert(key[d]);
  for (int64_t d = 0; d < dim; ++d) values[d] = convert(value[d]);
}

// What a row of numbers becomes as bytes: each is rint(x x factor), and stands for itself x scale.
struct ByteScale {
  float factor;
  float scale;
};

// Numbers that are all next to nothing become 0; one that is not finite makes the scale NaN, so that it
// shows.
TRITIUM_INLINE ByteScale byte_scale(const float* x, int64_t count) {
  const int32_t bits = largest_bits(x, count);
  if (bits >= kInfinityBits) return {0.0f, std::numeric_limits<float>::quiet_NaN()};
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  if (largest < 1e-30f) return {0.0f, 0.0f};
  return {127.0f / largest, largest / 127.0f};
}

// Bytes of one position alone are written: its neighbour in a pair may be another thread's.
TRITIUM_INLINE void write_bytes(uint8_t* page, int64_t half_page_bytes, int64_t offset, int64_t dim,
                                int64_t padded, const float* key, const float* value) {
  const ByteScale key_scale = byte_scale(key, dim), value_scale = byte_scale(value, dim);
  std::memcpy(page + offset * 4, &key_scale.scale, 4);
  std::memcpy(page + half_page_bytes + offset * 4, &value_scale.scale, 4);
  int8_t bytes[kLargestQuantizedHead] = {};
  round_row<true>(key, dim, key_scale.factor, bytes);
  auto* keys = reinterpret_cast<int8_t*>(page + kScaleBytes) + offset * 2;
  for (int64_t d = 0; d + 1 < dim; d += 2) std::memcpy(keys + d * kPagePositions, bytes + d, 2);
  if (dim % 2 != 0) keys[(dim - 1) * kPagePositions] = bytes[dim - 1];
  round_row<true>(value, dim, value_scale.factor, bytes);
  auto* values =
      reinterpret_cast<int8_t*>(page + half_page_bytes + kScaleBytes) + offset / 2 * 2 * padded + offset % 2;
  for (int64_t d = 0; d < dim; ++d) values[2 * d] = bytes[d];
}

void write_position(const KvPool& pool, const float* key, const float* value, int64_t slot, int64_t head) {
  uint8_t* page = pool.memory + slot / kPagePositions * pool.block_bytes() + head * pool.page_bytes();
  const int64_t offset = slot % kPagePositions, half = pool.half_page_bytes();
  switch (pool.type) {
    case KvType::kFloat32:
      return write_numbers<float>(page, half, offset, pool.dim, pool.padded(), key, value,
                                  [](float x) { return x; });
    case KvType::kFloat16:
      return write_numbers<Half>(page, half, offset, pool.dim, pool.padded(), key, value, to_half);
    case KvType::kInt8:
      return write_bytes(page, half, offset, pool.dim, pool.padded(), key, value);
  }
}

}  // namespace
}  // namespace tritium
