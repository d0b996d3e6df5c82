// The absmean strategy: a scale is the mean magnitude of a group, and a weight w becomes the trit that is
// nearest to w / scale. Rounded half to even that is a comparison: the trit is 0 up to the largest float t
// with t x (1 / scale) <= 0.5, and floats of one sign are ordered like their bits. So a weight is never
// widened, multiplied or rounded: its bits are compared with those of the threshold.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "magnitudes.h"
#include "table.h"

namespace tritium {
namespace {

constexpr int64_t kPackedChunk = 32;  // weights that share a threshold
constexpr int64_t kPackedBlock = 128;
constexpr int64_t kPackedBytes = 32;
constexpr float kSmallestMean = 1e-5f;
constexpr int64_t kAheadBytes = 8192;

inline float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int32_t bits_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// The thresholds of `count` scales, as bits of float32. Two steps of a float around 0.5 / inverse hold each,
// as the product is off by half a step at most.
inline void find_thresholds(const float* means, int64_t count, int32_t* thresholds) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const Lanes mean = load_some(means + i, count - i);
    const Lanes found = each([&](int part) {
      const NativeFloat half = NativeFloat{} + 0.5f, inverse = (NativeFloat{} + 1.0f) / mean.part[part];
      NativeInt bits = (NativeInt)(half / inverse) - 2;
      for (int step = 0; step < 4; ++step) bits -= (NativeFloat)(bits + 1) * inverse <= half;
      return (NativeFloat)bits;
    });
    store_some(reinterpret_cast<float*>(thresholds + i), found, count - i);
  }
}

// The largest number of the weights' own type that is not above the threshold, as its bits.
template <typename Element>
struct Threshold;
template <>
struct Threshold<float> {
  using Bits = int32_t;
  static Bits from(int32_t bits) { return bits; }
};
template <>
struct Threshold<BFloat16> {
  using Bits = int16_t;
  static Bits from(int32_t bits) { return static_cast<Bits>(bits >> 16); }
};
template <>
struct Threshold<Half> {
  using Bits = int16_t;
  static Bits from(int32_t bits) {
    if (bits >= 0x477fe000) return 0x7bff;  // 65504, the largest there is
    if (bits >= 0x38800000) return static_cast<Bits>((bits - 0x38000000) >> 13);
    return static_cast<Bits>(float_of(bits) * 16777216.0f);  // multiples of 2^-24
  }
};

#if defined(__AVX512BW__)
// Bit j: weight j is above the threshold, or below its negative (as unsigned bits that is above, too).
struct Marks {
  __mmask32 positive, negative;
};

TRITIUM_INLINE Marks mark(const float* from, int32_t threshold) {
  const __m512i low = load_once(from), high = load_once(from + 16);
  const __m512i limit = _mm512_set1_epi32(threshold);
  const __m512i negative = _mm512_set1_epi32(threshold | INT32_MIN);
  return {_mm512_kunpackw(_mm512_cmpgt_epi32_mask(high, limit), _mm512_cmpgt_epi32_mask(low, limit)),
          _mm512_kunpackw(_mm512_cmpgt_epu32_mask(high, negative), _mm512_cmpgt_epu32_mask(low, negative))};
}

TRITIUM_INLINE Marks mark(const BFloat16* from, int16_t threshold) {
  const __m512i weights = load_once(from), limit = _mm512_set1_epi16(threshold);
  const __m512i negative = _mm512_or_si512(limit, _mm512_set1_epi16(INT16_MIN));
  return {_mm512_cmpgt_epi16_mask(weights, limit), _mm512_cmpgt_epu16_mask(weights, negative)};
}

template <int Digit>
TRITIUM_INLINE __m256i set_codes(__m256i codes, const Marks& marks) {
  const __m256i one = _mm256_set1_epi8(static_cast<char>(1 << (2 * Digit)));
  codes = _mm256_mask_add_epi8(codes, marks.positive, codes, one);
  return _mm256_mask_sub_epi8(codes, marks.negative, codes, one);
}

