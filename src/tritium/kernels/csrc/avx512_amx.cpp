// AMX: one instruction multiplies up to 16 columns of activations by 16 rows of the weight along 64 inputs.
//
//   activations   a matrix register: 16 columns x 64 bytes, as they lie, `stride` apart
//   codes         a matrix register: 16 quads of inputs x (16 rows x 4 inputs). One digit of a unit is one of
//                 its rows (tiles.h), so the layout that other instruction sets read serves this one, too.
//   sums          a matrix register: 16 columns x 16 rows of int32
//
// Two tiles of the weight are unpacked, a block of quads at a time, to signed codes that stay in the
// first-level cache. Then two pieces of columns after the other meet them in four registers of sums; sums
// that are not complete at the end of a block stay there, or in memory where there are more pieces. Codes are
// signed, so nothing has to be taken back.
//
// To store sums waits for their last multiplication, and nothing behind it starts meanwhile. So they are
// stored a multiplication or two later, and scaled while the next group is multiplied.
//
// A block of columns is cut into pieces of equal size, the last of which begins early where they do not fill
// it, and so does the last pair of tiles: what both compute they compute alike. Few columns, and a tile that
// is alone, are left to avx512_vbmi.
#include <immintrin.h>

#include <algorithm>

#include "amx_codes.h"
#include "amx_registers.h"
#include "table.h"
#include "ternary_outputs.h"

namespace tritium {
namespace {

constexpr int64_t kSide = 16;           // columns, rows and quads of a matrix register
constexpr int64_t kRegister = 16 * 16;  // sums in it
constexpr int64_t kTiles = 2;           // at once
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

// Inputs that two tiles of the weight and a pair of pieces have in common: quads [begin, end).
struct Stretch {
  int64_t tile;
  int64_t column[2];
  int64_t begin, end;
};

// As many inputs of a stretch as a register holds. Sums begin at nothing, go on from where they were kept, or
// just go on; they go to where they are kept or complete, or stay.
struct Window {
  const int8_t *first, *second, *codes;
  bool begins;
  const int32_t* from;
  int32_t* to;

  TRITIUM_INLINE void pass(int64_t quads) {
    first += quads * kQuad, second += quads * kQuad, codes += quads * kUnitBytes;
    begins = false, from = nullptr;
  }
};

// Sums of a group that are complete, and what they are added to.
struct Ending {
  Stretch stretch;
  int64_t group;
  const int32_t* sums;
  float* totals;
};

// Groups that registers of codes do not fill are taken half a register at a time.
bool has_split_registers(const TernaryView& weight) {
  return weight.groups > 1 && weight.group_quads % kSide != 0;
}

class Product {
 public:
  Product(const TernaryView& weight, const ActivationView& activations, float* out)
      : weight_(weight),
        activations_(activations),
        out_(out),
        window_(has_split_registers(weight) ? kSide / 2 : kSide),
        tile_bytes_(weight.units * kUnitBytes),
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
      pieces_ == 1 ? run_columns<1>(begin, end) : run_columns<2>(begin, end);
    }
    _tile_release();
  }

 private:
  template <int Pieces>
  void run_columns(int64_t begin, int64_t end) {
    set_ = 0;
    for (int64_t tile = begin; tile < end; tile += kTiles) run_tiles<Pieces>(std::min(tile, end - kTiles));
    set_ == 0 ? store_all_late<Pieces, 0>() : store_all_late<1, 2>();
    for (int i = 0; i < Pieces * kTiles; ++i) end_sums(i);
    ending_ = {};
  }

  template <int Pieces>
  void run_tiles(int64_t tile) {
    for (int64_t begin = 0; begin < weight_.quads; begin += block_) {
      const int64_t end = std::min(begin + block_, weight_.quads);
      unpack_block(tile, begin, end);
      for (int64_t piece = 0; piece < pieces_; piece += Pieces)
        add<Pieces>({tile, {column_of(piece), column_of(piece + Pieces - 1)}, begin, end}, piece);
    }
  }

