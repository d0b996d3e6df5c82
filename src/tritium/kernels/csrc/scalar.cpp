// The portable instruction set: plain C++, any processor.
#include "make_table.h"

namespace tritium {
namespace {

struct Scalar {
  using Sum = int32_t;

  template <int Count>
  struct Codes {
    uint8_t code[Count];
  };

  static TRITIUM_INLINE Sum zero() { return 0; }

  template <int Planes>
  static TRITIUM_INLINE Codes<kChunk> unpack_chunk(const uint8_t* bytes, int64_t plane_stride, int shift) {
    Codes<kChunk> codes = {};
    for (int plane = 0; plane < Planes; ++plane, bytes += plane_stride) {
      for (int i = 0; i < kChunk; ++i) {
        codes.code[i] = static_cast<uint8_t>(codes.code[i] * 3 + (bytes[i] >> shift & 3));
      }
    }
    return codes;
  }

  template <int Planes>
  static TRITIUM_INLINE Codes<kBlock> unpack_block(const uint8_t* bytes, int64_t plane_stride) {
    Codes<kBlock> codes;
    for (int digit = 0; digit < 4; ++digit) {
      const auto part = unpack_chunk<Planes>(bytes, plane_stride, digit * 2);
      std::memcpy(codes.code + digit * kChunk, part.code, kChunk);
    }
    return codes;
  }

  template <int Count>
  static TRITIUM_INLINE void add(Sum& total, const Codes<Count>& codes, const int8_t* q) {
    int32_t sum = 0;
    for (int i = 0; i < Count; ++i) sum += static_cast<int16_t>(codes.code[i]) * static_cast<int16_t>(q[i]);
    total += sum;
  }

  static TRITIUM_INLINE void add_block(Sum& total, const Codes<kBlock>& codes, const int8_t* q) {
    add(total, codes, q);
  }
  static TRITIUM_INLINE void add_chunk(Sum& total, const Codes<kChunk>& codes, const int8_t* q) {
    add(total, codes, q);
  }

  static TRITIUM_INLINE NativeInt reduce(const Sum* total) {
    NativeInt sums;
    std::memcpy(&sums, total, sizeof(sums));
    return sums;
  }
};

}  // namespace

const KernelTable kScalarTable = make_table<Scalar>("scalar");

}  // namespace tritium
