// From trits as a file has them to tiles, without a byte per weight in between.
//
// A file holds five trits to a byte, row after row without a gap, so that a row may begin inside a byte. A
// unit of a tile of five digits holds 20 consecutive trits of each of its rows in 4 bytes. They lie in 4 or 5
// bytes of the file, and which trit of which byte goes where depends only on how far into its first byte the
// row begins (0 to 4). So a table says what each byte adds to the word, and a word is a sum of five look-ups:
//
//   file     [a b c d e] [f g h i j] [k l m n o] [p q r s t] [u ...]     trit 0 of this row is c
//   word     byte j holds the trits 4 d + j for d = 0..4, digit d:
//            byte 0 = c g k o s, byte 1 = d h l p t, byte 2 = e i m q u, ...
//
// A digit is at most 2, so the sums never carry from one byte into the next.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "pool.h"
#include "prepare.h"

namespace tritium {
namespace {

constexpr int kTritsPerByte = 5;
constexpr int kByteValues = 243;  // 3^5
constexpr int kUnitTrits = 20;
constexpr double kNanosecondsPerWeight = 0.1;

using ByteTable = std::array<uint32_t, 256>;

// shares[s][i]: what byte i from a row's byte on adds to a unit's word where the unit begins at its trit s.
struct WordTables {
  std::array<std::array<ByteTable, 5>, kTritsPerByte> shares{};

  WordTables() {
    for (int start = 0; start < kTritsPerByte; ++start) {
      for (int i = 0; i < 5; ++i) {
        for (int byte = 0; byte < kByteValues; ++byte) {
          for (int k = 0, rest = byte; k < kTritsPerByte; ++k, rest /= 3) {
            const int trit = i * kTritsPerByte + k - start;
            if (trit < 0 || trit >= kUnitTrits) continue;
            shares[start][i][byte] += static_cast<uint32_t>(rest % 3) * kWeightsOf5[trit / 4]
                                      << (trit % 4 * 8);
          }
        }
      }
    }
  }
};

struct CodeTable {
  std::array<std::array<uint8_t, 8>, 256> codes{};  // five codes, padded so that a row is copied as one word

  constexpr CodeTable() {
    for (int byte = 0; byte < kByteValues; ++byte) {
      for (int k = 0, rest = byte; k < kTritsPerByte; ++k, rest /= 3) {
        codes[byte][k] = static_cast<uint8_t>(rest % 3);
      }
    }
  }
};

const WordTables& word_tables() {
  static const WordTables tables;
  return tables;
}
constexpr CodeTable kCodes;

// Copies `count` codes from trit `first` of the stream on; `codes` has room for 12 more.
void copy_codes(const uint8_t* packed, int64_t first, int64_t count, uint8_t* codes) {
  const uint8_t* from = packed + first / kTritsPerByte;
  const int64_t start = first % kTritsPerByte, lead = std::min(kTritsPerByte - start, count);
  std::memcpy(codes, kCodes.codes[*from].data() + start, static_cast<size_t>(lead));
  for (int64_t i = lead; i < count; i += kTritsPerByte)
    std::memcpy(codes + i, kCodes.codes[*++from].data(), 8);
}

bool are_packed_trits(const uint8_t* packed, int64_t count) {
  unsigned wrong = 0;
  for (int64_t i = 0; i < count; ++i) wrong |= packed[i] >= kByteValues;
  return wrong == 0;
}

// The units of a row whose trits are all there; returns how many.
template <bool IsAligned>
int64_t write_words(const uint8_t* from, int64_t start, int64_t count, uint8_t* to) {
  const auto& shares = word_tables().shares[static_cast<size_t>(start)];
  const int64_t units = count / kUnitTrits;
  for (int64_t unit = 0; unit < units; ++unit, from += 4, to += kUnitBytes) {
    uint32_t word = shares[0][from[0]] + shares[1][from[1]] + shares[2][from[2]] + shares[3][from[3]];
    if (!IsAligned) word += shares[4][from[4]];
    std::memcpy(to, &word, sizeof(word));
  }
  return units;
}

}  // namespace

bool PreparedWeight::fill_packed(const uint8_t* packed, const float* scales, int64_t scale_rows,
                                 int threads) {
  std::atomic<bool> valid{true};
  const int64_t plane_bytes = (view_.rows * inputs_ + kTritsPerByte - 1) / kTritsPerByte;
  const double nanoseconds = kNanosecondsPerWeight * static_cast<double>(kTileRows * inputs_);
  parallel_for(view_.plane_count * view_.tiles, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> codes(static_cast<size_t>((view_.units + 1) * kUnitTrits + 12));
    for (int64_t item = begin; item < end; ++item) {
      const uint8_t* plane = packed + item / view_.tiles * plane_bytes;
      if (!fill_packed_tile(item, plane, codes.data())) valid = false;
    }
  });
  fill_scales(scales, scale_rows);
  return valid;
}

bool PreparedWeight::fill_packed_tile(int64_t item, const uint8_t* plane, uint8_t* codes) {
  const int digits = static_cast<int>(kernels_.trits_per_byte);
  const int64_t unit_inputs = digits * kQuad, first_row = item % view_.tiles * kTileRows;
  uint8_t* to = planes() + item * view_.units * kUnitBytes;
  bool valid = true;
  for (int64_t row = first_row; row < first_row + kTileRows; ++row, to += kQuad) {
    const int64_t first = row * inputs_, start = first % kTritsPerByte;
    const int64_t count = row < view_.rows ? inputs_ : 0;
    const uint8_t* from = plane + first / kTritsPerByte;
    if (count > 0) valid &= are_packed_trits(from, (start + count + kTritsPerByte - 1) / kTritsPerByte);
    int64_t unit = 0;
    if (digits == 5 && count > 0) {
      unit =
          start == 0 ? write_words<true>(from, start, count, to) : write_words<false>(from, start, count, to);
    }
    const int64_t done = unit * unit_inputs;
    std::fill_n(codes, (view_.units - unit) * unit_inputs + 12, uint8_t{1});
    if (done < count) {
      copy_codes(plane, first + done, count - done, codes);
      std::fill_n(codes + count - done, 12, uint8_t{1});
    }
    for (; unit < view_.units; ++unit, codes += unit_inputs) {
      const uint32_t word = unit_word(codes, digits);
      std::memcpy(to + unit * kUnitBytes, &word, sizeof(word));
    }
    codes -= (view_.units * unit_inputs) - done;
  }
  return valid;
}

}  // namespace tritium
