// Writing one position of one head into its page, in the pool's own kind of numbers.
#pragma once

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
  float largest = 0.0f, spoilt = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
    largest = magnitude > largest ? magnitude : largest;
    spoilt += magnitude * 0.0f;
  }
  if (spoilt != 0.0f) return {0.0f, spoilt};  // NaN differs from everything
  if (largest < 1e-30f) return {0.0f, 0.0f};
  return {127.0f / largest, largest / 127.0f};
}

TRITIUM_INLINE int8_t to_byte(float x, float factor) {
  const float shifted = x * factor + 12582912.0f;  // 1.5 x 2^23: rounds half to even
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  return static_cast<int8_t>(bits);
}

TRITIUM_INLINE void write_bytes(uint8_t* page, int64_t half_page_bytes, int64_t offset, int64_t dim,
                                int64_t padded, const float* key, const float* value) {
  const ByteScale key_scale = byte_scale(key, dim), value_scale = byte_scale(value, dim);
  std::memcpy(page + offset * 4, &key_scale.scale, 4);
  std::memcpy(page + half_page_bytes + offset * 4, &value_scale.scale, 4);
  auto* keys = reinterpret_cast<int8_t*>(page + kScaleBytes) + offset * 2;
  for (int64_t d = 0; d < dim; ++d) {
    keys[d / 2 * 2 * kPagePositions + d % 2] = to_byte(key[d], key_scale.factor);
  }
  auto* values =
      reinterpret_cast<int8_t*>(page + half_page_bytes + kScaleBytes) + offset / 2 * 2 * padded + offset % 2;
  for (int64_t d = 0; d < dim; ++d) values[2 * d] = to_byte(value[d], value_scale.factor);
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
