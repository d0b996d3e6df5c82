#include "packing.h"
#include "views.h"

namespace tritium {
namespace {

constexpr const char* kNoTrits = "Trits must be -1, 0 or 1; the array holds another value.";
constexpr const char* kBadByte = "A byte of packed trits is at most 242; the array holds a larger one.";

int64_t packed_size(int64_t count) {
  return (count + 4) / 5;
}
int64_t plane_size(int64_t count) {
  return (count + 127) / 128 * 32;
}

template <typename From, typename To>
Result<To> convert(bool (*kernel)(const From*, int64_t, int64_t, To*), const From* from, int64_t rows,
                   int64_t count, int64_t width, const char* complaint) {
  Fresh<To> out({rows, width});
  bool valid;
  {
    nb::gil_scoped_release released;
    valid = kernel(from, rows, count, out.data);
  }
  require(valid, complaint);
  return out.release();
}

Result<uint8_t> pack(const Array& trits) {
  const auto* from = elements<const int8_t>(trits, "trits", {kAny, kAny});
  const int64_t count = size_of(trits, 1);
  return convert(pack_trits, from, size_of(trits, 0), count, packed_size(count), kNoTrits);
}

const uint8_t* packed_rows(const Array& packed, int64_t count) {
  require(count >= 0 && count <= int64_t{1} << 40, "count must be between 0 and 2^40.");
  return elements<const uint8_t>(packed, "packed", {kAny, packed_size(count)});
}

Result<int8_t> unpack(const Array& packed, int64_t count) {
  const auto* from = packed_rows(packed, count);
  return convert(unpack_trits, from, size_of(packed, 0), count, count, kBadByte);
}

Result<uint8_t> lay_out(const Array& trits) {
  const auto* from = elements<const int8_t>(trits, "trits", {kAny, kAny});
  const int64_t count = size_of(trits, 1);
  return convert(to_compute_layout, from, size_of(trits, 0), count, plane_size(count), kNoTrits);
}

Result<int8_t> read_back(const Array& planes, int64_t count) {
  require(count >= 0 && count <= int64_t{1} << 40, "count must be between 0 and 2^40.");
  const auto* from = elements<const uint8_t>(planes, "planes", {kAny, plane_size(count)});
  return convert(from_compute_layout, from, size_of(planes, 0), count, count,
                 "The compute layout holds code 3, which is no trit.");
}

Result<uint8_t> repack(const Array& packed, int64_t count) {
  const auto* from = packed_rows(packed, count);
  return convert(packed5_to_compute, from, size_of(packed, 0), count, plane_size(count), kBadByte);
}

}  // namespace

void bind_packing(nb::module_& m) {
  m.def("pack_trits", &pack, nb::arg("trits").noconvert());
  m.def("unpack_trits", &unpack, nb::arg("packed").noconvert(), nb::arg("count"));
  m.def("to_compute_layout", &lay_out, nb::arg("trits").noconvert());
  m.def("from_compute_layout", &read_back, nb::arg("planes").noconvert(), nb::arg("count"));
  m.def("packed5_to_compute", &repack, nb::arg("packed").noconvert(), nb::arg("count"));
}

}  // namespace tritium
