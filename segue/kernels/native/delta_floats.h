// Chunks of a prompt under the gated delta rule, in float32.
#pragma once

#include <algorithm>
#include <vector>

#include "blocks.h"
#include "delta.h"

namespace segue {

// The heads of one key head, with memory that a thread uses again and again.
template <class E>
class FloatChunks {
 public:
  explicit FloatChunks(Shape s)
      : s_(s), states_(s.repeats() * s.K * s.V), keys_(kChunk * s.K), queries_(kChunk * s.K),
        transposed_(s.K * kChunk), kk_(kChunk * kChunk), qk_(kChunk * kChunk), u_(kChunk * s.V),
        system_(kChunk * kChunk), seen_(kChunk * kChunk), fading_(kChunk * s.K) {}

  // States of the value heads; null: zeros.
  void load(const float* states) {
    if (states)
      std::copy_n(states, states_.size(), states_.begin());
    else
      std::fill(states_.begin(), states_.end(), 0.0f);
  }
  void save(float* states) const { std::copy(states_.begin(), states_.end(), states); }

  // The products of a chunk's keys and queries, which all value heads share.
  void start(const E* q, const E* k, long tokens) {
    const long K = s_.K;
    for (long i = 0; i < tokens; i++) {
      unit(q + i * s_.row, K, s_.query_scale(), queries_.data() + i * K);
      unit(k + i * s_.row, K, 1.0f, keys_.data() + i * K);
    }
    for (long c = 0; c < K; c++)
      for (long i = 0; i < kChunk; i++)
        transposed_[c * kChunk + i] = i < tokens ? keys_[i * K + c] : 0.0f;
    // Only what is on and below the diagonal is needed.
    for (long first = 0; first < tokens; first += kLanes) {
      const long rows = std::min(kLanes, tokens - first), columns = first + kLanes;
      for (auto [from, to] : {std::pair{&keys_, &kk_}, std::pair{&queries_, &qk_}})
        product(from->data() + first * K, K, 1, transposed_.data(), kChunk, rows, columns, K,
                to->data() + first * kChunk, kChunk, 0);
    }
  }

  // Value head r: its state goes from before the chunk to after it. `out` has rows of all heads.
  void head(long r, const E* v, const float* log_decay, const float* rate, float* out,
            long tokens) {
    const Decays decays(log_decay, s_.H, tokens);
    float* state = states_.data() + r * s_.K * s_.V;
    scale_scores(decays, rate, tokens);
    correct(decays, v, rate, state, tokens);
    answer(decays, state, out, tokens);
    advance(decays, state, tokens);
  }

 private:
  void scale_scores(const Decays& decays, const float* rate, long tokens) {
    float between[kChunk];
    for (long i = 0; i < tokens; i++) {
      decays.between(i, between);
      for (long j = 0; j <= i; j++) {
        seen_[i * kChunk + j] = qk_[i * kChunk + j] * between[j];
        system_[i * kChunk + j] = kk_[i * kChunk + j] * between[j] * rate[i * s_.H];
      }
      for (long j = i + 1; j < tokens; j++) seen_[i * kChunk + j] = 0;
    }
  }

  // Corrections: rate (v - decayed state's recall), less what earlier corrections recall.
  void correct(const Decays& decays, const E* v, const float* rate, const float* state,
               long tokens) {
    const long V = s_.V;
    float* u = u_.data();
    product(keys_.data(), s_.K, 1, state, V, tokens, V, s_.K, u, V, 0);
    for (long i = 0; i < tokens; i++)
      for (long c = 0; c < V; c += kLanes) {
        Floats recalled = load_floats(u + i * V + c) * decays.since_start[i];
        store(u + i * V + c, (load_floats(v + i * s_.row + c) - recalled) * rate[i * s_.H]);
      }
    long c = 0;
    for (; c + 4 * kLanes <= V; c += 4 * kLanes) substitute<4>(system_.data(), u + c, V, 0, tokens);
    for (; c < V; c += kLanes) substitute<1>(system_.data(), u + c, V, 0, tokens);
  }

  // What the state before says, then what the corrections add.
  void answer(const Decays& decays, const float* state, float* out, long tokens) {
    const long V = s_.V, row = s_.H * V;
    product(queries_.data(), s_.K, 1, state, V, tokens, V, s_.K, out, row, 0);
    for (long i = 0; i < tokens; i++)
      for (long c = 0; c < V; c += kLanes)
        store(out + i * row + c, load_floats(out + i * row + c) * decays.since_start[i]);
    product(seen_.data(), kChunk, 1, u_.data(), V, tokens, V, tokens, out, row, 1, true);
  }

  void advance(const Decays& decays, float* state, long tokens) {
    const long K = s_.K;
    for (long i = 0; i < tokens; i++)
      for (long c = 0; c < K; c += kLanes)
        store(fading_.data() + i * K + c,
              load_floats(keys_.data() + i * K + c) * decays.until_end[i]);
    product(fading_.data(), 1, K, u_.data(), s_.V, K, s_.V, tokens, state, s_.V, decays.whole);
  }

  template <class... Arguments>
  static void product(Arguments... arguments) {
    blocks::product(arguments...);
  }

  const Shape s_;
  std::vector<float> states_, keys_, queries_, transposed_, kk_, qk_, u_, system_, seen_, fading_;
};

}  // namespace segue
