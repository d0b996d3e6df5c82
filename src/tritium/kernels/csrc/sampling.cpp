#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "table.h"

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

// Kept between calls of a thread: a vocabulary's worth of memory each.
struct Scratch {
  std::vector<double> weights;  // relative to the most probable id, whose weight is 1
  std::vector<int64_t> ids;
  std::vector<float> allowed;  // the logits, with -inf where a token is not allowed
};

class Candidates {
 public:
  Candidates(const float* logits, const Scratch& scratch, std::vector<int64_t>& ids)
      : logits_(logits), weights_(scratch.weights), ids_(ids) {}

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
  double weight(int64_t id) const { return weights_[static_cast<size_t>(id)]; }

  size_t sort_prefix(size_t sorted) {
    const size_t wanted = std::min(ids_.size(), sorted == 0 ? kFirstPrefix : sorted * 4);
    const auto end = ids_.begin() + static_cast<std::ptrdiff_t>(wanted);
    if (wanted < ids_.size())
      std::nth_element(ids_.begin() + static_cast<std::ptrdiff_t>(sorted), end, ids_.end(), Better{logits_});
    std::sort(ids_.begin() + static_cast<std::ptrdiff_t>(sorted), end, Better{logits_});
    return wanted;
  }

  const float* logits_;
  const std::vector<double>& weights_;
  std::vector<int64_t>& ids_;
};

Scratch& scratch_for(int64_t count) {
  static thread_local Scratch scratch;
  scratch.weights.resize(static_cast<size_t>(count + 7) / 8 * 8);
  return scratch;
}

// Nothing is left out: the ids need not be listed.
int64_t draw_from_all(const std::vector<double>& weights, int64_t count, double total, double random) {
  double before = 0;
  for (int64_t id = 0; id < count; ++id) {
    before += weights[static_cast<size_t>(id)];
    if (before > random * total) return id;
  }
  // The total was summed in another order and is a hair larger: it was to be the last one.
  int64_t last = count - 1;
  while (weights[static_cast<size_t>(last)] == 0) --last;
  return last;
}

int64_t draw(const float* logits, int64_t count, float largest, const SamplingFilter& filter) {
  Scratch& scratch = scratch_for(count);
  const double total =
      table().softmax_weights(logits, count, largest, filter.temperature, scratch.weights.data());
  if (filter.top_k == 0 && filter.top_p >= 1.0 && filter.min_p <= 0.0) {
    return draw_from_all(scratch.weights, count, total, filter.random);
  }
  scratch.ids.resize(static_cast<size_t>(count));
  std::iota(scratch.ids.begin(), scratch.ids.end(), int64_t{0});
  Candidates candidates(logits, scratch, scratch.ids);
  candidates.keep_top_k(filter.top_k);
  candidates.keep_top_p(filter.top_p);
  candidates.keep_min_p(filter.min_p);
  return candidates.draw(filter.random);
}

}  // namespace

int64_t sample_token(const float* logits, int64_t count, const SamplingFilter& filter) {
  const int64_t best = table().find_largest(logits, count);
  if (best < 0 || !std::isfinite(logits[best])) return -1;
  return filter.temperature > 0 ? draw(logits, count, logits[best], filter) : best;
}

int64_t sample_allowed(const float* logits, int64_t count, const uint8_t* allowed,
                       const SamplingFilter& filter) {
  std::vector<float>& kept = scratch_for(count).allowed;
  kept.resize(static_cast<size_t>(count));
  for (int64_t id = 0; id < count; ++id) {
    const bool is_allowed = (allowed[id / 8] >> (id % 8)) & 1;
    kept[static_cast<size_t>(id)] = is_allowed ? logits[id] : -std::numeric_limits<float>::infinity();
  }
  return sample_token(kept.data(), count, filter);
}

Sample sample(const float* logits, int64_t count, const SamplingFilter& filter) {
  const int64_t token = sample_token(logits, count, filter);
  if (token < 0) return {-1, 0.0};
  return log_probabilities(logits, count, token, 0).front();
}

std::vector<Sample> log_probabilities(const float* logits, int64_t count, int64_t token, int64_t top) {
  const int64_t best = table().find_largest(logits, count);
  if (best < 0 || !std::isfinite(logits[best])) return {};
  const auto largest = static_cast<double>(logits[best]);
  Scratch& scratch = scratch_for(count);
  const double total = table().softmax_weights(logits, count, logits[best], 1.0, scratch.weights.data());
  std::vector<int64_t>& ids = scratch.ids;
  const auto wanted = static_cast<std::ptrdiff_t>(std::min(top, count));
  if (wanted > 0) {
    ids.resize(static_cast<size_t>(count));
    std::iota(ids.begin(), ids.end(), int64_t{0});
    std::partial_sort(ids.begin(), ids.begin() + wanted, ids.end(), Better{logits});
  }
  std::vector<Sample> found;
  const auto add = [&](int64_t id) { found.push_back({id, logits[id] - largest - std::log(total)}); };
  add(token);
  std::for_each(ids.begin(), ids.begin() + wanted, add);
  return found;
}

}  // namespace tritium
