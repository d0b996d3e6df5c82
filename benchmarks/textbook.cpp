// Quantization as a book writes it: the scalar loops that "so many times faster" may be held against.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

namespace {

double mean_magnitude(const float* weights, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::fabs(weights[i]);
  return sum / static_cast<double>(count);
}

template <typename Trit>
void pack(const float* weights, int64_t count, uint8_t* packed, Trit trit) {
  for (int64_t i = 0; i < count; i += 4) {
    int byte = 0;
    for (int j = 0; j < 4; ++j) byte |= (trit(weights[i + j]) + 1) << (2 * j);
    packed[i / 4] = static_cast<uint8_t>(byte);
  }
}

}  // namespace

extern "C" {

// One scale for all; round(w / scale), cut at -1 and 1, four to a byte.
void absmean_by_rounding(const float* weights, int64_t count, uint8_t* packed) {
  const float inverse = 1.0f / static_cast<float>(mean_magnitude(weights, count));
  pack(weights, count, packed, [&](float weight) {
    return static_cast<int>(std::fmin(std::fmax(roundf(weight * inverse), -1.0f), 1.0f));
  });
}

// The same by two comparisons.
void absmean_by_comparing(const float* weights, int64_t count, uint8_t* packed) {
  const float half = 0.5f * static_cast<float>(mean_magnitude(weights, count));
  pack(weights, count, packed, [&](float weight) { return (weight > half) - (weight < -half); });
}

// The least-squares scale of every `size` weights, by sorting them. `size` is at most 8192.
void least_squares_by_sorting(const float* weights, int64_t count, int64_t size, float* scales) {
  float sorted[8192];
  for (int64_t begin = 0; begin + size <= count; begin += size) {
    for (int64_t i = 0; i < size; ++i) sorted[i] = std::fabs(weights[begin + i]);
    std::sort(sorted, sorted + size, std::greater<float>());
    double sum = 0, best = -1, scale = 0;
    for (int64_t i = 0; i < size; ++i) {
      sum += sorted[i];
      const double gain = sum * sum / static_cast<double>(i + 1);
      if (gain > best) {
        best = gain;
        scale = sum / static_cast<double>(i + 1);
      }
    }
    scales[begin / size] = static_cast<float>(scale);
  }
}
}
