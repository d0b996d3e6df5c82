// AMX: one instruction multiplies up to 16 columns of activations by 16 rows of the weight along 64 inputs.
//
//   activations   a matrix register: 16 columns x 64 bytes, as they lie, `stride` apart
//   codes         a matrix register: 16 quads of inputs x (16 rows x 4 inputs). One digit of a unit is one of
//                 its rows (tiles.h), so the layout that other instruction sets read serves this one, too.
//   sums          a matrix register: 16 columns x 16 rows of int32
//
// Two tiles of the weight are unpacked, a block of quads at a time, to signed codes that stay in the
// first-level cache. Then two pieces of columns after the other meet them in four registers of sums; sums
// that are not complete at the end of a block are kept in memory. Codes are signed, so nothing has to be
// taken back.
//
// A block of columns is cut into pieces of equal size, the last of which begins early where they do not fill
// it, and so does the last pair of tiles: what both compute they compute alike. Few columns, and a tile that
// is alone, are left to avx512_vbmi.
#include <immintrin.h>

#include <algorithm>
#include <utility>

#include "avx512_units.h"
#include "table.h"
#include "ternary_outputs.h"

namespace tritium {
namespace {

constexpr int64_t kSide = 16;           // columns, rows and quads of a matrix register
constexpr int64_t kRegister = 16 * 16;  // sums in it
constexpr int64_t kTiles = 2;           // at once
constexpr int64_t kDigits = 5;          // of a unit
constexpr int64_t kBlockQuads = 80;     // at most; 5 registers of codes
constexpr int64_t kBlockUnits = kBlockQuads / kDigits + 1;
constexpr int64_t kMostColumns = 512;       // in a block of columns
constexpr int64_t kCacheBytes = 1'200'000;  // of activations that stay in the second-level cache

// What belongs to a thread: codes of a block, and what the pieces have of their sums.
struct alignas(64) Scratch {
  int8_t codes[kTiles][kBlockUnits * kDigits * kUnitBytes];
  int32_t complete[2][2 * kTiles * kRegister];
  int32_t sums[kMostColumns * kTiles * kTileRows];
  float totals[kMostColumns * kTiles * kTileRows];
};
thread_local Scratch scratch;

// The matrix instructions are opaque to the compiler: what they read has to be in memory before them.
TRITIUM_INLINE void write_back() {
  asm volatile("" ::: "memory");
}

// Registers 0 to 3: sums, by piece and tile; 4 and 5: activations; 6 and 7: codes.
void configure(int64_t columns, int64_t quads) {
  struct alignas(64) {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } shape{};
  shape.palette = 1;
  for (int i = 0; i < 8; ++i) {
    const bool holds_activations = i == 4 || i == 5, holds_codes = i >= 6;
    shape.row_bytes[i] = static_cast<uint16_t>(holds_activations ? quads * kQuad : kUnitBytes);
    shape.rows[i] = static_cast<uint8_t>(holds_codes ? quads : columns);
  }
  write_back();
  _tile_loadconfig(&shape);
}

// A pair of bits 0, 1 or 2 in every byte becomes -1, 0 or 1: a sum modulo 2 of the byte's bits.
template <int Pair>
TRITIUM_INLINE __m512i trit(__m512i fields) {
  constexpr uint64_t kLow = 1U << 2 * Pair, kBoth = 3 * kLow;
  constexpr uint64_t kRows = kBoth * 0x01010101010101 | kLow << 56;  // bit 7 of the result in byte 0
  return _mm512_gf2p8affine_epi64_epi8(fields, _mm512_set1_epi64(static_cast<int64_t>(kRows)), 0xff);
}

// Units of one tile to codes [quads, 16 rows, 4 inputs]. What lies `ahead` bytes further comes into the
// second-level cache meanwhile.
template <int Planes>
__attribute__((noinline)) void unpack(const uint8_t* from, int64_t plane_bytes, int64_t units, int64_t ahead,
                                      int8_t* codes) {
  for (int64_t unit = 0; unit < units; ++unit, from += kUnitBytes, codes += kDigits * kUnitBytes) {
    __m512i fields[Planes], last[Planes];
#pragma GCC unroll 3
    for (int plane = 0; plane < Planes; ++plane) {
      const uint8_t* bytes = from + plane * plane_bytes;
      const auto next = reinterpret_cast<uintptr_t>(bytes) + static_cast<uintptr_t>(ahead);
      __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
      const __m512i packed = _mm512_load_si512(bytes);
      last[plane] = last_part(packed);
      fields[plane] = spread(_mm512_sub_epi8(packed, last[plane]));
    }
    const auto write = [&]<int Pair>(const __m512i(&pairs)[Planes], int digit) {
      const __m512i code = join_planes<Planes>([&](int plane) { return trit<Pair>(pairs[plane]); });
      _mm512_store_si512(codes + digit * kUnitBytes, code);
    };
    write.template operator()<0>(fields, 0);
    write.template operator()<1>(fields, 1);
    write.template operator()<2>(fields, 2);
    write.template operator()<3>(fields, 3);
    write.template operator()<1>(last, 4);
  }
}

// The registers of sums of two tiles by one or two pieces.
template <int Pieces>
struct Registers {
  static TRITIUM_INLINE void clear() {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (Pieces == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  static TRITIUM_INLINE void load(const int32_t* sums) {
    write_back();
    _tile_loadd(0, sums, kUnitBytes);
    _tile_loadd(1, sums + kRegister, kUnitBytes);
    if constexpr (Pieces == 2) {
      _tile_loadd(2, sums + 2 * kRegister, kUnitBytes);
      _tile_loadd(3, sums + 3 * kRegister, kUnitBytes);
    }
  }
  static TRITIUM_INLINE void store(int32_t* sums) {
    _tile_stored(0, sums, kUnitBytes);
    _tile_stored(1, sums + kRegister, kUnitBytes);
    if constexpr (Pieces == 2) {
      _tile_stored(2, sums + 2 * kRegister, kUnitBytes);
      _tile_stored(3, sums + 3 * kRegister, kUnitBytes);
    }
    write_back();
  }
  static TRITIUM_INLINE void add(const int8_t* first, const int8_t* second, int64_t stride,
                                 const int8_t* codes) {
    _tile_loadd(4, first, stride);
    _tile_loadd(6, codes, kUnitBytes);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, codes + sizeof(scratch.codes[0]), kUnitBytes);
    _tile_dpbssd(1, 4, 7);
    if constexpr (Pieces == 2) {
      _tile_loadd(5, second, stride);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
};

// Inputs that two tiles of the weight and a pair of pieces have in common: quads [begin, end).
struct Stretch {
  int64_t tile;
  int64_t column[2];
  int64_t begin, end;
};

// Sums of a group that are complete, and what they are added to.
struct Ending {
  Stretch stretch;
  int64_t group;
  const int32_t* sums;
  float* totals;
};

class Product {
 public:
  Product(const TernaryView& weight, const ActivationView& activations, float* out)
      : weight_(weight),
        activations_(activations),
        out_(out),
        window_(weight.groups > 1 && weight.group_quads % kSide != 0 ? kSide / 2 : kSide),
        block_(std::max<int64_t>(kBlockQuads / weight.group_quads, 1) * weight.group_quads) {
    if (weight.groups == 1 || block_ > kBlockQuads) block_ = kBlockQuads;
  }

  void run(int64_t begin, int64_t end) {
    const int64_t fitting = kCacheBytes / activations_.stride / kSide * kSide;
    const int64_t most = std::clamp(fitting, 2 * kSide, kMostColumns);
    const int64_t blocks = (activations_.columns + most - 1) / most;
    for (int64_t block = 0; block < blocks; ++block) {
      first_ = activations_.columns * block / blocks;
      columns_ = activations_.columns * (block + 1) / blocks - first_;
      const int64_t least = (columns_ + kSide - 1) / kSide;
      pieces_ = least == 1 ? 1 : (least + 1) / 2 * 2;
      piece_ = (columns_ + pieces_ - 1) / pieces_;
      configure(piece_, window_);
      for (int64_t tile = begin; tile < end; tile += kTiles) run_tiles(std::min(tile, end - kTiles));
      if (pieces_ == 1) {
        end_group<1>();
      } else {
        end_group<2>();
      }
    }
    _tile_release();
  }

 private:
  void run_tiles(int64_t tile) {
    for (int64_t begin = 0; begin < weight_.quads; begin += block_) {
      const int64_t end = std::min(begin + block_, weight_.quads);
      unpack_block(tile, begin, end);
      if (pieces_ == 1) {
        add<1>({tile, {first_, first_}, begin, end}, 0);
      } else {
        for (int64_t piece = 0; piece < pieces_; piece += 2)
          add<2>({tile, {column_of(piece), column_of(piece + 1)}, begin, end}, piece);
      }
    }
  }

  int64_t column_of(int64_t piece) const { return first_ + std::min(piece * piece_, columns_ - piece_); }

  void unpack_block(int64_t tile, int64_t begin, int64_t end) const {
    const int64_t tile_bytes = weight_.units * kUnitBytes, plane_bytes = weight_.tiles * tile_bytes;
    const int64_t first = begin / kDigits, units = (end + kDigits - 1) / kDigits - first;
    for (int64_t i = 0; i < kTiles; ++i) {
      const uint8_t* from = weight_.planes + (tile + i) * tile_bytes + first * kUnitBytes;
      const int64_t ahead = kTiles * tile_bytes;
      if (weight_.plane_count == 1) unpack<1>(from, plane_bytes, units, ahead, scratch.codes[i]);
      if (weight_.plane_count == 2) unpack<2>(from, plane_bytes, units, ahead, scratch.codes[i]);
      if (weight_.plane_count == 3) unpack<3>(from, plane_bytes, units, ahead, scratch.codes[i]);
    }
  }

  // Adds a stretch up. Groups that are complete are ended while the next sums are being multiplied.
  template <int Pieces>
  __attribute__((noinline)) void add(const Stretch& stretch, int64_t piece) {
    int32_t* kept = scratch.sums + piece * kTiles * kRegister;
    float* totals = scratch.totals + piece * kTiles * kRegister;
    const int8_t* codes = scratch.codes[0] + stretch.begin % kDigits * kUnitBytes;
    fetch_outputs<Pieces>(stretch);
    for (int64_t quad = stretch.begin, end; quad < stretch.end; quad = end) {
      const int64_t group = quad / weight_.group_quads, begin = group * weight_.group_quads;
      const int64_t group_end = std::min(begin + weight_.group_quads, weight_.quads);
      end = std::min(group_end, stretch.end);
      if (quad == begin) {
        Registers<Pieces>::clear();
      } else {
        Registers<Pieces>::load(kept);
      }
      for (; quad < end; quad += window_, codes += window_ * kUnitBytes) {
        Registers<Pieces>::add(input(stretch.column[0], quad), input(stretch.column[1], quad),
                               activations_.stride, codes);
      }
      end_group<Pieces>();
      if (end < group_end) return Registers<Pieces>::store(kept);
      turn_ ^= 1;
      Registers<Pieces>::store(scratch.complete[turn_]);
      ending_ = {stretch, group, scratch.complete[turn_], totals};
    }
  }

  const int8_t* input(int64_t column, int64_t quad) const {
    return activations_.q + column * activations_.stride + quad * kQuad;
  }

  // Outputs lie a row of them apart, and each is a cache line of its own that comes from far: every stretch
  // asks for its share of them.
  template <int Pieces>
  TRITIUM_INLINE void fetch_outputs(const Stretch& stretch) const {
    const int64_t begin = piece_ * stretch.begin / weight_.quads, end = piece_ * stretch.end / weight_.quads;
    for (int p = 0; p < Pieces; ++p) {
      for (int64_t column = stretch.column[p] + begin; column < stretch.column[p] + end; ++column) {
        for (int64_t t = 0; t < kTiles; ++t)
          __builtin_prefetch(output_at(weight_, stretch.tile + t, column, out_), 1);
      }
    }
  }

  template <int Pieces>
  void end_group() {
    if (ending_.sums == nullptr) return;
    const Ending ending = std::exchange(ending_, {});
    const bool is_first = ending.group == 0, is_last = ending.group + 1 == weight_.groups;
    for (int i = 0; i < Pieces * kTiles; ++i) {
      if (!is_last) {
        is_first ? end_sums<true, false>(ending, i) : end_sums<false, false>(ending, i);
      } else {
        is_first ? end_sums<true, true>(ending, i) : end_sums<false, true>(ending, i);
      }
    }
  }

  // Groups in rising order, multiply then add. The last one's totals become outputs.
  template <bool IsFirst, bool IsLast>
  TRITIUM_INLINE void end_sums(const Ending& ending, int i) const {
    const int64_t tile = ending.stretch.tile + i % kTiles, first = ending.stretch.column[i / kTiles];
    const int32_t* sums = ending.sums + i * kRegister;
    float* totals = ending.totals + i * kRegister;
    const Lanes factors = factors_of(weight_, tile, ending.group);
    const int64_t count = piece_;
#pragma GCC unroll 4
    for (int64_t column = 0; column < count; ++column, sums += kTileRows, totals += kTileRows) {
      const Lanes before = IsFirst ? broadcast(0.0f) : load(totals);
      const Lanes total = before + to_floats(sums) * factors;
      if constexpr (IsLast) {
        store_output(weight_, activations_, tile, first + column, total, out_);
      } else {
        store(totals, total);
      }
    }
  }

  static TRITIUM_INLINE Lanes to_floats(const int32_t* sums) {
    return {{(NativeFloat)_mm512_cvtepi32_ps(_mm512_load_si512(sums))}};
  }

  const TernaryView weight_;
  const ActivationView activations_;
  float* out_;
  const int64_t window_;             // quads in a register of codes; no group ends inside
  int64_t block_;                    // quads that are unpacked at a time; of whole groups where they fit
  int64_t first_ = 0, columns_ = 0;  // of the block of columns
  int64_t pieces_ = 0, piece_ = 0;   // pieces of so many columns
  Ending ending_{};                  // without sums: none
  int turn_ = 0;
};

// From so many columns on unpacking to memory pays.
int64_t least_columns(const TernaryView& weight) {
  return weight.groups == 1 ? 5 : 6;
}

}  // namespace

void ternary_tiles_amx(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, float* out) {
  if (activations.columns < least_columns(weight) || end - begin < kTiles)
    return kAvx512VbmiTable.ternary_tiles(weight, activations, begin, end, out);
  Product(weight, activations, out).run(begin, end);
}

}  // namespace tritium