  int64_t column_of(int64_t piece) const { return first_ + std::min(piece * piece_, columns_ - piece_); }

  void unpack_block(int64_t tile, int64_t begin, int64_t end) const {
    const int64_t plane_bytes = weight_.tiles * tile_bytes_;
    const int64_t first = begin / kDigits, units = (end + kDigits - 1) / kDigits - first;
    for (int64_t i = 0; i < kTiles; ++i) {
      const uint8_t* from = weight_.planes + (tile + i) * tile_bytes_ + first * kUnitBytes;
      const int64_t ahead = kTiles * tile_bytes_;
      if (weight_.plane_count == 1) unpack<1>(from, plane_bytes, units, ahead, scratch_.codes[i]);
      if (weight_.plane_count == 2) unpack<2>(from, plane_bytes, units, ahead, scratch_.codes[i]);
      if (weight_.plane_count == 3) unpack<3>(from, plane_bytes, units, ahead, scratch_.codes[i]);
    }
  }

  // Adds a stretch up. The group that was complete before is ended in the last window of the next one.
  template <int Pieces>
  __attribute__((noinline)) void add(const Stretch& stretch, int64_t piece) {
    int32_t* kept = pieces_ > 2 ? scratch_.sums + piece * kTiles * kRegister : nullptr;
    float* totals = scratch_.totals + piece * kTiles * kRegister;
    Window window{input(stretch.column[0], stretch.begin),
                  input(stretch.column[1], stretch.begin),
                  scratch_.codes[0] + stretch.begin % kDigits * kUnitBytes,
                  false,
                  kept,
                  nullptr};
    write_back();
    fetch_outputs<Pieces>(stretch);
    for (int64_t quad = stretch.begin, end; quad < stretch.end; quad = end) {
      const int64_t group = quad / weight_.group_quads, begin = group * weight_.group_quads;
      const int64_t group_end = std::min(begin + weight_.group_quads, weight_.quads);
      end = std::min(group_end, stretch.end);
      window.begins = quad == begin;
      for (; quad + window_ < end; quad += window_) {
        add_window<Pieces, false>(window);
        window.pass(window_);
      }
      if (end == group_end) {
        window.to = scratch_.complete[turn_ ^= 1];
        add_window<Pieces, true>(window);
        ending_ = {stretch, group, window.to, totals};
        if (Pieces == 1) set_ ^= 2;
      } else {
        window.to = kept;
        add_window<Pieces, false>(window);
      }
      late_ = window.to;
      window.pass(window_);
      window.to = nullptr;
    }
  }

  template <int Pieces, bool IsComplete>
  TRITIUM_INLINE void add_window(const Window& window) {
    if (Pieces == 1 && set_ == 2) {
      multiply_window<Pieces, IsComplete, 2>(window);
    } else {
      multiply_window<Pieces, IsComplete, 0>(window);
    }
    late_ = nullptr;
  }

  // Between one multiplication and the next there is time to store sums of an earlier one and, once in a
  // group, to end sums of the group before.
  template <int Pieces, bool IsComplete, int Set>
  TRITIUM_INLINE void multiply_window(const Window& window) {
    load_activations<Pieces, 4>(window.first);
    load_register<6>(window.codes);
    begin_sums<Set, 0>(window);
    multiply<Set, 4, 6>();
    store_late<Pieces, Set, 0>();
    if (IsComplete && Pieces == 2) end_sums(0);
    load_register<7>(window.codes + sizeof(scratch.codes[0]));
    begin_sums<Set, 1>(window);
    multiply<Set + 1, 4, 7>();
    store_late<Pieces, Set, 1>();
    if (IsComplete && Pieces == 2) end_sums(1);
    if constexpr (Pieces == 1) {
      if (IsComplete) {
        end_sums(0);
        end_sums(1);
      }
    } else {
      load_activations<Pieces, 5>(window.second);
      begin_sums<0, 2>(window);
      multiply<2, 5, 6>();
      if (window.to != nullptr) store_register<0>(window.to);
      if (IsComplete) end_sums(2);
      begin_sums<0, 3>(window);
      multiply<3, 5, 7>();
      if (window.to != nullptr) store_register<1>(window.to + kRegister);
      if (IsComplete) end_sums(3);
    }
  }

