// Norms, activation functions and the quantization of activations.
#pragma once

#include <cmath>

#include "vector.h"

namespace tritium {
namespace {

// result[i] = operation(lanes of each input at i), for all i < count.
template <typename Operation>
TRITIUM_INLINE void map(int64_t count, float* out, Operation operation) {
  for (int64_t i = 0; i < count; i += kLanes) store_some(out + i, operation(i, count - i), count - i);
}

template <typename Operation>
TRITIUM_INLINE Lanes accumulate(int64_t count, Operation operation) {
  Lanes total = broadcast(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) total = total + operation(i, count - i);
  return total;
}

// The largest magnitude among the 1e-5 and what is no NaN, one element at a time: for rows that hold one.
inline float largest_number(const float* x, int64_t count) {
  float largest = 1e-5f;
  for (int64_t i = 0; i < count; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  return largest;
}

constexpr int32_t kInfinityBits = 0x7f800000;

// The bits of the largest magnitude, as whole numbers: those of an infinity and of NaNs are above all others.
TRITIUM_INLINE int32_t largest_bits(const float* x, int64_t count) {
  constexpr int kChains = 4;  // comparisons that need not wait for each other
  NativeInt largest[kChains][kParts] = {};
  const auto take = [&](int chain, const Lanes& lanes) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const NativeInt bits = (NativeInt)lanes.part[part] & 0x7fffffff;
      NativeInt& best = largest[chain][part];
      best = bits > best ? bits : best;
    }
  };
  int64_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) take(chain, load(x + i + chain * kLanes));
  }
  for (; i < count; i += kLanes) take(0, load_some(x + i, count - i));
  NativeInt best = largest[0][0];
  for (const auto& chain : largest) {
    for (const NativeInt& part : chain) best = part > best ? part : best;
  }
  int32_t result = 0;
  for (int lane = 0; lane < kWidth; ++lane) result = best[lane] > result ? best[lane] : result;
  return result;
}

// x times the scale, rounded to whole numbers, half to even; a NaN becomes 0. Nothing is beyond 127: the
// largest magnitude times the scale is less than 127.5.
template <bool IsFinite>
TRITIUM_INLINE void round_row(const float* x, int64_t count, float scale, int8_t* q) {
  const NativeFloat factor = NativeFloat{} + scale;
  const auto round = [&](int64_t i, const Lanes& lanes) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      NativeFloat value = lanes.part[part] * factor;
      if constexpr (!IsFinite) value = value == value ? value : NativeFloat{};
      // Adding 1.5 x 2^23 rounds and leaves the integer in the low bits.
      store_low_bytes(q + i + part * kWidth, (NativeInt)(value + 12582912.0f));
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) round(i, load(x + i));
  if (i < count) round(i, load_tail(x + i, count - i));
}

// Whether the row was finite; a NaN becomes 0, an infinity makes the whole row 0.
bool quantize_row(const float* x, int64_t count, int8_t* q, float* scale) {
  const int32_t bits = largest_bits(x, count);
  const bool is_finite = bits < kInfinityBits;
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  largest = is_finite ? (largest > 1e-5f ? largest : 1e-5f) : largest_number(x, count);
  *scale = (1.0f / largest) * 127.0f;  // torch divides a number by a tensor in these two steps
  if (is_finite) {
    round_row<true>(x, count, *scale, q);
  } else {
    round_row<false>(x, count, *scale, q);
  }
  return is_finite;
}

// `stride` is the padded row of q: a multiple of 128, zeros beyond `count`. Whether all rows were finite.
bool quantize_activations(const float* x, int64_t rows, int64_t count, int64_t stride, int8_t* q,
                          float* scale) {
  bool is_finite = true;
  for (int64_t row = 0; row < rows; ++row) {
    is_finite &= quantize_row(x + row * count, count, q + row * stride, scale + row);
  }
  return is_finite;
}

void rms_norm(const float* x, const float* weight, int64_t rows, int64_t count, float eps, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += count, out += count) {
    const Lanes squares = accumulate(count, [&](int64_t i, int64_t left) {
      const Lanes value = load_some(x + i, left);
      return value * value;
    });
    const Lanes inverse = broadcast(1.0f / std::sqrt(sum(squares) / static_cast<float>(count) + eps));
    map(count, out, [&](int64_t i, int64_t left) {
      return load_some(x + i, left) * inverse * load_some(weight + i, left);
    });
  }
}

