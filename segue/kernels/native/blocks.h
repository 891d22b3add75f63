// Products of small matrices that are in a core's own cache, in float32.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace segue {
namespace blocks {

// c [M, N] = scale c + a b, in registers of C rows and `columns` vectors. Row m, step k of a is
// at a[m * a_row + k * a_step]; b is [steps, N].
template <int C, long columns, class B>
inline void block_product(const float* a, long a_row, long a_step, const B* b, long b_row,
                          long steps, float* c, long c_row, float scale) {
  Floats acc[C][columns];
  for (int m = 0; m < C; m++)
    for (long v = 0; v < columns; v++)
      acc[m][v] = scale == 0 ? Floats{} : load_floats(c + m * c_row + v * kLanes) * scale;
  for (long k = 0; k < steps; k++) {
    Floats right[columns];
#pragma GCC unroll 4
    for (long v = 0; v < columns; v++) right[v] = load_floats(b + k * b_row + v * kLanes);
#pragma GCC unroll 6
    for (int m = 0; m < C; m++) {
      const Floats left = splat(a[m * a_row + k * a_step]);
#pragma GCC unroll 4
      for (long v = 0; v < columns; v++) acc[m][v] = left * right[v] + acc[m][v];
    }
  }
  for (int m = 0; m < C; m++)
    for (long v = 0; v < columns; v++) store(c + m * c_row + v * kLanes, acc[m][v]);
}

constexpr int kRows = SEGUE_VECTOR_BYTES == 64 ? 6 : 4;
constexpr long kWide = SEGUE_VECTOR_BYTES == 64 ? 4 : 2;

// As `block_product`, for any M and any N of whole vectors. `is_lower`: a is lower triangular.
template <class B>
inline void product(const float* a, long a_row, long a_step, const B* b, long b_row, long M, long N,
                    long steps, float* c, long c_row, float scale, bool is_lower = false) {
  for (long m = 0; m < M; m += kRows) {
    const long rows = std::min<long>(kRows, M - m);
    const long depth = is_lower ? std::min(steps, m + rows) : steps;
    long n = 0;
    while (n < N) {
      const bool is_wide = N - n >= kWide * kLanes;
      const float* left = a + m * a_row;
      const B* right = b + n;
      float* into = c + m * c_row + n;
#define SEGUE_ROWS(C)                                                                             \
  case C:                                                                                         \
    if (is_wide)                                                                                  \
      block_product<C, kWide>(left, a_row, a_step, right, b_row, depth, into, c_row, scale);      \
    else                                                                                          \
      block_product<C, 1>(left, a_row, a_step, right, b_row, depth, into, c_row, scale);          \
    break;
      switch (rows) {
        SEGUE_ROWS(1) SEGUE_ROWS(2) SEGUE_ROWS(3) SEGUE_ROWS(4) SEGUE_ROWS(5) SEGUE_ROWS(6)
      }
#undef SEGUE_ROWS
      n += is_wide ? kWide * kLanes : kLanes;
    }
  }
}

}  // namespace blocks
}  // namespace segue
