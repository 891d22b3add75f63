// Products of many rows with panels: columns of the right side in the order in which the inner loop
// reads them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "vectors.h"

namespace segue {

// What the inner loop multiplies: pairs of bfloat16 by their own instruction, or floats.
struct Pairs {
  typedef uint32_t Input;  // Two neighbours of a row of x.
  static Floats add(Floats sum, Input a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(Words{} + a), (__m512bh)b);
#else
    return sum;  // Never called: `Singles` takes its place.
#endif
  }
};

struct Singles {
  typedef float Input;
  static Floats add(Floats sum, Input a, Words b) { return splat(a) * (Floats)b + sum; }
};

constexpr int kVectors = SEGUE_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int kPanelRows = 6;
constexpr long kPanel = kVectors * kLanes;  // Columns.

// C rows of x times one panel of `words` steps, added to what is in `sums` or in place of it.
template <class M, int C>
inline void panel_product(const typename M::Input* x, long x_stride, const uint32_t* panel,
                          long words, float* sums, bool adds) {
  Floats acc[C][kVectors];
  for (int c = 0; c < C; c++)
    for (int v = 0; v < kVectors; v++)
      acc[c][v] = adds ? load_as<Floats>(sums + c * kPanel + v * kLanes) : Floats{};
  for (long k = 0; k < words; k++) {
    Words weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; v++)
      weights[v] = load_as<Words>(panel + k * kPanel + v * kLanes);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
      typename M::Input input = x[c * x_stride + k];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v++) acc[c][v] = M::add(acc[c][v], input, weights[v]);
    }
  }
  for (int c = 0; c < C; c++)
    for (int v = 0; v < kVectors; v++) store(sums + c * kPanel + v * kLanes, acc[c][v]);
}

template <class M>
inline void panel_rows(int rows, const typename M::Input* x, long x_stride, const uint32_t* panel,
                       long words, float* sums, bool adds) {
  switch (rows) {
    case 6: return panel_product<M, 6>(x, x_stride, panel, words, sums, adds);
    case 5: return panel_product<M, 5>(x, x_stride, panel, words, sums, adds);
    case 4: return panel_product<M, 4>(x, x_stride, panel, words, sums, adds);
    case 3: return panel_product<M, 3>(x, x_stride, panel, words, sums, adds);
    case 2: return panel_product<M, 2>(x, x_stride, panel, words, sums, adds);
    case 1: return panel_product<M, 1>(x, x_stride, panel, words, sums, adds);
  }
}

// Transposes kLanes x kLanes words in registers: in log2 steps, swap the blocks off the diagonal.
inline void transpose(Words block[kLanes]) {
#pragma GCC unroll 5
  for (long d = 1; d < kLanes; d *= 2) {
    Words upper, lower;  // Lane indexes into (a, b).
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++) {
      upper[i] = (i & d) ? kLanes + i - d : i;
      lower[i] = (i & d) ? kLanes + i : i + d;
    }
#pragma GCC unroll 16
    for (long i = 0; i < kLanes; i++)
      if (!(i & d)) {
        Words a = block[i], b = block[i + d];
        block[i] = __builtin_shuffle(a, b, upper);
        block[i + d] = __builtin_shuffle(a, b, lower);
      }
  }
}

// A whole block of kLanes outputs and kLanes words.
inline void arrange_block(const uint32_t* w, long stride, bool widens, uint32_t* panel) {
  Words block[kLanes];
#pragma GCC unroll 16
  for (long i = 0; i < kLanes; i++) block[i] = load_as<Words>(w + i * stride);
  transpose(block);
  if (widens) {
#pragma GCC unroll 16
    for (long j = 0; j < kLanes; j++) {
      store(panel + 2 * j * kPanel, block[j] << 16);
      store(panel + (2 * j + 1) * kPanel, block[j] & 0xffff0000u);
    }
  } else {
#pragma GCC unroll 16
    for (long j = 0; j < kLanes; j++) store(panel + j * kPanel, block[j]);
  }
}

// A panel's weights word by word: [words, kPanel] from [outputs, words] by rows, zeros for outputs
// that do not exist. `widens`: a word is two bfloat16, and becomes two floats.
inline void arrange(const uint32_t* w, long stride, long outputs, long words, bool widens,
                    uint32_t* panel) {
  const long copies = widens ? 2 : 1;
  for (long n = 0; n < kPanel; n += kLanes)
    for (long k = 0; k < words; k += kLanes) {
      uint32_t* to = panel + k * copies * kPanel + n;
      const long height = std::min(kLanes, outputs - n), width = std::min(kLanes, words - k);
      if (height == kLanes && width == kLanes) {
        arrange_block(w + n * stride + k, stride, widens, to);
        continue;
      }
      uint32_t edge[kLanes * kLanes] = {}, turned[2 * kLanes * kPanel];
      for (long i = 0; i < height; i++)
        for (long j = 0; j < width; j++) edge[i * kLanes + j] = w[(n + i) * stride + k + j];
      arrange_block(edge, kLanes, widens, turned);
      for (long j = 0; j < width * copies; j++)
        std::memcpy(to + j * kPanel, turned + j * kPanel, kLanes * 4);
    }
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class T>
std::unique_ptr<T[], Free> aligned(long count) {
  long bytes = (count * long(sizeof(T)) + 63) / 64 * 64;
  return std::unique_ptr<T[], Free>((T*)std::aligned_alloc(64, std::max(bytes, 64L)));
}

}  // namespace segue
