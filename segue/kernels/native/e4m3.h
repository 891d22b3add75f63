// Numbers of eight bits: a sign, four bits of exponent with bias 7, three of mantissa. No infinity;
// all ones is NaN.
#pragma once

#include "vectors.h"

namespace segue {

using E4m3 = uint8_t;
typedef uint8_t Bytes __attribute__((vector_size(SEGUE_VECTOR_BYTES / 4)));

inline Floats load_floats(const E4m3* from) {
#if defined(__AVX512F__)
  const Words codes = (Words)_mm512_cvtepu8_epi32(load_as<__m128i>(from));
#else
  const Words codes = __builtin_convertvector(load_as<Bytes>(from), Words);
#endif
  const Words magnitude = codes & 0x7f, bits = (magnitude << 20) + (120u << 23);
  // Exponent 0: multiples of 2^-9, here what is added to 2^-6.
  const Words small = (Words)((Floats)(bits + (1u << 23)) - 0x1p-6f);
  const Words is_small = (Words)(magnitude < 8), is_nan = (Words)(magnitude == 0x7f);
  const Words found = (is_small & small) | (~is_small & bits) | (is_nan & 0x7fc00000u);
  return (Floats)(found | (codes & 0x80) << 24);
}

// The nearest number, of two the even one; the largest, 448, beyond it. NaN stays NaN.
inline E4m3 to_e4m3(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 24 & 0x80;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return E4m3(sign | 0x7f);
  if (bits >= 0x43e00000) return E4m3(sign | 0x7e);
  if (bits < (121u << 23)) {
    // Below 2^-6 codes are multiples of 2^-9, which is what this sum is rounded to.
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    const float shifted = magnitude + 24576.0f;
    std::memcpy(&bits, &shifted, 4);
    return E4m3(sign | (bits - 0x46c00000));
  }
  return E4m3(sign | (((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120u << 3)));
}

// What pages have: numbers of the activations' type, or codes.
template <class E>
struct Stored {
  void* at;
  bool is_e4m3;

  // `count` numbers from number `first` on, a multiple of a vector's. Codes are decoded into
  // `memory`, which loses nothing.
  const E* numbers(long first, long count, E* memory) const {
    if (!is_e4m3) return (const E*)at + first;
    const E4m3* codes = (const E4m3*)at + first;
    for (long i = 0; i < count; i += kLanes) store_floats(memory + i, load_floats(codes + i));
    return memory;
  }
};

}  // namespace segue
