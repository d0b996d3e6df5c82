#include "packing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "table.h"

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

}  // namespace

bool pack_trits(const int8_t* trits, int64_t rows, int64_t count, uint8_t* packed) {
  bool valid = true;
  for (int64_t row = 0; row < rows; ++row) {
    valid &= table().pack_trits(trits + row * count, count, packed + row * packed_size(count));
  }
  return valid;
}

bool unpack_trits(const uint8_t* packed, int64_t rows, int64_t count, int8_t* trits) {
  bool valid = true;
  for (int64_t row = 0; row < rows; ++row) {
    valid &= unpack_row(packed + row * packed_size(count), count, trits + row * count);
  }
  return valid;
}

bool to_compute_layout(const int8_t* trits, int64_t rows, int64_t count, uint8_t* planes) {
  bool valid = true;
  for (int64_t row = 0; row < rows; ++row) {
    valid &= table().lay_out_trits(trits + row * count, count, planes + row * padded(count) / 4);
  }
  return valid;
}

bool from_compute_layout(const uint8_t* planes, int64_t rows, int64_t count, int8_t* trits) {
  unsigned wrong = 0;
  for (int64_t row = 0; row < rows; ++row, planes += padded(count) / 4, trits += count) {
    for (int64_t block = 0; block < padded(count) / kBlock; ++block) {
      const uint8_t* from = planes + block * kBlockBytes;
      int8_t codes[kBlock];
      for (int64_t i = 0; i < kBlock; ++i) {
        codes[i] = static_cast<int8_t>((from[i % kBlockBytes] >> (i / kBlockBytes * 2) & 3) - 1);
      }
      for (int64_t i = 0; i < kBlock; ++i) wrong |= codes[i] == 2;
      std::copy_n(codes, std::min(kBlock, count - block * kBlock), trits + block * kBlock);
    }
  }
  return wrong == 0;
}

bool packed5_to_compute(const uint8_t* packed, int64_t rows, int64_t count, uint8_t* planes) {
  bool valid = true;
  std::vector<int8_t> line(static_cast<size_t>(count));
  for (int64_t row = 0; row < rows; ++row) {
    valid &= unpack_row(packed + row * packed_size(count), count, line.data());
    table().lay_out_trits(line.data(), count, planes + row * padded(count) / 4);
  }
  return valid;
}

}  // namespace tritium