template <typename Element>
TRITIUM_INLINE void pack_block(const Element* from, const typename Threshold<Element>::Bits* limits,
                               uint8_t* to) {
  __m256i codes = _mm256_set1_epi8(0x55);  // four trits 0
  codes = set_codes<0>(codes, mark(from, limits[0]));
  codes = set_codes<1>(codes, mark(from + 32, limits[1]));
  codes = set_codes<2>(codes, mark(from + 64, limits[2]));
  codes = set_codes<3>(codes, mark(from + 96, limits[3]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), codes);
}
#elif defined(__AVX2__)
// -1, 0, 1 in lanes as wide as the weights: with the sign bit turned over, a negative weight is compared as a
// positive one and the other way round.
TRITIUM_INLINE __m256i trits_of(const float* from, __m256i limit) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m256i turned = _mm256_xor_si256(bits, _mm256_set1_epi32(INT32_MIN));
  return _mm256_sub_epi32(_mm256_cmpgt_epi32(turned, limit), _mm256_cmpgt_epi32(bits, limit));
}

TRITIUM_INLINE __m256i trits_of(const BFloat16* from, __m256i limit) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m256i turned = _mm256_xor_si256(bits, _mm256_set1_epi16(INT16_MIN));
  return _mm256_sub_epi16(_mm256_cmpgt_epi16(turned, limit), _mm256_cmpgt_epi16(bits, limit));
}

