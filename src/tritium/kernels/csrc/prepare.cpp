#include "prepare.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "half.h"
#include "pool.h"

namespace tritium {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kPortableBlock = 128;  // weights in 32 bytes: see packing.h
constexpr int64_t kPortableBytes = 32;
constexpr double kNanosecondsPerWeight = 0.5;

TernaryView sizes_of(const TernaryShape& shape, int64_t trits_per_byte) {
  TernaryView view{};
  view.plane_count = shape.plane_count;
  view.rows = shape.rows;
  view.tiles = (shape.rows + kTileRows - 1) / kTileRows;
  view.quads = (shape.inputs + kQuad - 1) / kQuad;
  view.units = (view.quads + trits_per_byte - 1) / trits_per_byte;
  view.groups = shape.groups;
  view.group_quads = shape.groups == 1 ? view.quads : shape.group_size / kQuad;
  view.divides = shape.divides;
  return view;
}

int64_t portable_blocks(int64_t inputs) {
  return (inputs + kPortableBlock - 1) / kPortableBlock;
}

// The codes of one row; false where one is no trit.
bool read_row(const uint8_t* packed, int64_t blocks, uint8_t* codes) {
  unsigned wrong = 0;
  for (int64_t block = 0; block < blocks; ++block, packed += kPortableBytes, codes += kPortableBlock) {
    for (int digit = 0; digit < 4; ++digit) {
      for (int64_t i = 0; i < kPortableBytes; ++i) {
        const auto code = static_cast<uint8_t>(packed[i] >> (2 * digit) & 3);
        wrong |= code == 3;
        codes[digit * kPortableBytes + i] = code;
      }
    }
  }
  return wrong == 0;
}

// One row of a tile.
void write_row(const uint8_t* codes, int64_t digits, int64_t units, uint8_t* tile) {
  for (int64_t unit = 0; unit < units; ++unit, codes += digits * kQuad, tile += kUnitBytes) {
    const uint32_t word = unit_word(codes, digits);
    std::memcpy(tile, &word, sizeof(word));
  }
}

// One of the trits of a byte.
int trit_of(uint8_t byte, int64_t digits, int64_t digit) {
  if (digits == 4) return (byte >> (2 * digit) & 3) - 1;
  const int last = byte / kLastDigitWeight;
  if (digit == 4) return last - 1;
  return (byte - last * kLastDigitWeight) / static_cast<int>(kWeightsOf5[digit]) % 3 - 1;
}

}  // namespace

AlignedBytes::AlignedBytes(size_t size) {
  const size_t alignment = size >= kHugePage ? kHugePage : 64;
  const size_t rounded = (size / alignment + 1) * alignment;
  memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(alignment, rounded)));
  if (memory_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
}

PreparedWeight::PreparedWeight(const TernaryShape& shape, const KernelTable& kernels)
    : kernels_(kernels),
      inputs_(shape.inputs),
      view_(sizes_of(shape, kernels_.trits_per_byte)),
      memory_(plane_bytes() + scale_bytes()) {
  view_.planes = planes();
}

size_t PreparedWeight::plane_bytes() const {
  return static_cast<size_t>(view_.plane_count * view_.tiles * view_.units * kUnitBytes);
}

size_t PreparedWeight::scale_bytes() const {
  const size_t size = view_.has_half_scales ? sizeof(Half) : sizeof(float);
  return static_cast<size_t>(view_.tiles * view_.groups * kTileRows) * size;
}

bool PreparedWeight::fill(const uint8_t* planes, const float* scales, int64_t scale_rows, int threads) {
  std::atomic<bool> valid{true};
  const double nanoseconds = kNanosecondsPerWeight * static_cast<double>(kTileRows * inputs_);
  parallel_for(view_.plane_count * view_.tiles, 1, threads, nanoseconds, [&](int64_t begin, int64_t end) {
    // The longest of both layouts' rows, with trit 0 where neither has an input.
    std::vector<uint8_t> codes(static_cast<size_t>(std::max(portable_blocks(inputs_) * kPortableBlock,
                                                            view_.units * kernels_.trits_per_byte * kQuad)),
                               1);
    for (int64_t item = begin; item < end; ++item) {
      if (!fill_tile(item / view_.tiles, item % view_.tiles, planes, codes.data())) valid = false;
    }
  });
  fill_scales(scales, scale_rows);
  return valid;
}

bool PreparedWeight::fill_tile(int64_t plane, int64_t tile, const uint8_t* portable, uint8_t* codes) {
  const int64_t blocks = portable_blocks(inputs_), unit_inputs = kernels_.trits_per_byte * kQuad;
  uint8_t* to = planes() + (plane * view_.tiles + tile) * view_.units * kUnitBytes;
  bool valid = true;
  for (int64_t row = 0; row < kTileRows; ++row, to += kQuad) {
    const int64_t source = tile * kTileRows + row;
    if (source < view_.rows) {
      valid &= read_row(portable + (plane * view_.rows + source) * blocks * kPortableBytes, blocks, codes);
    } else {
      std::fill_n(codes, view_.units * unit_inputs, uint8_t{1});
    }
    write_row(codes, kernels_.trits_per_byte, view_.units, to);
  }
  return valid;
}

void PreparedWeight::read_floats(int64_t row, float* out) const {
  const int64_t digits = kernels_.trits_per_byte, tile = row / kTileRows, lane = row % kTileRows;
  std::fill_n(out, inputs_, 0.0F);
  for (int64_t plane = 0; plane < view_.plane_count; ++plane) {
    const uint8_t* from =
        view_.planes + (plane * view_.tiles + tile) * view_.units * kUnitBytes + lane * kQuad;
    for (int64_t input = 0; input < inputs_; ++input) {
      const int64_t quad = input / kQuad;
      const uint8_t byte = from[quad / digits * kUnitBytes + input % kQuad];
      out[input] = 3 * out[input] + static_cast<float>(trit_of(byte, digits, quad % digits));
    }
  }
  for (int64_t input = 0; input < inputs_; ++input) {
    const float scale = scale_at(tile, input / kQuad / view_.group_quads, lane);
    out[input] = view_.divides ? out[input] / scale : out[input] * scale;
  }
}

float PreparedWeight::scale_at(int64_t tile, int64_t group, int64_t lane) const {
  const int64_t index = (tile * view_.groups + group) * kTileRows + lane;
  if (view_.has_half_scales) return to_float(static_cast<const Half*>(view_.scales)[index]);
  return static_cast<const float*>(view_.scales)[index];
}

void PreparedWeight::fill_scales(const float* scales, int64_t scale_rows) {
  view_.has_half_scales = std::all_of(scales, scales + scale_rows * view_.groups,
                                      [](float scale) { return to_float(to_half(scale)) == scale; });
  const size_t size = view_.has_half_scales ? sizeof(Half) : sizeof(float);
  uint8_t* to = planes() + plane_bytes();
  view_.scales = to;
  for (int64_t tile = 0; tile < view_.tiles; ++tile) {
    for (int64_t group = 0; group < view_.groups; ++group) {
      for (int64_t row = tile * kTileRows; row < (tile + 1) * kTileRows; ++row, to += size) {
        // Rows that do not exist are never written: their scale only must not trap.
        const int64_t source = scale_rows == 1 ? 0 : std::min(row, view_.rows - 1);
        const float scale = scales[source * view_.groups + group];
        const Half half = to_half(scale);
        if (view_.has_half_scales) {
          std::memcpy(to, &half, size);
        } else {
          std::memcpy(to, &scale, size);
        }
      }
    }
  }
}

}  // namespace tritium
