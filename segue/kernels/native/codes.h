// Quantised weights as numbers: a row of codes of 8 or 4 bits, and scales for groups of its columns.
//
// Of 2 * kLanes columns, 8-bit codes give the first half and the second, 4-bit codes the even ones
// and the odd ones: a byte has an even column in its lower half and the next in its upper half.
#pragma once

#include <array>

#include "vectors.h"

namespace segue {

// A float of one byte or less: a sign, `Exponent` bits with this bias, `Mantissa` bits; without
// infinities. The codes that stand for NaN in e4m3 are read as 480: no weight has them.
template <int Exponent, int Mantissa, int Bias>
struct SmallFloat {
  static constexpr uint32_t kSign = 1u << (Exponent + Mantissa);
  static constexpr int kShift = 23 - Mantissa;

  // Exponent 0 has no leading one: the float with one is 1 << Mantissa steps too large.
  template <class U, class F, class I>
  static F decoded(U code, F) {
    const U size = code & (kSign - 1);
    const U normal = (size << kShift) + (uint32_t(127 - Bias) << 23);
    const F small = as<F>((size << kShift) | (uint32_t(128 - Bias) << 23)) - step();
    const U is_small = (U)(I)(size < (1u << Mantissa));
    const U bits = (normal & ~is_small) | (as<U>(small) & is_small);
    return as<F>(bits | ((code & kSign) << (31 - Exponent - Mantissa)));
  }
  static Floats of(Words codes) { return decoded<Words, Floats, Ints>(codes, Floats{}); }
  static float of(uint32_t code) {
    const uint32_t size = code & (kSign - 1);
    const float normal = as<float>((size << kShift) + (uint32_t(127 - Bias) << 23));
    const float small = as<float>((size << kShift) | (uint32_t(128 - Bias) << 23)) - step();
    const float value = size < (1u << Mantissa) ? small : normal;
    return code & kSign ? -value : value;
  }

 private:
  template <class To, class From>
  static To as(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
  }
  static float step() { return as<float>(uint32_t(128 - Bias) << 23); }
};

using E4m3 = SmallFloat<4, 3, 7>;
using E2m1 = SmallFloat<2, 1, 1>;

template <class Number>
inline std::array<float, 256> table_of() {
  std::array<float, 256> table;
  for (uint32_t code = 0; code < 256; code++) table[code] = Number::of(code);
  return table;
}

inline Words bytes_as_words(const uint8_t* from) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu8_epi32(load_as<__m128i>(from));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes)));
  return __builtin_convertvector(load_as<Bytes>(from), Words);
#endif
}

// Columns that a scale is for, and how many bits a code has. `kFactor` is left for the sum.
struct Int8 {
  typedef float Scale;
  static constexpr long kBits = 8, kGroup = 128;
  static constexpr float kFactor = 1;
  static void read(const uint8_t* at, Floats& first, Floats& second) {
    first = __builtin_convertvector(signed_words(at), Floats);
    second = __builtin_convertvector(signed_words(at + kLanes), Floats);
  }
  static float one(const uint8_t* row, long k) { return int8_t(row[k]); }

 private:
  static Ints signed_words(const uint8_t* from) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepi8_epi32(load_as<__m128i>(from));
#else
    return (Ints)(bytes_as_words(from) << 24) >> 24;
#endif
  }
};

struct Fp8 {
  typedef float Scale;
  static constexpr long kBits = 8, kGroup = 128;
#if defined(__AVX512BW__)
  // Shifted, e4m3 is a float16 with another bias, which the processor converts, small ones too.
  static constexpr float kFactor = 256;
  static void read(const uint8_t* at, Floats& first, Floats& second) {
    const __m512i wide = _mm512_cvtepi8_epi16(load_as<__m256i>(at));
    const __m512i halves =
        _mm512_and_si512(_mm512_slli_epi16(wide, 7), _mm512_set1_epi16(int16_t(0xbf80)));
    first = (Floats)_mm512_cvtph_ps(_mm512_castsi512_si256(halves));
    second = (Floats)_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
  }
  static float one(const uint8_t* row, long k) { return E4m3::of(row[k]) / kFactor; }
#else
  static constexpr float kFactor = 1;
  static void read(const uint8_t* at, Floats& first, Floats& second) {
    first = E4m3::of(bytes_as_words(at));
    second = E4m3::of(bytes_as_words(at + kLanes));
  }
  static float one(const uint8_t* row, long k) { return E4m3::of(row[k]); }
#endif
};

template <class Number>
struct FourBits {
  static constexpr long kBits = 4;
  static constexpr float kFactor = 1;
  static void read(const uint8_t* at, Floats& first, Floats& second) {
    const Words both = bytes_as_words(at);
#if defined(__AVX512F__)
    // A lookup uses the lowest four bits only.
    static const std::array<float, 256> kTable = table_of<Number>();
    const __m512 table = _mm512_loadu_ps(kTable.data());
    first = (Floats)_mm512_permutexvar_ps((__m512i)both, table);
    second = (Floats)_mm512_permutexvar_ps((__m512i)(both >> 4), table);
#else
    first = Number::of(both & 15);
    second = Number::of(both >> 4);
#endif
  }
  static float one(const uint8_t* row, long k) { return Number::of(row[k / 2] >> k % 2 * 4 & 15u); }
};

// Two's complement in four bits.
struct Nibble {
  static Floats of(Words codes) { return __builtin_convertvector((Ints)(codes << 28) >> 28, Floats); }
  static float of(uint32_t code) { return float(int32_t(code << 28) >> 28); }
};

struct Int4 : FourBits<Nibble> {
  typedef Bf16 Scale;
  static constexpr long kGroup = 32;
};

struct Nvfp4 : FourBits<E2m1> {
  typedef uint8_t Scale;  // In e4m3.
  static constexpr long kGroup = 16;
};

inline float scale_of(float scale) { return scale; }
inline float scale_of(Bf16 scale) { return to_float(scale); }
inline float scale_of(uint8_t scale) {
  static const std::array<float, 256> kTable = table_of<E4m3>();
  return kTable[scale];
}

// Of 2 * kLanes columns, in the order of `read`. `shift`: a column's group is column >> shift.
template <class F>
inline Floats scales_at(const typename F::Scale* scales, long k, int shift) {
  const Floats here = splat(scale_of(scales[k >> shift]));
  if constexpr (F::kGroup < 2 * kLanes) {
    static_assert(F::kBits == 4 && 2 * F::kGroup == 2 * kLanes);
    const Floats next = splat(scale_of(scales[(k >> shift) + 1]));
    Ints halves;
    for (long i = 0; i < kLanes; i++) halves[i] = i < kLanes / 2 ? i : kLanes + i;
    return __builtin_shuffle(here, next, halves);
  }
  return here;
}

// N rows of K columns, and a float for each row if `row_scales` is not null.
template <class F>
struct CodedRows {
  const uint8_t* codes;
  const typename F::Scale* scales;
  const float* row_scales;
  long K, num_scales;

  long row_bytes() const { return K * F::kBits / 8; }
  const uint8_t* row(long n) const { return codes + n * row_bytes(); }
  const typename F::Scale* scales_of(long n) const { return scales + n * num_scales; }
  float factor(long n) const { return F::kFactor * (row_scales ? row_scales[n] : 1.0f); }
  // One scale may be for all columns, however many.
  int shift() const { return num_scales == 1 ? 62 : __builtin_ctzl(F::kGroup); }
};

}  // namespace segue
