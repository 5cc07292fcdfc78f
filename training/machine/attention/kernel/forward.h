// The output, and the logarithm of the sum of each query's weights.

#pragma once

#include "packing.h"
#include "problem.h"

namespace {

constexpr Size MOST_CHANNELS = 256;  // of a head
constexpr Size ROWS = 96;            // keys (forward) or queries (backward) of a block of scores
constexpr float LOG2_E = 1.44269504088896341f;

// S^T of up to M keys and 64 queries; returns the largest of each query in `highest`.
template <int M>
[[gnu::always_inline]] inline void forward_tile(float* scores, const float* keys,
                                                const float* queries, Size channels,
                                                __m512 (&highest)[VECTORS]) {
  __m512 tile[M][VECTORS];
  clear(tile);
  multiply<M, VECTORS>(tile, keys, channels, 1, queries, PANEL, channels);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < VECTORS; ++n) {
      _mm512_storeu_ps(scores + m * PANEL + n * LANES, tile[m][n]);
      highest[n] = _mm512_max_ps(highest[n], tile[m][n]);
    }
}

void forward_scores(float* scores, const float* keys, const float* queries, Size rows,
                    Size channels, __m512 (&highest)[VECTORS]) {
  for (Size row = 0; row < rows; row += TILE) {
    float* to = scores + row * PANEL;
    const float* from = keys + row * channels;
    switch (std::min(TILE, rows - row)) {
      case 1: forward_tile<1>(to, from, queries, channels, highest); break;
      case 2: forward_tile<2>(to, from, queries, channels, highest); break;
      case 3: forward_tile<3>(to, from, queries, channels, highest); break;
      case 4: forward_tile<4>(to, from, queries, channels, highest); break;
      case 5: forward_tile<5>(to, from, queries, channels, highest); break;
      default: forward_tile<TILE>(to, from, queries, channels, highest);
    }
  }
}

template <typename T>
void forward_panel(const Problem& problem, const T* query, Size query_stride, const float* keys,
                   const float* values, T* out, Size out_stride, float* logsumexp, Size rows,
                   float factor) {
  alignas(64) float queries[MOST_CHANNELS * PANEL];
  alignas(64) float sums[(MOST_CHANNELS + SLACK) * PANEL];
  alignas(64) float scores[ROWS * PANEL];
  const Size channels = problem.channels;
  pack_panel(queries, query, query_stride, rows, channels);
  std::memset(sums, 0, sizeof(float) * (channels + SLACK) * PANEL);
  const __m512 steepness = _mm512_set1_ps(factor);
  __m512 highest[VECTORS], total[VECTORS];
  for (int n = 0; n < VECTORS; ++n) {
    highest[n] = _mm512_set1_ps(-__builtin_inff());
    total[n] = _mm512_setzero_ps();
  }
  for (Size key = 0; key < problem.keys; key += ROWS) {
    const Size count = std::min(ROWS, problem.keys - key);
    __m512 before[VECTORS];
    for (int n = 0; n < VECTORS; ++n) before[n] = highest[n];
    forward_scores(scores, keys + key * channels, queries, count, channels, highest);
    for (int n = 0; n < VECTORS; ++n) {
      if (!key || !_mm512_cmp_ps_mask(before[n], highest[n], _CMP_NEQ_UQ)) continue;
      const __m512 rescale =
          power_of_two(_mm512_mul_ps(_mm512_sub_ps(before[n], highest[n]), steepness));
      total[n] = _mm512_mul_ps(total[n], rescale);
      for (Size channel = 0; channel < channels; ++channel) {
        float* sum = sums + channel * PANEL + n * LANES;
        _mm512_store_ps(sum, _mm512_mul_ps(_mm512_load_ps(sum), rescale));
      }
    }
    __m512 added[VECTORS], base[VECTORS];
    for (int n = 0; n < VECTORS; ++n) {
      added[n] = _mm512_setzero_ps();
      base[n] = _mm512_mul_ps(highest[n], steepness);
    }
    for (Size row = 0; row < count; ++row)
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n) {
        float* score = scores + row * PANEL + n * LANES;
        const __m512 power = _mm512_fmsub_ps(_mm512_load_ps(score), steepness, base[n]);
        const __m512 weight = power_of_two(power);
        _mm512_store_ps(score, weight);
        added[n] = _mm512_add_ps(added[n], weight);
      }
    for (int n = 0; n < VECTORS; ++n) total[n] = _mm512_add_ps(total[n], added[n]);
    add_by_channel(sums, values + key * channels, scores, count, channels);
  }
  alignas(64) float tops[PANEL], totals[PANEL];
  for (int n = 0; n < VECTORS; ++n) {
    _mm512_store_ps(tops + n * LANES, highest[n]);
    _mm512_store_ps(totals + n * LANES, total[n]);
    const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), total[n]);
    for (Size channel = 0; channel < channels; ++channel) {
      float* sum = sums + channel * PANEL + n * LANES;
      _mm512_store_ps(sum, _mm512_mul_ps(_mm512_load_ps(sum), share));
    }
  }
  unpack_panel(out, out_stride, sums, rows, channels, 1.0f);
  for (Size row = 0; row < rows; ++row)
    logsumexp[row] = tops[row] * factor + __builtin_log2f(totals[row]);
}

Size forward_floats(const Problem& problem) {  // of a head's packed keys, or values
  return rounded(problem.keys * problem.channels + SLACK, LANES);
}

template <typename T>
void forward(const Problem& problem, const Strides* strides, const T* query, const T* key,
             const T* value, T* out, float* logsumexp, float* scratch, float scale, int threads) {
  const Size panels = (problem.queries + PANEL - 1) / PANEL;
  const Size head = forward_floats(problem);
  float* packed_keys = scratch;
  float* packed_values = scratch + problem.heads * head;
  constexpr Size PIECE = 256;  // rows that are packed in one task
  const Size pieces = (problem.keys + PIECE - 1) / PIECE;
  in_parallel(problem.heads * pieces, threads, [&](Size number, int) {
    const Size index = number / pieces, first = number % pieces * PIECE;
    const Size rows = std::min(PIECE, problem.keys - first), channels = problem.channels;
    pack_rows(packed_keys + index * head + first * channels, channels,
              key + index * strides[1].head + first * strides[1].row, strides[1].row,
              rows, channels);
    pack_rows(packed_values + index * head + first * channels, channels,
              value + index * strides[2].head + first * strides[2].row, strides[2].row,
              rows, channels);
  });
  in_parallel(problem.heads * panels, threads, [&](Size number, int) {
    const Size index = number / panels, first = number % panels * PANEL;
    forward_panel(problem, query + index * strides[0].head + first * strides[0].row,
                  strides[0].row, packed_keys + index * head, packed_values + index * head,
                  out + index * strides[3].head + first * strides[3].row,
                  strides[3].row, logsumexp + index * problem.queries + first,
                  std::min(PANEL, problem.queries - first), scale * LOG2_E);
  });
}

}  // namespace
