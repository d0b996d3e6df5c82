// The portable instruction set: plain C++, any processor.
#include "make_table.h"

namespace tritium {
namespace {

struct Scalar {
  static constexpr int kTritsPerByte = 4;
  static constexpr int kMostColumns = 4;

  struct Sum {
    int32_t row[kTileRows];
  };
  struct Codes {
    uint8_t code[kUnitBytes];
  };
  template <int Planes>
  struct Unit {
    const uint8_t* packed[Planes];
  };

  static constexpr int tiles_at_once(int, int) { return 1; }

  // All rows start from factor x total.
  static TRITIUM_INLINE Sum start(int32_t factor, int32_t total) {
    Sum sum;
    for (int32_t& row : sum.row) row = factor * total;
    return sum;
  }

  template <int Planes>
  static TRITIUM_INLINE Unit<Planes> load(const uint8_t* bytes, int64_t plane_bytes) {
    Unit<Planes> unit;
    for (int plane = 0; plane < Planes; ++plane) unit.packed[plane] = bytes + plane * plane_bytes;
    return unit;
  }

  template <int Planes>
  static TRITIUM_INLINE Codes digit(const Unit<Planes>& unit, int index) {
    Codes codes = {};
    for (const uint8_t* packed : unit.packed) {
      for (int64_t i = 0; i < kUnitBytes; ++i) {
        codes.code[i] = static_cast<uint8_t>(codes.code[i] * 3 + (packed[i] >> (2 * index) & 3));
      }
    }
    return codes;
  }

  static TRITIUM_INLINE void add(Sum& sum, const Codes& codes, const int8_t* x) {
    for (int64_t row = 0; row < kTileRows; ++row) {
      const uint8_t* code = codes.code + row * kQuad;
      sum.row[row] += code[0] * x[0] + code[1] * x[1] + code[2] * x[2] + code[3] * x[3];
    }
  }

  template <int Begin, int End, int Planes, int Tiles, int Columns>
  static TRITIUM_INLINE void add_digits(const Unit<Planes> (&units)[Tiles], const int8_t* x, int64_t stride,
                                        Sum (&sums)[Tiles][Columns]) {
    for (int t = 0; t < Tiles; ++t) {
      for (int index = Begin; index < End; ++index) {
        const Codes codes = digit(units[t], index);
        for (int c = 0; c < Columns; ++c) add(sums[t][c], codes, x + c * stride + index * kQuad);
      }
    }
  }

  static TRITIUM_INLINE Integers integers(const Sum& sum) {
    Integers result;
    std::memcpy(result.part, sum.row, sizeof(result.part));
    return result;
  }
};

}  // namespace

const KernelTable kScalarTable = make_table<Scalar>("scalar");

}  // namespace tritium
