#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "pool.h"
#include "sampling.h"
#include "table.h"
#include "views.h"

namespace tritium {
namespace {

constexpr double kNanoseconds = 1;  // an id of the vocabulary: an order of magnitude is enough

void require_filter(const SamplingFilter& filter) {
  require(filter.temperature >= 0.0 && std::isfinite(filter.temperature),
          "temperature must be a finite number, at least 0.");
  require(filter.top_k >= 0, "top_k must be 0 (all) or a number of tokens.");
  require(filter.top_p > 0.0 && filter.top_p <= 1.0, "top_p must be above 0 and at most 1.");
  require(filter.min_p >= 0.0 && filter.min_p <= 1.0, "min_p must be between 0 and 1.");
  require(filter.random >= 0.0 && filter.random < 1.0, "random must be at least 0 and below 1.");
}

nb::tuple draw(const Array& logits, double temperature, int64_t top_k, double top_p, double min_p,
               double random) {
  const auto* values = elements<const float>(logits, "logits", {kAny});
  const int64_t count = size_of(logits, 0);
  require(count >= 1, "logits must not be empty.");
  const SamplingFilter filter{temperature, top_k, top_p, min_p, random};
  require_filter(filter);
  Sample drawn;
  {
    nb::gil_scoped_release released;
    drawn = sample(values, count, filter);
  }
  return nb::make_tuple(drawn.token, drawn.logprob);
}

std::vector<int64_t> draw_rows(const std::vector<Array>& logits, const std::vector<double>& temperature,
                               const std::vector<int64_t>& top_k, const std::vector<double>& top_p,
                               const std::vector<double>& min_p, const std::vector<double>& random,
                               const std::vector<std::optional<Array>>& allowed, int threads) {
  const size_t rows = logits.size();
  require(temperature.size() == rows && top_k.size() == rows && top_p.size() == rows &&
              min_p.size() == rows && random.size() == rows && allowed.size() == rows,
          "There must be one value of every parameter for each row of logits.");
  require_threads(threads);
  std::vector<const float*> values;
  std::vector<const uint8_t*> masks;
  std::vector<int64_t> counts, tokens(rows);
  int64_t longest = 0;
  for (size_t row = 0; row < rows; ++row) {
    values.push_back(elements<const float>(logits[row], "logits", {kAny}));
    counts.push_back(size_of(logits[row], 0));
    longest = std::max(longest, counts.back());
    require(counts.back() >= 1, "logits must not be empty.");
    masks.push_back(allowed[row] ? elements<const uint8_t>(*allowed[row], "allowed", {kAny}) : nullptr);
    require(!allowed[row] || size_of(*allowed[row], 0) >= (counts.back() + 7) / 8,
            "allowed must hold one bit for each token.");
    require_filter({temperature[row], top_k[row], top_p[row], min_p[row], random[row]});
  }
  nb::gil_scoped_release released;
  parallel_for(static_cast<int64_t>(rows), 1, threads, kNanoseconds * static_cast<double>(longest),
               [&](int64_t begin, int64_t end) {
                 for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
                   const SamplingFilter filter{temperature[row], top_k[row], top_p[row], min_p[row],
                                               random[row]};
                   if (!table().is_finite(values[row], counts[row])) {
                     tokens[row] = -1;
                   } else if (masks[row] != nullptr) {
                     tokens[row] = sample_allowed(values[row], counts[row], masks[row], filter);
                   } else {
                     tokens[row] = sample_token(values[row], counts[row], filter);
                   }
                 }
               });
  return tokens;
}

std::vector<std::pair<int64_t, double>> probabilities(const Array& logits, int64_t token, int64_t top) {
  const auto* values = elements<const float>(logits, "logits", {kAny});
  const int64_t count = size_of(logits, 0);
  require(token >= 0 && token < count, "token must be a place in logits.");
  require(top >= 0, "top must not be negative.");
  std::vector<std::pair<int64_t, double>> pairs;
  nb::gil_scoped_release released;
  for (const Sample& found : log_probabilities(values, count, token, top)) {
    pairs.emplace_back(found.token, found.logprob);
  }
  return pairs;
}

}  // namespace

void bind_sampling(nb::module_& m) {
  m.def("sample", &draw, nb::arg("logits").noconvert(), nb::arg("temperature"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("min_p"), nb::arg("random"));
  m.def("sample_rows", &draw_rows, nb::arg("logits"), nb::arg("temperature"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("min_p"), nb::arg("random"), nb::arg("allowed"), nb::arg("threads"));
  m.def("log_probabilities", &probabilities, nb::arg("logits").noconvert(), nb::arg("token"), nb::arg("top"));
}

}  // namespace tritium
