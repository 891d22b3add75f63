// Operators that other operators call. Each is defined and explained in the file named here.
#pragma once

#include <cstdint>

namespace segue {

// convolution.cpp
template <class E>
int conv_decode(const E* x, const float* weight, E* state, E* out, const int64_t* slots_in,
                const int64_t* slots_out, const int64_t* round_sizes, long rounds, long C, long W,
                long x_stride, long S, int threads);

// delta_decode.cpp
template <class E>
int delta_decode(const E* q, const E* k, const E* v, const float* log_decay, const float* rate,
                 float* state, float* out, const int64_t* slots_in, const int64_t* slots_out,
                 const int64_t* round_sizes, long rounds, long G, long S, long H, long K, long V,
                 long row, int threads);

// rows.cpp
template <class E>
int decay_and_rate(const E* dt, const E* rate, const float* minus_a, const float* dt_bias,
                   float* log_decay, float* rate_out, long T, long N, long stride, int threads);

template <class E>
int gated_rms_norm(const float* x, const E* gate, const float* weight, E* out, long T, long N,
                   long V, long gate_stride, float eps, int threads);

}  // namespace segue
