#include <cmath>

#include "sampling.h"
#include "views.h"

namespace tritium {
namespace {

nb::tuple draw(const Array& logits, double temperature, int64_t top_k, double top_p, double min_p,
               double random) {
  const auto* values = elements<const float>(logits, "logits", {kAny});
  const int64_t count = size_of(logits, 0);
  require(count >= 1, "logits must not be empty.");
  require(temperature >= 0.0 && std::isfinite(temperature),
          "temperature must be a finite number, at least 0.");
  require(top_k >= 0, "top_k must be 0 (all) or a number of tokens.");
  require(top_p > 0.0 && top_p <= 1.0, "top_p must be above 0 and at most 1.");
  require(min_p >= 0.0 && min_p <= 1.0, "min_p must be between 0 and 1.");
  require(random >= 0.0 && random < 1.0, "random must be at least 0 and below 1.");
  Sample drawn;
  {
    nb::gil_scoped_release released;
    drawn = sample(values, count, {temperature, top_k, top_p, min_p, random});
  }
  return nb::make_tuple(drawn.token, drawn.logprob);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("sample", &draw, nb::arg("logits").noconvert(), nb::arg("temperature"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("min_p"), nb::arg("random"));
}

}  // namespace tritium