void layer_norm(const float* x, const float* weight, const float* bias, int64_t rows, int64_t count,
                float eps, float* out) {
  const float size = static_cast<float>(count);
  for (int64_t row = 0; row < rows; ++row, x += count, out += count) {
    const float mean =
        sum(accumulate(count, [&](int64_t i, int64_t left) { return load_some(x + i, left); })) / size;
    for (int64_t i = 0; i < count; ++i) out[i] = x[i] - mean;
    const Lanes squares = accumulate(count, [&](int64_t i, int64_t left) {
      const Lanes value = load_some(out + i, left);
      return value * value;
    });
    const Lanes inverse = broadcast(1.0f / std::sqrt(sum(squares) / size + eps));
    map(count, out, [&](int64_t i, int64_t left) {
      return load_some(out + i, left) * inverse * load_some(weight + i, left) + load_some(bias + i, left);
    });
  }
}

void silu_multiply(const float* gate, const float* up, int64_t count, float* out) {
  const Lanes one = broadcast(1.0f), zero = broadcast(0.0f);
  map(count, out, [&](int64_t i, int64_t left) {
    const Lanes value = load_some(gate + i, left);
    return value / (one + exponential(zero - value)) * load_some(up + i, left);
  });
}

// GELU with a hyperbolic tangent, x (1 + tanh(z / 2)) / 2, is x / (1 + e^-z) with
// z = 2 sqrt(2 / pi) (x + 0.044715 x^3).
void gelu_tanh_multiply(const float* gate, const float* up, int64_t count, float* out) {
  const Lanes one = broadcast(1.0f), zero = broadcast(0.0f);
  const Lanes slope = broadcast(1.5957691216f), cubic = broadcast(0.044715f);
  map(count, out, [&](int64_t i, int64_t left) {
    const Lanes value = load_some(gate + i, left);
    const Lanes z = value * (slope * (one + cubic * (value * value)));
    return value / (one + exponential(zero - z)) * load_some(up + i, left);
  });
}

void relu2_multiply(const float* gate, const float* up, int64_t count, float* out) {
  const Lanes zero = broadcast(0.0f);
  map(count, out, [&](int64_t i, int64_t left) {
    const Lanes value = load_some(gate + i, left);
    // larger() with zero first lets a NaN through: a broken layer must show.
    const Lanes positive = larger(zero, value);
    return positive * positive * load_some(up + i, left);
  });
}

void add(const float* a, const float* b, int64_t count, float* out) {
  map(count, out, [&](int64_t i, int64_t left) { return load_some(a + i, left) + load_some(b + i, left); });
}

// Whether no element is NaN or infinite: x - x is 0 for all others.
bool is_finite(const float* x, int64_t count) {
  Lanes total = broadcast(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Lanes value = load_some(x + i, count - i);
    total = total + (value - value);
  }
  return sum(total) == 0.0f;
}

// Turns the pairs (i, i + half) of a head by their angles.
void rotate(float* head, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Lanes first = load_some(head + i, left), second = load_some(head + half + i, left);
    const Lanes c = load_some(cosine + i, left), s = load_some(sine + i, left);
    store_some(head + i, first * c - second * s, left);
    store_some(head + half + i, second * c + first * s, left);
  }
}

// erf(|x|) by Abramowitz and Stegun 7.1.26, absolute error below 2e-7.
TRITIUM_INLINE Lanes error_function_of_absolute(const Lanes& x) {
  const Lanes one = broadcast(1.0f);
  const Lanes t = one / (one + broadcast(0.3275911f) * x);
  Lanes series = broadcast(1.061405429f);
  series = series * t + broadcast(-1.453152027f);
  series = series * t + broadcast(1.421413741f);
  series = series * t + broadcast(-0.284496736f);
  series = series * t + broadcast(0.254829592f);
  return one - series * t * exponential(broadcast(0.0f) - x * x);
}

void gelu(const float* x, int64_t count, float* out) {
  const Lanes half = broadcast(0.5f), root = broadcast(0.70710678f);
  map(count, out, [&](int64_t i, int64_t left) {
    const Lanes value = load_some(x + i, left);
    const Lanes magnitude = absolute(value);
    const Lanes erf = error_function_of_absolute(magnitude * root);
    return half * (value + magnitude * erf);  // x erf(x) = |x| erf(|x|)
  });
}

// exp(x - largest) in place over [0, count), and its sum.
float exponentiate(float* x, int64_t count, float largest) {
  const Lanes shift = broadcast(largest);
  Lanes total = broadcast(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Lanes value = exponential(load(x + i) - shift);
    store(x + i, value);
    total = total + value;
  }
  if (i < count) {
    store_some(x + i, exponential(load_tail(x + i, count - i) - shift), count - i);
    total = total + load_tail(x + i, count - i);
  }
  return sum(total);
}

float largest_of(const float* x, int64_t count) {
  float best = x[0];
  for (int64_t i = 1; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

void softmax(const float* x, int64_t rows, int64_t count, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += count, out += count) {
    std::memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
    const Lanes total = broadcast(exponentiate(out, count, largest_of(out, count)));
    map(count, out, [&](int64_t i, int64_t left) { return load_some(out + i, left) / total; });
  }
}

}  // namespace
}  // namespace tritium
