// The gated delta rule, float32 throughout; `reference.py` has the equations. One head's state is
// [K, V]; K and V are multiples of the vector's lanes.
#include <algorithm>
#include <vector>

#include "blocks.h"
#include "vectors.h"

namespace segue {
namespace {

using blocks::product;

constexpr float kL2Eps = 1e-6f;
constexpr long kChunk = 64;  // Tokens whose corrections are solved for together.

// A vector of length one, times `scale`.
template <class E>
inline void unit(const E* x, long K, float scale, float* out) {
  Floats squares = {};
  for (long i = 0; i < K; i += kLanes) {
    Floats v = load_floats(x + i);
    squares += v * v;
  }
  const float by = scale / std::sqrt(sum(squares) + kL2Eps);
  for (long i = 0; i < K; i += kLanes) store(out + i, load_floats(x + i) * by);
}

// ---- decode ----

constexpr long kColumns = 4;  // Vectors of a state's row that are done together.

// One token: from state `before` to `after`, which may be the same memory. `columns` vectors of V.
template <long columns>
inline void token(const float* before, float* after, const float* q, const float* k,
                  const float* v, float decay, float rate, float* out, long K, long V) {
  Floats recalled[columns] = {};
  for (long i = 0; i < K; i++)
    for (long c = 0; c < columns; c++)
      recalled[c] += load_floats(before + i * V + c * kLanes) * k[i];
  Floats correction[columns], result[columns] = {};
  for (long c = 0; c < columns; c++)
    correction[c] = (load_floats(v + c * kLanes) - recalled[c] * decay) * rate;
  for (long i = 0; i < K; i++)
    for (long c = 0; c < columns; c++) {
      Floats s = load_floats(before + i * V + c * kLanes) * decay + correction[c] * k[i];
      store(after + i * V + c * kLanes, s);
      result[c] += s * q[i];
    }
  for (long c = 0; c < columns; c++) store(out + c * kLanes, result[c]);
}

template <class E>
int delta_decode(const E* q, const E* k, const E* v, const float* log_decay, const float* rate,
            float* state, float* out, const int64_t* slots_in, const int64_t* slots_out,
            const int64_t* round_sizes, long rounds, long G, long S, long H, long K, long V, long row,
            int threads) {
  long rows = 0;
  for (long j = 0; j < rounds; j++) rows += round_sizes[j];
  if (!are_within(slots_in, round_sizes[0], 0, S) || !are_within(slots_out, rows, 0, S)) return 1;
  const long sequences = round_sizes[0], head_size = K * V, slot = H * head_size;
  const float scale = 1.0f / std::sqrt(float(K));
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
  for (long d = 0; d < sequences; d++)
    for (long h = 0; h < H; h++) {
      std::vector<float> scratch(2 * K + V);
      float *query = scratch.data(), *key = query + K, *value = key + K;
      const long g = h / (H / G);
      const float* before = state + slots_in[d] * slot + h * head_size;
      long first = 0;
      for (long j = 0; j < rounds && d < round_sizes[j]; first += round_sizes[j++]) {
        const long t = first + d;
        float* after = state + slots_out[t] * slot + h * head_size;
        unit(q + t * row + g * K, K, scale, query);
        unit(k + t * row + g * K, K, 1.0f, key);
        for (long i = 0; i < V; i += kLanes)
          store(value + i, load_floats(v + t * row + h * V + i));
        const float decay = std::exp(log_decay[t * H + h]), b = rate[t * H + h];
        float* result = out + (t * H + h) * V;
        long c = 0;
        for (; c + kColumns * kLanes <= V; c += kColumns * kLanes)
          token<kColumns>(before + c, after + c, query, key, value + c, decay, b, result + c, K, V);
        for (; c < V; c += kLanes)
          token<1>(before + c, after + c, query, key, value + c, decay, b, result + c, K, V);
        before = after;
      }
    }
  return 0;
}

// ---- prefill ----

// What a thread needs for the chunks of one key head.
struct Scratch {
  std::vector<float> keys, queries, transposed, kk, qk, u, system, seen, fading, elapsed;
  Scratch(long K, long V)
      : keys(kChunk * K), queries(kChunk * K), transposed(K * kChunk), kk(kChunk * kChunk),
        qk(kChunk * kChunk), u(kChunk * V), system(kChunk * kChunk), seen(kChunk * kChunk),
        fading(kChunk * K), elapsed(2 * kChunk) {}
};

struct Shape {
  long G, H, K, V, row;
};

// The products of a chunk's keys and queries, which all value heads of the key head share.
template <class E>
void key_products(const E* q, const E* k, long tokens, Shape s, Scratch& w) {
  const float scale = 1.0f / std::sqrt(float(s.K));
  for (long i = 0; i < tokens; i++) {
    unit(q + i * s.row, s.K, scale, w.queries.data() + i * s.K);
    unit(k + i * s.row, s.K, 1.0f, w.keys.data() + i * s.K);
  }
  for (long c = 0; c < s.K; c++)
    for (long i = 0; i < kChunk; i++)
      w.transposed[c * kChunk + i] = i < tokens ? w.keys[i * s.K + c] : 0.0f;
  // Only what is on and below the diagonal is needed.
  for (long first = 0; first < tokens; first += kLanes) {
    const long rows = std::min(kLanes, tokens - first), columns = first + kLanes;
    product(w.keys.data() + first * s.K, s.K, 1, w.transposed.data(), kChunk, rows, columns, s.K,
            w.kk.data() + first * kChunk, kChunk, 0);
    product(w.queries.data() + first * s.K, s.K, 1, w.transposed.data(), kChunk, rows, columns,
            s.K, w.qk.data() + first * kChunk, kChunk, 0);
  }
}

// One chunk of one value head; `state` goes from before it to after it.
template <class E>
void chunk(const E* v, const float* log_decay, const float* rate, float* out, long tokens, Shape s,
           float* state, Scratch& w) {
  const long K = s.K, V = s.V;
  // Sums of logarithms in double: they reach hundreds, and small differences matter.
  double elapsed[kChunk];
  float since_start[kChunk], until_end[kChunk];
  double total = 0;
  for (long i = 0; i < tokens; i++) elapsed[i] = total += log_decay[i * s.H];
  for (long i = 0; i < tokens; i++) {
    since_start[i] = std::exp(float(elapsed[i]));
    until_end[i] = std::exp(float(total - elapsed[i]));
  }
  float between[kChunk];
  for (long i = 0; i < tokens; i++) {
    for (long j = 0; j <= i; j++) between[j] = float(elapsed[i] - elapsed[j]);
    for (long j = 0; j <= i; j += kLanes)
      store_some(between + j, exp(load_some(between + j, i + 1 - j)), i + 1 - j);
    for (long j = 0; j <= i; j++) {
      w.seen[i * kChunk + j] = w.qk[i * kChunk + j] * between[j];
      w.system[i * kChunk + j] = w.kk[i * kChunk + j] * between[j] * rate[i * s.H];
    }
    for (long j = i + 1; j < tokens; j++) w.seen[i * kChunk + j] = 0;
  }
  // Corrections: rate (v - decayed state's recall), minus what earlier corrections recall.
  float* u = w.u.data();
  product(w.keys.data(), K, 1, state, V, tokens, V, K, u, V, 0);
  for (long i = 0; i < tokens; i++) {
    const float b = rate[i * s.H], a = since_start[i];
    for (long c = 0; c < V; c += kLanes) {
      Floats recalled = load_floats(u + i * V + c) * a;
      store(u + i * V + c, (load_floats(v + i * s.row + c) - recalled) * b);
    }
  }
  for (long c = 0; c < V; c += kLanes)
    for (long i = 1; i < tokens; i++) {
      Floats x = load_floats(u + i * V + c), y = {};
      long j = 0;
      for (; j + 2 <= i; j += 2) {
        x -= load_floats(u + j * V + c) * w.system[i * kChunk + j];
        y -= load_floats(u + (j + 1) * V + c) * w.system[i * kChunk + j + 1];
      }
      if (j < i) x -= load_floats(u + j * V + c) * w.system[i * kChunk + j];
      store(u + i * V + c, x + y);
    }
  // Outputs: what the state before says, then what the corrections add.
  const long out_row = s.H * V;
  product(w.queries.data(), K, 1, state, V, tokens, V, K, out, out_row, 0);
  for (long i = 0; i < tokens; i++)
    for (long c = 0; c < V; c += kLanes)
      store(out + i * out_row + c, load_floats(out + i * out_row + c) * since_start[i]);
  product(w.seen.data(), kChunk, 1, u, V, tokens, V, tokens, out, out_row, 1, true);
  for (long i = 0; i < tokens; i++)
    for (long c = 0; c < K; c += kLanes)
      store(w.fading.data() + i * K + c, load_floats(w.keys.data() + i * K + c) * until_end[i]);
  product(w.fading.data(), 1, K, u, V, K, V, tokens, state, V, std::exp(float(total)));
}

template <class E>
int delta_prefill(const E* q, const E* k, const E* v, const float* log_decay, const float* rate,
             float* state, float* out, const int64_t* cu_tokens, const int64_t* slots_out,
             const int64_t* cu_segments, const int64_t* slots_in, long N, long G, long S, long H,
                  long K, long V, long row, int threads) {
  if (!are_within(slots_in, N, -1, S) || !are_within(slots_out, cu_segments[N], 0, S)) return 1;
  const Shape s{G, H, K, V, row};
  const long repeats = s.H / s.G, head_size = s.K * s.V, slot = s.H * head_size;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(s.K, s.V);
    std::vector<float> states(repeats * head_size);
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (long n = 0; n < N; n++)
      for (long g = 0; g < s.G; g++) {
        const long first_head = g * repeats;
        if (slots_in[n] < 0)
          std::fill(states.begin(), states.end(), 0.0f);
        else
          std::copy_n(state + slots_in[n] * slot + first_head * head_size, repeats * head_size,
                      states.begin());
        for (long m = cu_segments[n]; m < cu_segments[n + 1]; m++) {
          for (long t = cu_tokens[m]; t < cu_tokens[m + 1]; t += kChunk) {
            const long tokens = std::min(kChunk, cu_tokens[m + 1] - t);
            key_products(q + t * s.row + g * s.K, k + t * s.row + g * s.K, tokens, s, scratch);
            for (long r = 0; r < repeats; r++) {
              const long h = first_head + r;
              chunk(v + t * s.row + h * s.V, log_decay + t * s.H + h, rate + t * s.H + h,
                    out + (t * s.H + h) * s.V, tokens, s, states.data() + r * head_size, scratch);
            }
          }
          std::copy_n(states.begin(), repeats * head_size,
                      state + slots_out[m] * slot + first_head * head_size);
        }
      }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(delta_decode)
SEGUE_EXPORT(delta_prefill)
