// A pool of keys and values that crosses from Python.
#pragma once

#include "kv_pages.h"
#include "views.h"

namespace tritium {

// The pool [blocks, heads, 2, numbers of half a page] of heads of size `dim`; its dtype says the kind.
template <typename AnyArray>
KvPool pool_of(const AnyArray& array, int64_t dim) {
  const nb::dlpack::dtype kind = array.dtype();
  KvPool pool{KvType::kFloat32, nullptr, size_of(array, 0), size_of(array, 1), dim};
  const bool is_half = kind.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) && kind.bits == 16;
  if (is_half) pool.type = KvType::kFloat16;
  if (holds<int8_t>(array)) pool.type = KvType::kInt8;
  require(is_half || holds<float>(array) || holds<int8_t>(array),
          "pool must hold float32, float16 or int8; it holds " + describe_dtype(kind) + ".");
  require(pool.type != KvType::kInt8 || dim <= kLargestQuantizedHead,
          "A head of an int8 pool has at most " + std::to_string(kLargestQuantizedHead) + " numbers, not " +
              std::to_string(dim) + ": use float16 or float32.");
  const int64_t numbers = pool.half_page_bytes() * 8 / kind.bits;
  require(dim >= 1 && pool.heads >= 1 && has_shape(array, {kAny, kAny, 2, numbers}) && is_contiguous(array),
          "pool must be C-contiguous, of shape (blocks, heads, 2, " + std::to_string(numbers) +
              ") for heads of size " + std::to_string(dim) + ".");
  pool.memory = static_cast<uint8_t*>(const_cast<void*>(static_cast<const void*>(array.data())));
  return pool;
}

}  // namespace tritium
