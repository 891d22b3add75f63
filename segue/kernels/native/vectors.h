// Vectors of the widest kind that the compiler was told to use, and bfloat16.
//
// Written with the compiler's vector types, so that one source serves AVX-512, AVX2 and NEON. The
// only instructions used by name are the bfloat16 dot product and rounding of AVX-512.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define SEGUE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SEGUE_VECTOR_BYTES 32
#else
#define SEGUE_VECTOR_BYTES 16
#endif

// For Python: pointers to an operator's functions, by names that end with the dtype. They return 0,
// or 1 if an index was out of range and nothing was done.
#define SEGUE_EXPORT(NAME)                                                                        \
  extern "C" __attribute__((visibility("default"), used)) auto* const segue_##NAME##_float =      \
      &segue::NAME<float>;                                                                        \
  extern "C" __attribute__((visibility("default"), used)) auto* const segue_##NAME##_bf16 =       \
      &segue::NAME<segue::Bf16>;

namespace segue {

using Bf16 = uint16_t;
typedef float Floats __attribute__((vector_size(SEGUE_VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(SEGUE_VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(SEGUE_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(SEGUE_VECTOR_BYTES / 2)));
constexpr long kLanes = SEGUE_VECTOR_BYTES / 4;

template <class V>
inline V load_as(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
inline void store(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

inline Floats splat(float x) { return Floats{} + x; }

inline float to_float(float x) { return x; }
inline float to_float(Bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Rounds to the nearest, ties to even, as PyTorch does; NaN stays NaN.
inline Bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return Bf16((bits >> 16) | 0x40);
  return Bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void from_float(float x, float* to) { *to = x; }
inline void from_float(float x, Bf16* to) { *to = to_bf16(x); }

inline Floats load_floats(const float* from) { return load_as<Floats>(from); }
inline Floats load_floats(const Bf16* from) {
#if defined(__AVX512F__)
  // GCC 12 makes two halves of `__builtin_convertvector`.
  return (Floats)((Words)_mm512_cvtepu16_epi32(load_as<__m256i>(from)) << 16);
#else
  return (Floats)(__builtin_convertvector(load_as<Halves>(from), Words) << 16);
#endif
}

inline void store_floats(float* to, Floats x) { store(to, x); }
inline void store_floats(Bf16* to, Floats x) {
#if defined(__AVX512BF16__)
  return store(to, _mm512_cvtneps_pbh((__m512)x));
#else
  Words bits = (Words)x;
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Words nan = (bits >> 16) | 0x40;
  Words is_nan = (Words)((bits & 0x7fffffff) > 0x7f800000);
  store(to, __builtin_convertvector((rounded & ~is_nan) | (nan & is_nan), Halves));
#endif
}

// The first `count` elements, then zeros.
template <class E>
inline Floats load_some(const E* from, long count) {
  if (count >= kLanes) return load_floats(from);
  float parts[kLanes] = {};
  for (long i = 0; i < count; i++) parts[i] = to_float(from[i]);
  return load_as<Floats>(parts);
}

template <class E>
inline void store_some(E* to, Floats x, long count) {
  if (count >= kLanes) return store_floats(to, x);
  for (long i = 0; i < count; i++) from_float(x[i], to + i);
}

inline float sum(Floats x) {
  float parts[kLanes];
  store(parts, x);
  for (long width = kLanes / 2; width > 0; width /= 2)
    for (long i = 0; i < width; i++) parts[i] += parts[i + width];
  return parts[0];
}

// Lanes 2 j and 2 j + 1, ... of two vectors added up in pairs `D` apart: a's where lane & D is 0.
template <long D>
inline Floats fold(Floats a, Floats b) {
  Ints upper, lower;
  for (long i = 0; i < kLanes; i++) {
    upper[i] = int32_t((i & D) ? kLanes + i - D : i);
    lower[i] = int32_t((i & D) ? kLanes + i : i + D);
  }
  return __builtin_shuffle(a, b, upper) + __builtin_shuffle(a, b, lower);
}

// Lane i: the sum of vector i. Each is added up in the same order, whichever the others are.
template <long D = 1>
inline Floats sums_of(const Floats* x) {
  if constexpr (D == kLanes) {
    return x[0];
  } else {
    Floats folded[kLanes / 2 / D];
    for (long i = 0; i < kLanes / 2 / D; i++) folded[i] = fold<D>(x[2 * i], x[2 * i + 1]);
    return sums_of<2 * D>(folded);
  }
}

inline float largest(Floats x) {
  float most = x[0];
  for (long i = 1; i < kLanes; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// Whether all of these are from `least` to below `end`. Without it, a wrong index would write into
// other memory of the process.
inline bool are_within(const int64_t* indexes, long count, long least, long end) {
  for (long i = 0; i < count; i++)
    if (indexes[i] < least || indexes[i] >= end) return false;
  return true;
}

// exp within two units of the last place between -87 and 88, and clipped to these; NaN stays NaN.
// 2^f of the fraction is a polynomial of Cephes (Moshier).
inline Floats exp(Floats x) {
  const Floats low = splat(-87.3f), high = splat(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Floats magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer.
  const Floats shifted = x * 1.44269504f + magic;
  const Floats n = shifted - magic;
  Floats r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  // The integer is in the low bits of `shifted`.
  return p * (Floats)(((Ints)shifted + (127 - 0x4b400000)) << 23);
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

// A dot product, some elements at a time. `Step` is how many elements one call takes.
template <class E>
struct Dot;

template <>
struct Dot<float> {
  typedef Floats Vector;
  static constexpr long kStep = kLanes;
  static Floats add(Floats sum, Vector a, Vector b) { return a * b + sum; }
};

template <>
struct Dot<Bf16> {
  typedef Words Vector;
  static constexpr long kStep = 2 * kLanes;
  static Floats add(Floats sum, Vector a, Vector b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    // A word holds two numbers; order does not matter as long as both sides have the same.
    Floats low = (Floats)(a << 16) * (Floats)(b << 16) + sum;
    return (Floats)(a & 0xffff0000u) * (Floats)(b & 0xffff0000u) + low;
#endif
  }
};

}  // namespace segue
