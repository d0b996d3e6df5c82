// What kernels_agree compares: each case runs one kernel of a table on a random input and returns the bytes
// of its result. The same seed gives the same input on every processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "table.h"

namespace tritium::agreement {

// Its own distributions: those of the standard library differ from one library to the next.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine_() % static_cast<uint64_t>(most - least + 1));
  }
  bool chance(int64_t of) { return between(1, of) == 1; }
  // In [-1, 1), as exact as a float is.
  float real() {
    return static_cast<float>(between(-(1 << 23), (1 << 23) - 1)) / static_cast<float>(1 << 23);
  }

  std::vector<float> reals(int64_t count, float largest) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = real() * largest;
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

using Bytes = std::vector<uint8_t>;

template <typename Element>
void append(Bytes& bytes, const std::vector<Element>& values) {
  const size_t before = bytes.size(), size = values.size() * sizeof(Element);
  bytes.resize(before + size);
  if (size != 0) std::memcpy(bytes.data() + before, values.data(), size);
}

template <typename Element>
Bytes bytes_of(const std::vector<Element>& values) {
  Bytes bytes;
  append(bytes, values);
  return bytes;
}

// The upper halves: rounded towards zero.
inline std::vector<uint16_t> to_bfloat16(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return halves;
}

struct Case {
  const char* kernel;
  Bytes (*run)(const KernelTable& table, Random& random);
};

// Integer products: ternary weights.
std::span<const Case> matrix_cases();
// Coded weights: their rounding and their products.
std::span<const Case> coded_cases();
// Floats: dense matrices, norms, activation functions, attention.
std::span<const Case> row_cases();
// What quantization is made of: descent.
std::span<const Case> quantization_cases();

}  // namespace tritium::agreement
