// Eight numbers at a time, for processors with AVX2 and without AVX-512.

#pragma once

#include "numbers.h"

namespace {

using Vector = __m256;

constexpr Size LANES = 8;
constexpr Size VECTORS = 2;               // of a tile's row: with 6 rows 12 of 16 registers
constexpr Size CHUNK_FLOATS = 64 * 1024;  // that a task's keys are packed into: half of an L2

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector all(float value) { return _mm256_set1_ps(value); }
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector values) { _mm256_storeu_ps(to, values); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm256_fmsub_ps(a, b, c); }
inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }  // NaN in b stays
inline bool differ(Vector a, Vector b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ));
}
inline float add_up(Vector values) {
  alignas(32) float numbers[LANES];
  _mm256_store_ps(numbers, values);
  float total = 0;
  for (float number : numbers) total += number;
  return total;
}

inline __m256i first_lanes(Size count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first `count` of 8 numbers; the others are zero.
inline Vector load(const float* from, Size count) {
  return _mm256_maskload_ps(from, first_lanes(count));
}
inline Vector load(const BFloat16* from, Size count) {
  alignas(16) BFloat16 numbers[LANES] = {};
  std::memcpy(numbers, from, sizeof(BFloat16) * count);
  const __m128i bits = _mm_load_si128(reinterpret_cast<const __m128i*>(numbers));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store(float* to, Vector values, Size count) {
  _mm256_maskstore_ps(to, first_lanes(count), values);
}
inline void store(BFloat16* to, Vector values, Size count) {  // to the nearest, ties to even
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i upper =
      _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(0x7fc0), nan);
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
  alignas(16) BFloat16 numbers[LANES];
  _mm_store_si128(reinterpret_cast<__m128i*>(numbers), packed);
  std::memcpy(to, numbers, sizeof(BFloat16) * count);
}

inline Vector nearest_integers(Vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// value 2^whole, for whole numbers from -126 to 127: the exponent's bits of a float.
inline Vector times_power_of_two(Vector value, Vector whole) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return value * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

// 8 x 8 numbers, rows for columns.
inline void transpose(Vector (&rows)[LANES]) {
  Vector pairs[LANES];
#pragma GCC unroll 4
  for (int i = 0; i < LANES; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  Vector fours[LANES];  // of rows 4 i to 4 i + 3, column j of each half
#pragma GCC unroll 2
  for (int i = 0; i < LANES; i += 4) {
    fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
    fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
  }
}

}  // namespace
