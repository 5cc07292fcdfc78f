// Sixteen numbers at a time, for processors with AVX-512.

#pragma once

#include "numbers.h"

namespace {

using Vector = __m512;

constexpr Size LANES = 16;
constexpr Size VECTORS = 4;                // of a tile's row: with 6 rows 24 of 32 registers
constexpr Size CHUNK_FLOATS = 256 * 1024;  // that a task's keys are packed into: half of an L2

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector all(float value) { return _mm512_set1_ps(value); }
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector values) { _mm512_storeu_ps(to, values); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm512_fmsub_ps(a, b, c); }
inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }  // NaN in b stays
inline bool differ(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
inline float add_up(Vector values) { return _mm512_reduce_add_ps(values); }

// The first `count` of 16 numbers; the others are zero.
inline Vector load(const float* from, Size count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
inline Vector load(const BFloat16* from, Size count) {
  alignas(32) BFloat16 numbers[LANES] = {};
  std::memcpy(numbers, from, sizeof(BFloat16) * count);
  const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(numbers));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store(float* to, Vector values, Size count) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), values);
}
inline void store(BFloat16* to, Vector values, Size count) {  // to the nearest, ties to even
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i upper =
      _mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, _mm512_set1_epi32(0x7fc0));
  alignas(32) BFloat16 numbers[LANES];
  _mm256_store_si256(reinterpret_cast<__m256i*>(numbers), _mm512_cvtepi32_epi16(upper));
  std::memcpy(to, numbers, sizeof(BFloat16) * count);
}

inline Vector nearest_integers(Vector x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// value 2^whole, for whole numbers.
inline Vector times_power_of_two(Vector value, Vector whole) { return _mm512_scalef_ps(value, whole); }

// 16 x 16 numbers, rows for columns.
inline void transpose(Vector (&rows)[LANES]) {
  Vector pairs[LANES];
#pragma GCC unroll 8
  for (int i = 0; i < LANES; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  const auto low = [](Vector a, Vector b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](Vector a, Vector b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  Vector fours[LANES];  // of rows 4 i to 4 i + 3, column j of each quarter
#pragma GCC unroll 4
  for (int i = 0; i < LANES; i += 4) {
    fours[i] = low(pairs[i], pairs[i + 2]);
    fours[i + 1] = high(pairs[i], pairs[i + 2]);
    fours[i + 2] = low(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = high(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Vector a = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
    const Vector b = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
    const Vector c = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const Vector d = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_f32x4(a, b, 0x88);
    rows[8 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
    rows[4 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
    rows[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

}  // namespace
