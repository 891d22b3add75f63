// Rows of codes times rows of bfloat16, for processors with a dot product of pairs (AVX512_BF16) and
// lookups of bytes (AVX512_VBMI).
//
// A code is looked up as the two bytes of a bfloat16, which has every number of these formats
// exactly. Scales multiply a group's sum instead of its weights, so no weight is rounded. Chunks of
// 128 columns are read in the order in which the lookups leave them, and x is arranged in that order.
#pragma once

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#define SEGUE_CODED_PAIRS 1

#include "codes.h"

namespace segue {
namespace pairs {

constexpr long kChunk = 128;

inline __m512 added(__m512 sum, __m512i weights, const Bf16* x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_loadu_si512(x));
}

// Byte `index` (0: low) of the bfloat16 of the first 128 codes, or of 16 codes eight times.
template <class Number, int kCodes>
inline std::array<uint8_t, 128> bytes_of(int index) {
  std::array<uint8_t, 128> bytes;
  for (uint32_t code = 0; code < 128; code++)
    bytes[code] = uint8_t(to_bf16(Number::of(code % kCodes)) >> (8 * index));
  return bytes;
}

// Of 8-bit codes with the sign in the highest bit. `Size` is what the other seven stand for.
template <class Size, bool kTwosComplement>
struct Bytes {
  static constexpr long kBytes = 128;

  Bytes() {
    static const auto low = bytes_of<Size, 128>(0), high = bytes_of<Size, 128>(1);
    for (int half = 0; half < 2; half++) {
      low_[half] = load_as<__m512i>(low.data() + 64 * half);
      high_[half] = load_as<__m512i>(high.data() + 64 * half);
    }
  }

  // The column of the chunk that is read as number i.
  static long column(long i) { return i / 64 * 64 + i % 32 / 8 * 16 + i / 32 % 2 * 8 + i % 8; }

  template <int C>
  void add(const uint8_t* codes, const float* scales, const Bf16* x, long stride,
           __m512* sums, int step) const {
    __m512 parts[C];
    for (int c = 0; c < C; c++) parts[c] = _mm512_setzero_ps();
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const __m512i code = load_as<__m512i>(codes + 64 * half);
      const __m512i size = kTwosComplement ? _mm512_abs_epi8(code) : code;
      const __m512i low = _mm512_permutex2var_epi8(low_[0], size, low_[1]);
      __m512i high = _mm512_permutex2var_epi8(high_[0], size, high_[1]);
      // high | (code & sign)
      high = _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8(int8_t(0x80)), 0xf8);
      const __m512i even = _mm512_unpacklo_epi8(low, high), odd = _mm512_unpackhi_epi8(low, high);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        parts[c] = added(parts[c], even, x + c * stride + 64 * half);
        parts[c] = added(parts[c], odd, x + c * stride + 64 * half + 32);
      }
    }
    const __m512 scale = _mm512_set1_ps(*scales);
    for (int c = 0; c < C; c++) sums[c * step] = _mm512_fmadd_ps(parts[c], scale, sums[c * step]);
  }

 private:
  __m512i low_[2], high_[2];
};

// Of 4-bit codes. A lookup ignores what else is in the byte, as its table repeats.
template <class Number>
struct Halves {
  static constexpr long kBytes = 64;

  Halves() {
    static const auto low = bytes_of<Number, 16>(0), high = bytes_of<Number, 16>(1);
    low_ = load_as<__m512i>(low.data());
    high_ = load_as<__m512i>(high.data());
  }

  static long column(long i) { return 2 * (i % 32 / 8 * 16 + i / 32 % 2 * 8 + i % 8) + i / 64; }

  // Of the first and the second 8 bytes of each 16: 16 columns each.
  template <int C>
  void products(const uint8_t* codes, const Bf16* x, long stride, __m512* first,
                __m512* second) const {
    __m512i code = load_as<__m512i>(codes);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const __m512i low = _mm512_permutexvar_epi8(code, low_);
      const __m512i high = _mm512_permutexvar_epi8(code, high_);
      const __m512i before = _mm512_unpacklo_epi8(low, high);
      const __m512i after = _mm512_unpackhi_epi8(low, high);
#pragma GCC unroll 4
      for (int c = 0; c < C; c++) {
        first[c] = added(first[c], before, x + c * stride + 64 * half);
        second[c] = added(second[c], after, x + c * stride + 64 * half + 32);
      }
      code = _mm512_srli_epi16(code, 4);
    }
  }

 private:
  __m512i low_, high_;
};

struct Number7 {
  static float of(uint32_t code) { return float(code); }
};

template <class F>
struct Reader;

template <>
struct Reader<Int8> : Bytes<Number7, true> {
  static constexpr float kFactor = 1;
};

template <>
struct Reader<Fp8> : Bytes<E4m3, false> {
  static constexpr float kFactor = 1;
};

template <>
struct Reader<Int4> : Halves<Nibble> {
  static constexpr float kFactor = 1;

