#include "packing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace tritium {
namespace {

constexpr int kTritsPerByte = 5;
constexpr int kBytes = 243;  // 3^5: larger values are no trits
constexpr int64_t kBlock = 128;
constexpr int64_t kBlockBytes = 32;

struct DigitTable {
  std::array<std::array<int8_t, 8>, 256> trits{};  // five trits, padded so that a row is copied as one word

  constexpr DigitTable() {
    for (int byte = 0; byte < kBytes; ++byte) {
      for (int digit = 0, rest = byte; digit < kTritsPerByte; ++digit, rest /= 3) {
        trits[byte][digit] = static_cast<int8_t>(rest % 3 - 1);
      }
    }
  }
};

constexpr DigitTable kDigits;

int64_t packed_size(int64_t count) {
  return (count + kTritsPerByte - 1) / kTritsPerByte;
}
int64_t padded(int64_t count) {
  return (count + kBlock - 1) / kBlock * kBlock;
}

bool are_trits(const int8_t* trits, int64_t count) {
  unsigned wrong = 0;
  for (int64_t i = 0; i < count; ++i) wrong |= static_cast<uint8_t>(trits[i] + 1) > 2;
  return wrong == 0;
}

bool unpack_row(const uint8_t* packed, int64_t count, int8_t* trits) {
  const int64_t whole = count / kTritsPerByte, rest = count % kTritsPerByte;
  unsigned wrong = 0;
  for (int64_t i = 0; i < whole; ++i) {
    wrong |= packed[i] >= kBytes;
    std::memcpy(trits + i * kTritsPerByte, kDigits.trits[packed[i]].data(), kTritsPerByte);
  }
  if (rest != 0) {
    wrong |= packed[whole] >= kBytes;
    std::memcpy(trits + whole * kTritsPerByte, kDigits.trits[packed[whole]].data(),
                static_cast<size_t>(rest));
  }
  return wrong == 0;
}

// `trits` holds padded(count) values.
void lay_out_row(const int8_t* trits, int64_t count, uint8_t* planes) {
  for (int64_t block = 0; block < padded(count) / kBlock; ++block) {
    const int8_t* from = trits + block * kBlock;
    uint8_t* to = planes + block * kBlockBytes;
    for (int64_t j = 0; j < kBlockBytes; ++j) {
      to[j] = static_cast<uint8_t>((from[j] + 1) | (from[j + 32] + 1) << 2 | (from[j + 64] + 1) << 4 |
                                   (from[j + 96] + 1) << 6);
    }
  }
}

}  // namespace

bool pack_trits(const int8_t* trits, int64_t rows, int64_t count, uint8_t* packed) {
  if (!are_trits(trits, rows * count)) return false;
  for (int64_t row = 0; row < rows; ++row, trits += count) {
    for (int64_t i = 0; i < count; i += kTritsPerByte) {
      int byte = 0;
      for (int64_t digit = kTritsPerByte - 1; digit >= 0; --digit) {
        byte = byte * 3 + (i + digit < count ? trits[i + digit] + 1 : 1);
      }
      *packed++ = static_cast<uint8_t>(byte);
    }
  }
  return true;
}

bool unpack_trits(const uint8_t* packed, int64_t rows, int64_t count, int8_t* trits) {
  bool valid = true;
  for (int64_t row = 0; row < rows; ++row) {
    valid &= unpack_row(packed + row * packed_size(count), count, trits + row * count);
  }
  return valid;
}

bool to_compute_layout(const int8_t* trits, int64_t rows, int64_t count, uint8_t* planes) {
  if (!are_trits(trits, rows * count)) return false;
  std::vector<int8_t> line(static_cast<size_t>(padded(count)));
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(trits + row * count, count, line.data());
    lay_out_row(line.data(), count, planes + row * padded(count) / 4);
  }
  return true;
}

bool from_compute_layout(const uint8_t* planes, int64_t rows, int64_t count, int8_t* trits) {
  unsigned wrong = 0;
  for (int64_t row = 0; row < rows; ++row, planes += padded(count) / 4, trits += count) {
    for (int64_t i = 0; i < padded(count); ++i) {
      const int64_t inside = i % kBlock;
      const int code = planes[i / kBlock * kBlockBytes + inside % 32] >> (inside / 32 * 2) & 3;
      wrong |= code == 3;
      if (i < count) trits[i] = static_cast<int8_t>(code - 1);
    }
  }
  return wrong == 0;
}

bool packed5_to_compute(const uint8_t* packed, int64_t rows, int64_t count, uint8_t* planes) {
  bool valid = true;
  std::vector<int8_t> line(static_cast<size_t>(padded(count)));
  for (int64_t row = 0; row < rows; ++row) {
    valid &= unpack_row(packed + row * packed_size(count), count, line.data());
    lay_out_row(line.data(), count, planes + row * padded(count) / 4);
  }
  return valid;
}

}  // namespace tritium
