// Chunks of a prompt under the gated delta rule, multiplied as pairs of bfloat16.
//
// Keys and queries enter the products as they are: their lengths, decays and rates are factors of
// rows, applied in float32. State, corrections and their weights are rounded once, as operands; the
// state itself and the system of corrections stay float32.
#pragma once

#include <algorithm>

#include "delta.h"
#include "panels.h"

namespace segue {

#if defined(__AVX512BF16__)
// The heads of one key head, with memory that a thread uses again and again. Everything of V
// columns is in panels, [panels, rows, kPanel]; columns beyond V are zero.
class PairChunks {
 public:
  static_assert(kChunk == kPanel);

  explicit PairChunks(Shape s)
      : s_(s), words_(s.K / 2), panels_((s.V + kPanel - 1) / kPanel),
        states_(zeros<float>(s.repeats() * panels_ * s.K * kPanel)),
        rows_(zeros<uint32_t>(2 * kChunk * words_)), panel_(zeros<uint32_t>(std::max(words_, kChunk / 2) * kPanel)),
        neighbours_(zeros<uint32_t>(kChunk / 2 * s.K)), turned_(zeros<uint32_t>(s.K * kChunk / 2)),
        scores_(zeros<float>(2 * kChunk * kPanel)), system_(zeros<float>(kChunk * kChunk)),
        seen_(zeros<uint32_t>(kChunk * kChunk / 2)), recalled_(zeros<float>(2 * kChunk * kPanel)) {}

  // States of the value heads; null: zeros.
  void load(const float* states) { copy_states(states, nullptr); }
  void save(float* states) { copy_states(nullptr, states); }

  // The products of a chunk's keys and queries, which all value heads share.
  void start(const Bf16* q, const Bf16* k, long tokens) {
    uint32_t *keys = rows_.get(), *queries = keys + kChunk * words_;
    for (long i = 0; i < tokens; i++) {
      std::memcpy(keys + i * words_, k + i * s_.row, words_ * 4);
      std::memcpy(queries + i * words_, q + i * s_.row, words_ * 4);
      key_scale_[i] = inverse_length(k + i * s_.row, s_.K);
      query_scale_[i] = inverse_length(q + i * s_.row, s_.K) * s_.query_scale();
    }
    if (tokens % 2) std::fill_n(keys + tokens * words_, words_, 0u);
    arrange(keys, words_, tokens, words_, false, panel_.get());
    multiply(keys, words_, panel_.get(), words_, tokens, scores_.get(), false);
    multiply(queries, words_, panel_.get(), words_, tokens, scores_.get() + kChunk * kPanel, false);
    // Keys again, by rows of tokens: pairs of neighbours.
    for (long i = 0; i < tokens; i += 2)
      for (long c = 0; c < s_.K; c += kLanes)
        store(neighbours_.get() + i / 2 * s_.K + c,
              pairs(load_floats((const Bf16*)(keys + i * words_) + c),
                    load_floats((const Bf16*)(keys + (i + 1) * words_) + c)));
    for (long i = 0; i < (tokens + 1) / 2; i += kLanes)
      for (long c = 0; c < s_.K; c += kLanes)
        turn(neighbours_.get() + i * s_.K + c, s_.K, turned_.get() + c * kChunk / 2 + i, kChunk / 2);
  }

  // Value head r: its state goes from before the chunk to after it. `out` has rows of all heads.
  void head(long r, const Bf16* v, const float* log_decay, const float* rate, float* out,
            long tokens) {
    const Decays decays(log_decay, s_.H, tokens);
    scale_scores(decays, rate, tokens);
    for (long p = 0; p < panels_; p++) {
      float* state = states_.get() + (r * panels_ + p) * s_.K * kPanel;
      const long first = p * kPanel, columns = std::min(kPanel, s_.V - first);
      recall(state, tokens);
      correct(decays, v + first, rate, columns, tokens);
      answer(decays, out + first, columns, tokens);
      advance(decays, state, tokens);
    }
  }

 private:
  template <class T>
  static std::unique_ptr<T[], Free> zeros(long count) {
    auto memory = aligned<T>(count);
    std::fill_n(memory.get(), count, T{});
    return memory;
  }

  // Words of two numbers, each rounded to bfloat16.
  static Words pairs(Floats low, Floats high) {
    typedef uint16_t Numbers __attribute__((vector_size(SEGUE_VECTOR_BYTES)));
    constexpr Numbers interleaved = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i apart = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    return (Words)_mm512_permutexvar_epi16((__m512i)interleaved, apart);
  }

