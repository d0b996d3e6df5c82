// Draws one token from the logits of a vocabulary.
#pragma once

#include <cstdint>
#include <vector>

namespace tritium {

struct SamplingFilter {
  double temperature;  // 0 takes the largest logit, the lowest id among equals
  int64_t top_k;       // 0: all
  double top_p;
  double min_p;
  double random;  // in [0, 1)
};

struct Sample {
  int64_t token;  // -1: the logits hold NaN or infinity
  double logprob;
};

// The token alone; -1: the logits hold NaN or infinity. A logit of -inf is never drawn.
int64_t sample_token(const float* logits, int64_t count, const SamplingFilter& filter);
// The same among the tokens whose bit is set in `allowed` (the lowest bit of a byte first); -1: there is
// none.
int64_t sample_allowed(const float* logits, int64_t count, const uint8_t* allowed,
                       const SamplingFilter& filter);
// The token, and its log-probability under softmax(logits).
Sample sample(const float* logits, int64_t count, const SamplingFilter& filter);
// `token` and behind it the `top` largest logits in order, each with its log-probability under
// softmax(logits); empty: the logits hold NaN or infinity.
std::vector<Sample> log_probabilities(const float* logits, int64_t count, int64_t token, int64_t top);

}  // namespace tritium
