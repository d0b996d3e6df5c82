// Sixteen floats, however wide the registers are. Every float kernel sums in these sixteen lanes and folds
// them by halves, so that a result does not depend on the instruction set, the batch or the threads.
// Included by one source file per instruction set: everything here has internal linkage on purpose.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tritium {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;

typedef float NativeFloat __attribute__((vector_size(kWidth * 4)));
typedef int32_t NativeInt __attribute__((vector_size(kWidth * 4)));
typedef uint32_t NativeUint __attribute__((vector_size(kWidth * 4)));
typedef uint16_t NativeHalf __attribute__((vector_size(kWidth * 2)));
typedef int8_t NativeByte __attribute__((vector_size(kWidth)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float4 __attribute__((vector_size(16)));

#define TRITIUM_INLINE inline __attribute__((always_inline))

struct Lanes {
  NativeFloat part[kParts];
};

template <typename Operation>
TRITIUM_INLINE Lanes each(Operation operation) {
  Lanes result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) result.part[i] = operation(i);
  return result;
}

TRITIUM_INLINE Lanes broadcast(float value) {
  return each([&](int) { return NativeFloat{} + value; });
}

TRITIUM_INLINE NativeFloat load_part(const float* from) {
  NativeFloat part;
  std::memcpy(&part, from, sizeof(part));
  return part;
}

TRITIUM_INLINE NativeFloat load_part(const uint16_t* bfloat16) {
#if defined(__AVX512F__)
  const auto bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bfloat16));
  return (NativeFloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#elif defined(__AVX2__)
  const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bfloat16));
  return (NativeFloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#else
  NativeHalf half;
  std::memcpy(&half, bfloat16, sizeof(half));
  return (NativeFloat)(__builtin_convertvector(half, NativeUint) << 16);
#endif
}

// Keeps a value that is used more than once in its register: a compiler short of them reads memory for each
// use, and loads are what there is least of.
TRITIUM_INLINE void keep_in_register(NativeFloat& value) {
#if defined(__aarch64__)
  asm("" : "+w"(value));
#elif defined(__AVX512F__)
  asm("" : "+v"(value));
#else
  asm("" : "+x"(value));
#endif
}

// Floats, or the bits of bfloat16.
template <typename Element>
TRITIUM_INLINE Lanes load(const Element* from) {
  return each([&](int i) { return load_part(from + i * kWidth); });
}

// The last `count` < 16 elements, zeros behind them.
template <typename Element>
TRITIUM_INLINE Lanes load_tail(const Element* from, int64_t count) {
  Element buffer[kLanes] = {};
  std::memcpy(buffer, from, static_cast<size_t>(count) * sizeof(Element));
  return load(buffer);
}

template <typename Element>
TRITIUM_INLINE Lanes load_some(const Element* from, int64_t count) {
  return count >= kLanes ? load(from) : load_tail(from, count);
}

TRITIUM_INLINE void store(float* to, const Lanes& lanes) {
  std::memcpy(to, lanes.part, sizeof(lanes.part));
}

TRITIUM_INLINE void store_some(float* to, const Lanes& lanes, int64_t count) {
  if (count >= kLanes) {
    store(to, lanes);
  } else {
    float buffer[kLanes];
    store(buffer, lanes);
    std::memcpy(to, buffer, static_cast<size_t>(count) * sizeof(float));
  }
}

TRITIUM_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] + b.part[i]; });
}
TRITIUM_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] - b.part[i]; });
}
TRITIUM_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] * b.part[i]; });
}
TRITIUM_INLINE Lanes operator/(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] / b.part[i]; });
}

// The larger of both; a NaN in `a` loses, so that one bad element cannot hide the others.
TRITIUM_INLINE Lanes larger(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}
TRITIUM_INLINE Lanes smaller(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.part[i] < b.part[i] ? a.part[i] : b.part[i]; });
}
TRITIUM_INLINE Lanes absolute(const Lanes& a) {
  return each([&](int i) { return (NativeFloat)((NativeInt)a.part[i] & 0x7fffffff); });
}

// The low byte of each lane.
TRITIUM_INLINE void store_low_bytes(int8_t* to, NativeInt lanes) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)lanes));
#elif defined(__AVX2__)
  const __m256i low = _mm256_set1_epi32(0x0c080400);
  const __m256i fours = _mm256_shuffle_epi8((__m256i)lanes, low);  // of each half, four times over
  const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), eight);
#else
  const NativeByte bytes = __builtin_convertvector(lanes, NativeByte);
  std::memcpy(to, &bytes, sizeof(bytes));
#endif
}

// Folds sixteen lanes by halves down to four: lane l meets lane l + 8, then l + 4.
TRITIUM_INLINE Float4 fold_to_four(const Lanes& lanes) {
  Float4 quarter[4];
  std::memcpy(quarter, lanes.part, sizeof(quarter));
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

TRITIUM_INLINE float sum(const Lanes& lanes) {
  const Float4 four = fold_to_four(lanes);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

TRITIUM_INLINE float maximum(const Lanes& lanes) {
  float values[kLanes];
  store(values, lanes);
  float best = values[0];
  for (int i = 1; i < kLanes; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

// e^x within 2 units in the last place; 0 below -87.3, largest finite power above 88.
TRITIUM_INLINE Lanes exponential(const Lanes& x) {
  return each([&](int i) {
    const NativeFloat value = x.part[i];
    const NativeFloat low = NativeFloat{} - 87.3f, high = NativeFloat{} + 88.0f;
    NativeFloat bounded = value < low ? low : value;
    bounded = bounded > high ? high : bounded;
    const NativeFloat magic = NativeFloat{} + 12582912.0f;  // 1.5 x 2^23: adding it rounds to an integer
    const NativeFloat shifted = bounded * 1.44269504f + magic;
    const NativeFloat whole = shifted - magic;
    const NativeFloat rest = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
    NativeFloat series = NativeFloat{} + 1.9875691500e-4f;
    series = series * rest + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    series = series * rest * rest + rest + 1.0f;
    const NativeInt power = ((NativeInt)shifted - (NativeInt)magic + 127) << 23;
    const NativeFloat result = series * (NativeFloat)power;
    return value < low ? NativeFloat{} : result;
  });
}

}  // namespace
}  // namespace tritium
