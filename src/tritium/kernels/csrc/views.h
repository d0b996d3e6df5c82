// Arrays that cross from Python: every one is checked here before a kernel sees its memory.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace tritium {

namespace nb = nanobind;
using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using WritableArray = nb::ndarray<nb::device::cpu>;

constexpr int64_t kAny = -1;

template <typename T>
struct ElementName;
template <>
struct ElementName<float> {
  static constexpr const char* text = "float32";
};
template <>
struct ElementName<int8_t> {
  static constexpr const char* text = "int8";
};
template <>
struct ElementName<uint8_t> {
  static constexpr const char* text = "uint8";
};
template <>
struct ElementName<uint16_t> {
  static constexpr const char* text = "uint16";
};
template <>
struct ElementName<int32_t> {
  static constexpr const char* text = "int32";
};
template <>
struct ElementName<int64_t> {
  static constexpr const char* text = "int64";
};

inline std::string describe_shape(std::initializer_list<int64_t> shape) {
  std::string text = "(";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += size == kAny ? "any" : std::to_string(size);
  }
  return text + ")";
}

template <typename AnyArray>
bool is_contiguous(const AnyArray& array) {
  if (array.size() == 0) return true;
  int64_t expected = 1;
  for (size_t axis = array.ndim(); axis-- > 0;) {
    if (array.shape(axis) != 1 && array.stride(axis) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(axis));
  }
  return true;
}

template <typename AnyArray>
bool has_shape(const AnyArray& array, std::initializer_list<int64_t> shape) {
  if (array.ndim() != shape.size()) return false;
  size_t axis = 0;
  for (const int64_t size : shape) {
    if (size != kAny && static_cast<int64_t>(array.shape(axis)) != size) return false;
    ++axis;
  }
  return true;
}

inline std::string describe_dtype(nb::dlpack::dtype dtype) {
  const char* kind = dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) ? "float"
                     : dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::Int) ? "int"
                     : dtype.code == static_cast<uint8_t>(nb::dlpack::dtype_code::UInt)
                         ? "uint"
                         : "another dtype of bits ";
  return kind + std::to_string(dtype.bits);
}

// The memory of an array of T of that shape (kAny: any size); throws what cpu.py turns into a
// ValidationError.
template <typename T, typename AnyArray>
T* elements(const AnyArray& array, const char* name, std::initializer_list<int64_t> shape) {
  if (array.dtype() == nb::dtype<T>() && has_shape(array, shape) && is_contiguous(array)) {
    return static_cast<T*>(const_cast<void*>(static_cast<const void*>(array.data())));
  }
  std::string found = describe_dtype(array.dtype()) + " of shape (";
  for (size_t axis = 0; axis < array.ndim(); ++axis) {
    found += (axis == 0 ? "" : ", ") + std::to_string(array.shape(axis));
  }
  found += is_contiguous(array) ? ")" : "), not C-contiguous";
  throw std::invalid_argument(std::string(name) + " must be a C-contiguous " +
                              ElementName<std::remove_const_t<T>>::text + " array of shape " +
                              describe_shape(shape) + "; it is " + found + ".");
}

template <typename T, typename AnyArray>
bool holds(const AnyArray& array) {
  return array.dtype() == nb::dtype<T>();
}

template <typename AnyArray>
int64_t size_of(const AnyArray& array, size_t axis) {
  return axis < array.ndim() ? static_cast<int64_t>(array.shape(axis)) : 0;
}

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// Python gave a number of threads; more than the machine has is allowed, nonsense is not.
inline void require_threads(int threads) {
  require(threads >= 1 && threads <= 1024,
          "threads must be between 1 and 1024, not " + std::to_string(threads) + ".");
}

template <typename T>
using Result = nb::ndarray<nb::numpy, T>;

// A fresh array, aligned to cache lines, that Python owns once it is returned.
template <typename T>
struct Fresh {
  static constexpr std::align_val_t kAlignment{64};

  explicit Fresh(std::initializer_list<int64_t> sizes) {
    for (const int64_t size : sizes) {
      shape[axes++] = static_cast<size_t>(size);
      count *= static_cast<size_t>(size);
    }
    data = static_cast<T*>(::operator new(count * sizeof(T) + 64, kAlignment));
  }
  Fresh(const Fresh&) = delete;
  Fresh& operator=(const Fresh&) = delete;
  ~Fresh() {
    if (data != nullptr) ::operator delete(data, kAlignment);
  }

  Result<T> release() {
    nb::capsule owner(data, [](void* memory) noexcept { ::operator delete(memory, kAlignment); });
    T* memory = data;
    data = nullptr;
    return Result<T>(memory, axes, shape.data(), owner);
  }

  T* data = nullptr;
  size_t count = 1;
  size_t axes = 0;
  std::array<size_t, 4> shape{};
};

void bind_packing(nb::module_& m);
void bind_descend(nb::module_& m);
void bind_gram(nb::module_& m);
void bind_quantize(nb::module_& m);
void bind_ternary(nb::module_& m);
void bind_coded(nb::module_& m);
void bind_dense(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_plan(nb::module_& m);
void bind_probe(nb::module_& m);

}  // namespace tritium
