// Sixteen numbers at a time: read, written, raised, transposed.

#pragma once

#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

using Size = std::int64_t;

constexpr Size LANES = 16;

struct BFloat16 {
  std::uint16_t bits;
};

// The first `count` of 16 numbers; the others are zero.
inline __m512 load(const float* from, Size count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
inline __m512 load(const BFloat16* from, Size count) {
  alignas(32) BFloat16 numbers[LANES] = {};
  std::memcpy(numbers, from, sizeof(BFloat16) * count);
  const __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(numbers));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline void store(float* to, __m512 values, Size count) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), values);
}
inline void store(BFloat16* to, __m512 values, Size count) {  // to the nearest, ties to even
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

// 2^x for x <= 0, to 2e-7; below 2^-80, which no sum of scores can notice, that. NaN stays NaN.
inline __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-80.0f), x);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 value = _mm512_set1_ps(0.0013264602748677135f);
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(0.009671513922512531f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(0.055507343262434006f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(0.24022242426872253f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(0.6931470036506653f));
  value = _mm512_fmadd_ps(value, part, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(value, whole);
}

// 16 x 16 numbers, rows for columns.
inline void transpose(__m512 (&rows)[LANES]) {
  __m512 pairs[LANES];
#pragma GCC unroll 8
  for (int i = 0; i < LANES; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  const auto low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  __m512 fours[LANES];  // of rows 4 i to 4 i + 3, column j of each quarter
#pragma GCC unroll 4
  for (int i = 0; i < LANES; i += 4) {
    fours[i] = low(pairs[i], pairs[i + 2]);
    fours[i + 1] = high(pairs[i], pairs[i + 2]);
    fours[i + 2] = low(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = high(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 a = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
    const __m512 d = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_f32x4(a, b, 0x88);
    rows[8 + j] = _mm512_shuffle_f32x4(a, b, 0xdd);
    rows[4 + j] = _mm512_shuffle_f32x4(c, d, 0x88);
    rows[12 + j] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

}  // namespace
