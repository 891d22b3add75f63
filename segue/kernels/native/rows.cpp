// Operators that work row by row: norms, gates, and what attention gets of its projection.
#include <algorithm>

#include "e4m3.h"
#include "operators.h"
#include "vectors.h"

namespace segue {
namespace {

// Rows that one thread takes are worth waking the others from some 16,000 numbers on.
inline int threads_for(long numbers, int threads) { return numbers < (1 << 14) ? 1 : threads; }

template <class E>
inline float mean_square_scale(const E* x, long H, float eps) {
  Floats squares = {};
  for (long i = 0; i < H; i += kLanes) {
    Floats v = load_some(x + i, H - i);
    squares += v * v;
  }
  return 1.0f / std::sqrt(sum(squares) / H + eps);
}

// out = norm(x + y) (1 + weight); the sum is rounded to E before. No y: norm(x).
template <class E>
int add_rms_norm(const E* x, const E* y, const float* weight, E* total, E* out, long T, long H,
                  long x_stride, long out_stride, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(T * H, threads))
  for (long t = 0; t < T; t++) {
    const E* row = x + t * x_stride;
    if (y) {
      for (long i = 0; i < H; i += kLanes)
        store_some(total + t * H + i, load_some(row + i, H - i) + load_some(y + t * H + i, H - i),
                   H - i);
      row = total + t * H;
    }
    const float scale = mean_square_scale(row, H, eps);
    for (long i = 0; i < H; i += kLanes) {
      Floats normed = load_some(row + i, H - i) * scale;
      store_some(out + t * out_stride + i, normed * load_some(weight + i, H - i) + normed, H - i);
    }
  }
  return 0;
}

}  // namespace

// out = norm(x) weight silu(gate), for N heads of V numbers in each of T rows.
template <class E>
int gated_rms_norm(const float* x, const E* gate, const float* weight, E* out, long T, long N,
                    long V, long gate_stride, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(T * N * V, threads))
  for (long row = 0; row < T * N; row++) {
    const float* from = x + row * V;
    const E* gates = gate + row / N * gate_stride + row % N * V;
    const float scale = mean_square_scale(from, V, eps);
    for (long i = 0; i < V; i += kLanes) {
      Floats g = load_some(gates + i, V - i);
      Floats normed = load_some(from + i, V - i) * scale * load_some(weight + i, V - i);
      store_some(out + row * V + i, normed * (g * sigmoid(g)), V - i);
    }
  }
  return 0;
}

namespace {

template <class E>
int silu_gate(const E* gate_up, E* out, long T, long I, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(T * I, threads))
  for (long t = 0; t < T; t++)
    for (long i = 0; i < I; i += kLanes) {
      Floats gate = load_some(gate_up + 2 * t * I + i, I - i);
      Floats up = load_some(gate_up + 2 * t * I + I + i, I - i);
      store_some(out + t * I + i, gate * sigmoid(gate) * up, I - i);
    }
  return 0;
}

// out = x sigmoid(gate), for Q heads of X numbers in each of T rows.
template <class E>
int sigmoid_gate(const E* x, const E* gate, E* out, long T, long Q, long X, long gate_row,
                  long gate_head, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(T * Q * X, threads))
  for (long row = 0; row < T * Q; row++) {
    const E* gates = gate + row / Q * gate_row + row % Q * gate_head;
    for (long i = 0; i < X; i += kLanes) {
      Floats open = sigmoid(load_some(gates + i, X - i));
      store_some(out + row * X + i, load_some(x + row * X + i, X - i) * open, X - i);
    }
  }
  return 0;
}

}  // namespace

template <class E>
int decay_and_rate(const E* dt, const E* rate, const float* minus_a, const float* dt_bias,
                    float* log_decay, float* rate_out, long T, long N, long stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(16 * T * N, threads))
  for (long t = 0; t < T; t++)
    for (long n = 0; n < N; n++) {
      const float x = to_float(dt[t * stride + n]) + dt_bias[n];
      const float softplus = x > 20.0f ? x : std::log1p(std::exp(x));
      log_decay[t * N + n] = softplus * minus_a[n];
      rate_out[t * N + n] = 1.0f / (1.0f + std::exp(-to_float(rate[t * stride + n])));
    }
  return 0;
}

namespace {

// One head of X numbers: norm, then rotation of the first R.
template <class E, class Out>
inline void norm_and_rotate(const E* x, const float* weight, const float* cos, const float* sin,
                            Out* out, long X, long R, float eps) {
  float normed[1024];
  const float scale = mean_square_scale(x, X, eps);
  for (long i = 0; i < X; i += kLanes) {
    Floats v = load_some(x + i, X - i) * scale;
    store_some(normed + i, v * load_some(weight + i, X - i) + v, X - i);
  }
  const long half = R / 2;
  float turned[1024];
  for (long i = 0; i < R; i++)
    turned[i] = normed[i] * cos[i] + normed[i < half ? i + half : i - half] * sin[i];
  std::copy(turned, turned + R, normed);
  for (long i = 0; i < X; i += kLanes) store_some(out + i, load_some(normed + i, X - i), X - i);
}

// Codes of numbers times `by`.
template <class E>
inline void encode(const E* from, float by, E4m3* to, long count) {
  for (long i = 0; i < count; i++) to[i] = to_e4m3(to_float(from[i]) * by);
}

// Rows of a projection: Q times a query and its gate, G keys, G values. Queries go to `q`, keys and
// values to their pages [Z, 2, G, O, X], or times `k_by` and `v_by` to e4m3 codes there.
template <class E>
int attention_input(const E* packed, const float* q_norm, const float* k_norm, const float* cos,
                    const float* sin, E* q, void* pages, const int64_t* page_of,
                    const int64_t* offset_of, long T, long Q, long G, long X, long R, long O,
                    long Z, float eps, long is_e4m3, float k_by, float v_by, int threads) {
  if (!are_within(page_of, T, 0, Z) || !are_within(offset_of, T, 0, O)) return 1;
  const long heads = 2 * Q + 2 * G;
#pragma omp parallel for schedule(static) num_threads(threads_for(T * heads * X, threads))
  for (long t = 0; t < T; t++) {
    const E* row = packed + t * heads * X;
    const float *c = cos + t * R, *s = sin + t * R;
    for (long n = 0; n < Q; n++)
      norm_and_rotate(row + 2 * n * X, q_norm, c, s, q + (t * Q + n) * X, X, R, eps);
    for (long g = 0; g < G; g++) {
      const long place = ((page_of[t] * 2 * G + g) * O + offset_of[t]) * X;
      const E *key = row + (2 * Q + g) * X, *value = key + G * X;
      if (is_e4m3) {
        E4m3* codes = (E4m3*)pages + place;
        float turned[1024];
        norm_and_rotate(key, k_norm, c, s, turned, X, R, eps);
        encode(turned, k_by, codes, X);
        encode(value, v_by, codes + G * O * X, X);
      } else {
        E* keys = (E*)pages + place;
        norm_and_rotate(key, k_norm, c, s, keys, X, R, eps);
        std::memcpy(keys + G * O * X, value, X * sizeof(E));
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(add_rms_norm)
SEGUE_EXPORT(gated_rms_norm)
SEGUE_EXPORT(silu_gate)
SEGUE_EXPORT(sigmoid_gate)
SEGUE_EXPORT(decay_and_rate)
SEGUE_EXPORT(attention_input)
