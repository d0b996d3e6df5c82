#include "probe.h"
#include "views.h"

namespace tritium {
namespace {

constexpr int kMostThreads = 64;
constexpr double kLongest = 60;

void check(int threads, double seconds) {
  require(threads >= 1 && threads <= kMostThreads, "threads must be between 1 and 64.");
  require(seconds > 0 && seconds <= kLongest, "seconds must be above 0 and at most 60.");
}

}  // namespace

void bind_probe(nb::module_& m) {
  const auto bind = [&](const char* name, double (*probe)(int, double)) {
    m.def(
        name,
        [probe](int threads, double seconds) {
          check(threads, seconds);
          nb::gil_scoped_release released;
          return probe(threads, seconds);
        },
        nb::arg("threads"), nb::arg("seconds") = 0.2);
  };
  bind("read_bandwidth", &read_bandwidth);
  bind("peak_int8", &peak_int8);
}

}  // namespace tritium
