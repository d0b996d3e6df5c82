// Trits to bytes and back: see packing.py for the two layouts. Each returns false when it meets a value that
// is none.
#pragma once

#include <cstdint>

namespace tritium {

// trits [rows, count] -> packed [rows, ceil(count / 5)]
bool pack_trits(const int8_t* trits, int64_t rows, int64_t count, uint8_t* packed);
// packed [rows, ceil(count / 5)] -> trits [rows, count]
bool unpack_trits(const uint8_t* packed, int64_t rows, int64_t count, int8_t* trits);
// trits [rows, count] -> planes [rows, blocks * 32]
bool to_compute_layout(const int8_t* trits, int64_t rows, int64_t count, uint8_t* planes);
// planes [rows, blocks * 32] -> trits [rows, count]
bool from_compute_layout(const uint8_t* planes, int64_t rows, int64_t count, int8_t* trits);
// packed [rows, ceil(count / 5)] -> planes [rows, blocks * 32]
bool packed5_to_compute(const uint8_t* packed, int64_t rows, int64_t count, uint8_t* planes);

}  // namespace tritium