  static void turn(const uint32_t* from, long from_row, uint32_t* to, long to_row) {
    Words block[kLanes];
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++) block[i] = load_as<Words>(from + i * from_row);
    transpose(block);
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++) store(to + i * to_row, block[i]);
  }

  static void multiply(const uint32_t* a, long stride, const uint32_t* panel, long words, long rows,
                       float* sums, bool adds) {
    for (long i = 0; i < rows; i += kPanelRows)
      panel_rows<Pairs>(int(std::min<long>(kPanelRows, rows - i)), a + i * stride, stride, panel,
                        words, sums + i * kPanel, adds);
  }

  void copy_states(const float* from, float* to) {
    for (long r = 0; r < s_.repeats(); r++)
      for (long i = 0; i < s_.K; i++)
        for (long c = 0; c < s_.V; c += kLanes) {
          float* own = states_.get() + ((r * panels_ + c / kPanel) * s_.K + i) * kPanel + c % kPanel;
          const long at = (r * s_.K + i) * s_.V + c;
          if (to)
            store(to + at, load_floats(own));
          else
            store(own, from ? load_floats(from + at) : Floats{});
        }
  }

  void scale_scores(const Decays& decays, const float* rate, long tokens) {
    float between[kChunk] = {};
    for (long i = 0; i < tokens; i++) {
      decays.between(i, between);
      const float* kk = scores_.get() + i * kPanel;
      const float* qk = kk + kChunk * kPanel;
      Bf16* seen = (Bf16*)seen_.get() + i * kChunk;
      for (long j = 0; j < kChunk; j += kLanes) {
        Floats by = load_some(between + j, i + 1 - j) * load_some(key_scale_ + j, i + 1 - j);
        store(system_.get() + i * kChunk + j,
              load_floats(kk + j) * by * (key_scale_[i] * rate[i * s_.H]));
        store_floats(seen + j, load_floats(qk + j) * by * query_scale_[i]);
      }
    }
  }

  // What the state says to keys and queries, before their scales.
  void recall(const float* state, long tokens) {
    for (long k = 0; k < words_; k++)
      for (long c = 0; c < kPanel; c += kLanes)
        store(panel_.get() + k * kPanel + c,
              pairs(load_floats(state + 2 * k * kPanel + c),
                    load_floats(state + (2 * k + 1) * kPanel + c)));
    for (long half = 0; half < 2; half++)
      multiply(rows_.get() + half * kChunk * words_, words_, panel_.get(), words_, tokens,
               recalled_.get() + half * kChunk * kPanel, false);
  }

  // Corrections: rate (v - decayed state's recall), less what earlier corrections recall.
  void correct(const Decays& decays, const Bf16* v, const float* rate, long columns, long tokens) {
    float* u = recalled_.get();
    for (long i = 0; i < tokens; i++) {
      const float by = decays.since_start[i] * key_scale_[i], b = rate[i * s_.H];
      for (long c = 0; c < columns; c += kLanes) {
        float* at = u + i * kPanel + c;
        store(at, (load_floats(v + i * s_.row + c) - load_floats(at) * by) * b);
      }
    }
    substitute<kVectors>(system_.get(), u, kPanel, 0, tokens);
  }

  // Rows of corrections in pairs of neighbours, each times its `by`.
  void pair_corrections(const float* by, long tokens) {
    const float* u = recalled_.get();
    for (long i = 0; i < tokens; i += 2)
      for (long c = 0; c < kPanel; c += kLanes) {
        const float* at = u + i * kPanel + c;
        Floats low = load_floats(at) * (by ? by[i] : 1.0f), high = {};
        if (i + 1 < tokens) high = load_floats(at + kPanel) * (by ? by[i + 1] : 1.0f);
        store(panel_.get() + i / 2 * kPanel + c, pairs(low, high));
      }
  }

  // What the state before says, then what the corrections add.
  void answer(const Decays& decays, float* out, long columns, long tokens) {
    float* sums = recalled_.get() + kChunk * kPanel;
    for (long i = 0; i < tokens; i++)
      for (long c = 0; c < kPanel; c += kLanes) {
        float* at = sums + i * kPanel + c;
        store(at, load_floats(at) * (decays.since_start[i] * query_scale_[i]));
      }
    pair_corrections(nullptr, tokens);
    for (long i = 0; i < tokens; i += kPanelRows) {
      const long rows = std::min<long>(kPanelRows, tokens - i);
      multiply(seen_.get() + i * kChunk / 2, kChunk / 2, panel_.get(), (i + rows + 1) / 2, rows,
               sums + i * kPanel, true);
    }
    for (long i = 0; i < tokens; i++)
      for (long c = 0; c < columns; c += kLanes)
        store(out + i * s_.H * s_.V + c, load_floats(sums + i * kPanel + c));
  }

  void advance(const Decays& decays, float* state, long tokens) {
    float by[kChunk];
    for (long i = 0; i < tokens; i++) by[i] = decays.until_end[i] * key_scale_[i];
    pair_corrections(by, tokens);
    for (long i = 0; i < s_.K * kPanel; i += kLanes)
      store(state + i, load_floats(state + i) * decays.whole);
    multiply(turned_.get(), kChunk / 2, panel_.get(), (tokens + 1) / 2, s_.K, state, true);
  }

  const Shape s_;
  const long words_, panels_;
  std::unique_ptr<float[], Free> states_;
  std::unique_ptr<uint32_t[], Free> rows_;        // Keys, then queries [2, kChunk, K / 2].
  std::unique_ptr<uint32_t[], Free> panel_;       // The right side of the product at hand.
  std::unique_ptr<uint32_t[], Free> neighbours_;  // Pairs of tokens' keys [kChunk / 2, K].
  std::unique_ptr<uint32_t[], Free> turned_;      // The same as [K, kChunk / 2].
  std::unique_ptr<float[], Free> scores_;         // Keys, then queries, with keys.
  std::unique_ptr<float[], Free> system_;
  std::unique_ptr<uint32_t[], Free> seen_;
  std::unique_ptr<float[], Free> recalled_;  // By keys, then corrections; by queries, then outputs.
  float key_scale_[kChunk] = {}, query_scale_[kChunk] = {};
};
#endif

}  // namespace segue