TRITIUM_INLINE __m256i chunk_of_trits(const float* from, int32_t threshold) {
  const __m256i limit = _mm256_set1_epi32(threshold);
  const __m256i low = _mm256_packs_epi32(trits_of(from, limit), trits_of(from + 8, limit));
  const __m256i high = _mm256_packs_epi32(trits_of(from + 16, limit), trits_of(from + 24, limit));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

TRITIUM_INLINE __m256i chunk_of_trits(const BFloat16* from, int16_t threshold) {
  const __m256i limit = _mm256_set1_epi16(threshold);
  const __m256i mixed = _mm256_packs_epi16(trits_of(from, limit), trits_of(from + 16, limit));
  return _mm256_permute4x64_epi64(mixed, 0xd8);
}

template <typename Element>
TRITIUM_INLINE void pack_block(const Element* from, const typename Threshold<Element>::Bits* limits,
                               uint8_t* to) {
  __m256i codes = chunk_of_trits(from + 96, limits[3]);
#pragma GCC unroll 3
  for (int digit = 2; digit >= 0; --digit) {
    const __m256i twice = _mm256_add_epi8(codes, codes);
    const __m256i shifted = _mm256_add_epi8(twice, twice);
    codes = _mm256_add_epi8(shifted, chunk_of_trits(from + digit * kPackedChunk, limits[digit]));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi8(codes, _mm256_set1_epi8(0x55)));
}
#else
inline int code_of(float weight, int32_t limit) {
  const int32_t bits = bits_of(weight), magnitude = bits & INT32_MAX;
  return magnitude <= limit ? 1 : bits < 0 ? 0 : 2;
}

inline int code_of(BFloat16 bits, int16_t limit) {
  return (bits & INT16_MAX) <= limit ? 1 : bits > INT16_MAX ? 0 : 2;
}

template <typename Element>
void pack_block(const Element* from, const typename Threshold<Element>::Bits* limits, uint8_t* to) {
  for (int64_t j = 0; j < kPackedChunk; ++j) {
    int byte = 0;
    for (int digit = 0; digit < 4; ++digit) {
      byte |= code_of(from[digit * kPackedChunk + j], limits[digit]) << (2 * digit);
    }
    to[j] = static_cast<uint8_t>(byte);
  }
}
#endif

// Half and bfloat16 are told apart by their thresholds alone.
TRITIUM_INLINE void pack_block(const Half* from, const int16_t* limits, uint8_t* to) {
  pack_block(reinterpret_cast<const BFloat16*>(from), limits, to);
}

// Packs the trits of one row; limits[c] is the threshold of its weights 32 c to 32 c + 31.
template <typename Element>
void pack_row(const Element* row, int64_t columns, const typename Threshold<Element>::Bits* limits,
              uint8_t* planes, Ahead& ahead) {
  for (; columns >= kPackedBlock; columns -= kPackedBlock) {
    pack_block(row, limits, planes);
    ahead.fetch(static_cast<int64_t>(kPackedBlock * sizeof(Element)));
    row += kPackedBlock;
    limits += kPackedBlock / kPackedChunk;
    planes += kPackedBytes;
  }
  if (columns > 0) {
    Element tail[kPackedBlock] = {};
    std::memcpy(tail, row, static_cast<size_t>(columns) * sizeof(Element));
    pack_block(tail, limits, planes);
  }
}

template <typename Element>
class AbsmeanRows {
 public:
  explicit AbsmeanRows(const AbsmeanTask& task)
      : task_(task),
        thresholds_(static_cast<size_t>(task.groups)),
        limits_(static_cast<size_t>((task.columns + kPackedBlock - 1) / kPackedBlock * 4)) {}

  void sum(int64_t begin, int64_t end) const {
    Ahead ahead = stream(begin, end);
    for (int64_t row = begin; row < end; ++row) {
      task_.sums[row] = sum_magnitudes(at(row), task_.columns, ahead);
    }
  }

  void pack(int64_t begin, int64_t end) {
    if (task_.is_per_tensor) {
      set_limits(task_.means);
      Ahead ahead = stream(begin, end);
      for (int64_t row = begin; row < end; ++row) pack_at(row, ahead);
      return;
    }
    // The next row travels while this one is summed and packed, half of it during each.
    Ahead ahead(at(begin + 1), at(end), 0.5);
    for (int64_t row = begin; row < end; ++row) {
      find_means(at(row), task_.means + row * task_.groups, ahead);
      set_limits(task_.means + row * task_.groups);
      pack_at(row, ahead);
    }
  }

 private:
  using Bits = typename Threshold<Element>::Bits;

  const Element* at(int64_t row) const {
    return static_cast<const Element*>(task_.weights) + row * task_.columns;
  }

  Ahead stream(int64_t begin, int64_t end) const {
    return Ahead(reinterpret_cast<const char*>(at(begin)) + kAheadBytes, at(end), 1.0);
  }

  void pack_at(int64_t row, Ahead& ahead) const {
    pack_row(at(row), task_.columns, limits_.data(), task_.planes + row * task_.plane_stride, ahead);
  }

  void find_means(const Element* row, float* means, Ahead& ahead) const {
    for (int64_t group = 0; group < task_.groups; ++group) {
      const int64_t first = group * task_.group_size,
                    count = std::min(task_.group_size, task_.columns - first);
      const double mean = sum_magnitudes(row + first, count, ahead) / static_cast<double>(count);
      means[group] = static_cast<float>(mean);
      if (means[group] < kSmallestMean) means[group] = kSmallestMean;
    }
  }

  void set_limits(const float* means) {
    find_thresholds(means, task_.groups, thresholds_.data());
    if (task_.groups == 1) {
      std::fill(limits_.begin(), limits_.end(), Threshold<Element>::from(thresholds_[0]));
      return;
    }
    const int64_t chunks = task_.group_size / kPackedChunk, last = static_cast<int64_t>(limits_.size());
    for (int64_t group = 0, chunk = 0; group < task_.groups; ++group) {
      const Bits limit = Threshold<Element>::from(thresholds_[static_cast<size_t>(group)]);
      for (const int64_t end = std::min(chunk + chunks, last); chunk < end; ++chunk) limits_[chunk] = limit;
    }
  }

  const AbsmeanTask& task_;
  std::vector<int32_t> thresholds_;
  std::vector<Bits> limits_;
};

template <typename Element>
void absmean_sums(const AbsmeanTask& task, int64_t begin, int64_t end) {
  AbsmeanRows<Element>(task).sum(begin, end);
}

template <typename Element>
void absmean_pack(const AbsmeanTask& task, int64_t begin, int64_t end) {
  AbsmeanRows<Element>(task).pack(begin, end);
}

}  // namespace
}  // namespace tritium