  template <int C>
  void add(const uint8_t* codes, const Bf16* scales, const Bf16* x, long stride,
           __m512* sums, int step) const {
    __m512 parts[C];
    for (int c = 0; c < C; c++) parts[c] = _mm512_setzero_ps();
    products<C>(codes, x, stride, parts, parts);
    // Each 16 bytes have 32 columns, so a scale is for four lanes, as the upper half of a float.
    const __m512i spread = _mm512_set_epi32(
        0x07068080, 0x07068080, 0x07068080, 0x07068080, 0x05048080, 0x05048080, 0x05048080,
        0x05048080, 0x03028080, 0x03028080, 0x03028080, 0x03028080, 0x01008080, 0x01008080,
        0x01008080, 0x01008080);
    const __m512i four = _mm512_set1_epi64(load_as<int64_t>(scales));
    const __m512 scale = (__m512)_mm512_shuffle_epi8(four, spread);
    for (int c = 0; c < C; c++) sums[c * step] = _mm512_fmadd_ps(parts[c], scale, sums[c * step]);
  }
};

template <>
struct Reader<Nvfp4> : Halves<E2m1> {
  static constexpr float kFactor = 256;  // Scales are read as float16, with another bias.

  template <int C>
  void add(const uint8_t* codes, const uint8_t* scales, const Bf16* x, long stride,
           __m512* sums, int step) const {
    __m512 first[C], second[C];
    for (int c = 0; c < C; c++) first[c] = second[c] = _mm512_setzero_ps();
    products<C>(codes, x, stride, first, second);
    const __m128i eight = _mm_set1_epi64x(load_as<int64_t>(scales));
    const __m128i halves = _mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(eight), 7),
                                         _mm_set1_epi16(int16_t(0xbf80)));
    const __m512 eight_floats = _mm512_cvtph_ps(_mm256_castsi128_si256(halves));
    const __m512i lanes = _mm512_set_epi32(6, 6, 6, 6, 4, 4, 4, 4, 2, 2, 2, 2, 0, 0, 0, 0);
    const __m512 even = _mm512_permutexvar_ps(lanes, eight_floats);
    const __m512 odd = _mm512_permutexvar_ps(_mm512_or_si512(lanes, _mm512_set1_epi32(1)),
                                             eight_floats);
    for (int c = 0; c < C; c++)
      sums[c * step] =
          _mm512_fmadd_ps(second[c], odd, _mm512_fmadd_ps(first[c], even, sums[c * step]));
  }
};

// The last columns of a row, with zeros after them: a whole chunk.
template <class F>
struct LastChunk {
  uint8_t codes[Reader<F>::kBytes] = {};
  typename F::Scale scales[kChunk / F::kGroup] = {};

  LastChunk(const CodedRows<F>& w, long n, long k) {
    std::memcpy(codes, w.row(n) + k * F::kBits / 8, w.row_bytes() - k * F::kBits / 8);
    for (long i = 0; i < kChunk / F::kGroup; i++) {
      const long group = w.num_scales == 1 ? 0 : k / F::kGroup + i;
      if (group < w.num_scales) scales[i] = w.scales_of(n)[group];
    }
  }
};

// Rows of x in the order in which a chunk is read, with zeros to the end of the last one.
template <class F>
void arrange_inputs(const Bf16* x, Bf16* out, long T, long K, long stride) {
  for (long t = 0; t < T; t++)
    for (long k = 0; k < stride; k += kChunk)
      for (long i = 0; i < kChunk; i++) {
        const long column = k + Reader<F>::column(i);
        out[t * stride + k + i] = column < K ? x[t * K + column] : Bf16(0);
      }
}

// R weight rows from row n times C rows of x, which have `stride` numbers each: zeros after the K of
// a weight row. The next R rows are requested while these are read.
template <class F, int R, int C, class E>
inline void dots(const Bf16* x, long stride, const CodedRows<F>& w, long n, E* y, long N) {
  static_assert(R * C <= kLanes);
  const Reader<F> reader;
  const bool is_one = w.num_scales == 1;  // Of 8-bit codes, for any number of columns.
  __m512 sums[kLanes];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  long k = 0;
  for (; k + kChunk <= w.K; k += kChunk) {
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const uint8_t* at = w.row(n + r) + k * F::kBits / 8;
      for (long byte = 0; byte < Reader<F>::kBytes; byte += 64)
        __builtin_prefetch(at + R * w.row_bytes() + byte, 0, 2);
      const auto* scales = w.scales_of(n + r) + (is_one ? 0 : k / F::kGroup);
      reader.template add<C>(at, scales, x + k, stride, sums + r, R);
    }
  }
  if (k < w.K)
    for (int r = 0; r < R; r++) {
      const LastChunk<F> last(w, n + r, k);
      reader.template add<C>(last.codes, last.scales, x + k, stride, sums + r, R);
    }
  float totals[kLanes];
  store(totals, sums_of((const Floats*)sums));
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) {
      const float factor = Reader<F>::kFactor * (w.row_scales ? w.row_scales[n + r] : 1.0f);
      from_float(totals[c * R + r] * factor, y + c * N + n + r);
    }
}

}  // namespace pairs
}  // namespace segue
#endif
