#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace tritium {
namespace {

constexpr size_t kFirstPrefix = 256;  // ids sorted at first by top_p; it rarely needs more

// Higher logit first, lower id among equals.
struct Better {
  const float* logits;

  bool operator()(int64_t a, int64_t b) const {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  }
};

class Candidates {
 public:
  Candidates(const float* logits, int64_t count, float largest, double temperature)
      : logits_(logits), largest_(largest), temperature_(temperature), ids_(static_cast<size_t>(count)) {
    std::iota(ids_.begin(), ids_.end(), int64_t{0});
  }

  void keep_top_k(int64_t k) {
    if (k <= 0 || k >= static_cast<int64_t>(ids_.size())) return;
    std::nth_element(ids_.begin(), ids_.begin() + (k - 1), ids_.end(), Better{logits_});
    ids_.resize(static_cast<size_t>(k));
    std::sort(ids_.begin(), ids_.end());  // sums must not depend on how nth_element leaves them
  }

  // The smallest set of the most probable ids whose share reaches p.
  void keep_top_p(double p) {
    if (p >= 1.0) return;
    double total = 0;
    for (const int64_t id : ids_) total += weight(id);
    double before = 0;
    size_t sorted = 0;
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (i == sorted) sorted = sort_prefix(sorted);
      if (i > 0 && before >= p * total) {
        ids_.resize(i);
        return;
      }
      before += weight(ids_[i]);
    }
  }

  void keep_min_p(double p) {
    if (p > 0) std::erase_if(ids_, [&](int64_t id) { return weight(id) < p; });
  }

  int64_t draw(double random) {
    std::sort(ids_.begin(), ids_.end());
    double total = 0;
    for (const int64_t id : ids_) total += weight(id);
    double before = 0;
    for (const int64_t id : ids_) {
      before += weight(id);
      if (before > random * total) return id;
    }
    return ids_.back();
  }

 private:
  // Relative to the most probable id, whose weight is 1.
  double weight(int64_t id) const {
    return std::exp((logits_[id] - static_cast<double>(largest_)) / temperature_);
  }

  size_t sort_prefix(size_t sorted) {
    const size_t wanted = std::min(ids_.size(), sorted == 0 ? kFirstPrefix : sorted * 4);
    const auto end = ids_.begin() + static_cast<std::ptrdiff_t>(wanted);
    if (wanted < ids_.size())
      std::nth_element(ids_.begin() + static_cast<std::ptrdiff_t>(sorted), end, ids_.end(), Better{logits_});
    std::sort(ids_.begin() + static_cast<std::ptrdiff_t>(sorted), end, Better{logits_});
    return wanted;
  }

  const float* logits_;
  float largest_;
  double temperature_;
  std::vector<int64_t> ids_;
};

}  // namespace

Sample sample(const float* logits, int64_t count, const SamplingFilter& filter) {
  int64_t best = 0;
  bool broken = false;
  for (int64_t i = 0; i < count; ++i) {
    broken |= std::isnan(logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  const float largest = logits[best];
  if (broken || !std::isfinite(largest)) return {-1, 0.0};
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += std::exp(logits[i] - static_cast<double>(largest));
  int64_t token = best;
  if (filter.temperature > 0) {
    Candidates candidates(logits, count, largest, filter.temperature);
    candidates.keep_top_k(filter.top_k);
    candidates.keep_top_p(filter.top_p);
    candidates.keep_min_p(filter.min_p);
    token = candidates.draw(filter.random);
  }
  return {token, logits[token] - static_cast<double>(largest) - std::log(total)};
}

}  // namespace tritium