  // Of many columns a pass over them brings more than the first-level cache holds.
  template <int Pieces, int Register>
  TRITIUM_INLINE void load_activations(const int8_t* from) const {
    if constexpr (Pieces == 2) {
      stream_register<Register>(from, activations_.stride);
    } else {
      load_register<Register>(from, activations_.stride);
    }
  }

  template <int Set, int Index>
  static TRITIUM_INLINE void begin_sums(const Window& window) {
    if (window.begins) {
      clear_register<Set + Index>();
    } else if (window.from != nullptr) {
      load_register<Set + Index>(window.from + Index * kRegister);
    }
  }

  // The two registers that the window before has left: of two pieces the last two, of one those of the other
  // set.
  template <int Pieces, int Set, int Index>
  TRITIUM_INLINE void store_late() {
    constexpr int kFirst = Pieces == 2 ? 2 : 0;
    if (late_ != nullptr) store_register<(Set ^ 2) + Index>(late_ + (kFirst + Index) * kRegister);
  }

  template <int Pieces, int Set>
  void store_all_late() {
    store_late<Pieces, Set, 0>();
    store_late<Pieces, Set, 1>();
    late_ = nullptr;
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

  // Groups in rising order, multiply then add. The last one's totals become outputs.
  TRITIUM_INLINE void end_sums(int i) const {
    if (ending_.sums == nullptr) return;
    const bool is_first = ending_.group == 0, is_last = ending_.group + 1 == weight_.groups;
    if (!is_last) {
      is_first ? scale_sums<true, false>(i) : scale_sums<false, false>(i);
    } else {
      is_first ? scale_sums<true, true>(i) : scale_sums<false, true>(i);
    }
  }

  template <bool IsFirst, bool IsLast>
  __attribute__((noinline)) void scale_sums(int i) const {
    const int64_t tile = ending_.stretch.tile + i % kTiles, first = ending_.stretch.column[i / kTiles];
    const int32_t* sums = ending_.sums + i * kRegister;
    float* totals = ending_.totals + i * kRegister;
    const Lanes factors = factors_of(weight_, tile, ending_.group);
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
    write_back();
  }

  static TRITIUM_INLINE Lanes to_floats(const int32_t* sums) {
    return {{(NativeFloat)_mm512_cvtepi32_ps(_mm512_load_si512(sums))}};
  }

  const TernaryView weight_;
  const ActivationView activations_;
  float* out_;
  Scratch& scratch_ = scratch;
  const int64_t window_;  // quads in a register of codes; no group ends inside
  const int64_t tile_bytes_;
  int64_t block_;                    // quads that are unpacked at a time; of whole groups where they fit
  int64_t first_ = 0, columns_ = 0;  // of the block of columns
  int64_t pieces_ = 0, piece_ = 0;   // pieces of so many columns
  Ending ending_{};                  // without sums: none
  int32_t* late_ = nullptr;          // where sums are to be stored that are still in registers
  int turn_ = 0;                     // of memory for complete sums
  int set_ = 0;                      // first of the registers of sums that one piece uses now
};

// From so many columns on unpacking to memory pays.
int64_t least_columns(const TernaryView& weight) {
  return has_split_registers(weight) ? 5 : 3;
}

}  // namespace

void ternary_tiles_amx(const TernaryView& weight, const ActivationView& activations, int64_t begin,
                       int64_t end, float* out) {
  if (activations.columns < least_columns(weight) || end - begin < kTiles)
    return kAvx512VbmiTable.ternary_tiles(weight, activations, begin, end, out);
  Product(weight, activations, out).run(begin, end);
}

}  // namespace tritium
