// Products of matrices, with a tile of the result in registers.

#pragma once

#include "vectors.h"

namespace {

constexpr Size VECTORS = 4;
constexpr Size PANEL = LANES * VECTORS;  // queries (forward) or keys (backward) of a panel
constexpr Size TILE = 6;                 // rows of a tile of scores: with 4 vectors, 24 registers
constexpr Size SLACK = 16;               // rows that a last tile may read or write beyond the end

// tile[m][n] += sum over k < count of a[m * row + k * step] * b[k * width + 16 n ...].
template <int M, int N>
[[gnu::always_inline]] inline void multiply(__m512 (&tile)[M][N], const float* a, Size row,
                                            Size step, const float* b, Size width, Size count) {
  for (Size k = 0; k < count; ++k, a += step, b += width) {
    __m512 vectors[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) vectors[n] = _mm512_loadu_ps(b + n * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const __m512 value = _mm512_set1_ps(a[m * row]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) tile[m][n] = _mm512_fmadd_ps(value, vectors[n], tile[m][n]);
    }
  }
}

template <int M, int N>
[[gnu::always_inline]] inline void clear(__m512 (&tile)[M][N]) {
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) tile[m][n] = _mm512_setzero_ps();
}

// sum[m][...] += a b, for rows of M at a time: whole tiles, so that up to M - 1 rows more are read
// and written. What a block adds is summed by itself first, which loses fewer bits.
template <int M, int N>
void add_product(float* sum, Size sum_width, Size rows, const float* a, Size row, Size step,
                 const float* b, Size width, Size count) {
  for (Size first = 0; first < rows; first += M) {
    __m512 tile[M][N];
    clear(tile);
    multiply<M, N>(tile, a + first * row, row, step, b, width, count);
    float* to = sum + first * sum_width;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m, to += sum_width)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        _mm512_storeu_ps(to + n * LANES,
                         _mm512_add_ps(_mm512_loadu_ps(to + n * LANES), tile[m][n]));
  }
}

// sum^T[channel][lane] += sum over rows of a[row][channel] b[row][lane].
void add_by_channel(float* sum, const float* a, const float* b, Size rows, Size channels) {
  if (channels % 5 == 0)
    add_product<5, VECTORS>(sum, PANEL, channels, a, 1, channels, b, PANEL, rows);
  else
    add_product<4, VECTORS>(sum, PANEL, channels, a, 1, channels, b, PANEL, rows);
}

// sum[row][channel] += sum over lanes of a[row][lane] b[lane][channel], `width` channels, padded.
void add_by_row(float* sum, const float* a, const float* b, Size rows, Size count, Size width) {
  for (Size done = 0; done < width;) {
    const Size left = (width - done) / LANES;
    float* to = sum + done;
    const float* from = b + done;
    if (left % 5 == 0) {
      add_product<5, 5>(to, width, rows, a, PANEL, 1, from, width, count);
      done += 5 * LANES;
    } else if (left >= 6 || left == 4) {
      add_product<6, 4>(to, width, rows, a, PANEL, 1, from, width, count);
      done += 4 * LANES;
    } else if (left == 3) {
      add_product<8, 3>(to, width, rows, a, PANEL, 1, from, width, count);
      done += 3 * LANES;
    } else if (left == 2) {
      add_product<12, 2>(to, width, rows, a, PANEL, 1, from, width, count);
      done += 2 * LANES;
    } else {
      add_product<12, 1>(to, width, rows, a, PANEL, 1, from, width, count);
      done += LANES;
    }
  }
}

}  // namespace
