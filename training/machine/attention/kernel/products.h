// Products of matrices, with a tile of the result in registers.

#pragma once

#include "vectors.h"

namespace {

constexpr Size PANEL = 64;  // queries (forward) or keys (backward) of a panel
constexpr Size PANEL_VECTORS = PANEL / LANES;
constexpr Size TILE = 6;                 // rows of a tile of scores
constexpr Size WIDTH = LANES * VECTORS;  // queries or keys of a tile
constexpr Size SLACK = 16;               // rows that a last tile may read or write beyond the end

// tile[m][n] += sum over k < count of a[m * row + k * step] * b[k * width + 16 n ...].
template <int M, int N>
[[gnu::always_inline]] inline void multiply(Vector (&tile)[M][N], const float* a, Size row,
                                            Size step, const float* b, Size width, Size count) {
  for (Size k = 0; k < count; ++k, a += step, b += width) {
    Vector vectors[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) vectors[n] = load(b + n * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vector value = all(a[m * row]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) tile[m][n] = multiply_add(value, vectors[n], tile[m][n]);
    }
  }
}

template <int M, int N>
[[gnu::always_inline]] inline void clear(Vector (&tile)[M][N]) {
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) tile[m][n] = zero();
}

// sum[m][...] += a b, for rows of M at a time: whole tiles, so that up to M - 1 rows more are read
// and written. What a block adds is summed by itself first, which loses fewer bits.
template <int M, int N>
void add_product(float* sum, Size sum_width, Size rows, const float* a, Size row, Size step,
                 const float* b, Size width, Size count) {
  for (Size first = 0; first < rows; first += M) {
    Vector tile[M][N];
    clear(tile);
    multiply<M, N>(tile, a + first * row, row, step, b, width, count);
    float* to = sum + first * sum_width;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m, to += sum_width)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        store(to + n * LANES, load(to + n * LANES) + tile[m][n]);
  }
}

// sum^T[channel][lane] += sum over rows of a[row][channel] b[row][lane].
void add_by_channel(float* sum, const float* a, const float* b, Size rows, Size channels) {
  for (Size lane = 0; lane < PANEL; lane += WIDTH)
    if (channels % 5 == 0)
      add_product<5, VECTORS>(sum + lane, PANEL, channels, a, 1, channels, b + lane, PANEL, rows);
    else
      add_product<4, VECTORS>(sum + lane, PANEL, channels, a, 1, channels, b + lane, PANEL, rows);
}

// N vectors of channels of what `add_by_row` does; returns how many channels these are.
template <int M, int N>
Size add_columns(float* sum, const float* a, const float* b, Size rows, Size count, Size width) {
  add_product<M, N>(sum, width, rows, a, PANEL, 1, b, width, count);
  return N * LANES;
}

// The next vectors of channels, of `left`, in tiles that leave registers for a and b.
Size add_next_columns(float* sum, const float* a, const float* b, Size rows, Size count, Size width,
                      Size left) {
  if constexpr (VECTORS == 2) {
    if (left % 2 == 0) return add_columns<6, 2>(sum, a, b, rows, count, width);
    if (left >= 3) return add_columns<4, 3>(sum, a, b, rows, count, width);
  } else {
    if (left % 5 == 0) return add_columns<5, 5>(sum, a, b, rows, count, width);
    if (left >= 6 || left == 4) return add_columns<6, 4>(sum, a, b, rows, count, width);
    if (left == 3) return add_columns<8, 3>(sum, a, b, rows, count, width);
    if (left == 2) return add_columns<12, 2>(sum, a, b, rows, count, width);
  }
  return add_columns<12, 1>(sum, a, b, rows, count, width);
}

// sum[row][channel] += sum over lanes of a[row][lane] b[lane][channel], `width` channels, padded.
void add_by_row(float* sum, const float* a, const float* b, Size rows, Size count, Size width) {
  for (Size done = 0; done < width;)
    done += add_next_columns(sum + done, a, b + done, rows, count, width, (width - done) / LANES);
}

}  // namespace
