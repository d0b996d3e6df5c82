// Draws one token from the logits of a vocabulary.
#pragma once

#include <cstdint>

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
// The token, and its log-probability under softmax(logits).
Sample sample(const float* logits, int64_t count, const SamplingFilter& filter);

}  // namespace tritium
