// The output, and the logarithm of the sum of each query's weights.

#pragma once

#include "packing.h"
#include "problem.h"

namespace {

constexpr Size MOST_CHANNELS = 256;  // of a head
constexpr Size ROWS = 96;            // keys (forward) or queries (backward) of a block of scores
constexpr float LOG2_E = 1.44269504088896341f;

// S^T of up to M keys and a tile's queries; returns the largest of each query in `highest`.
template <int M>
[[gnu::always_inline]] inline void forward_tile(float* scores, const float* keys,
                                                const float* queries, Size channels,
                                                Vector* highest) {
  Vector tile[M][VECTORS];
  clear(tile);
  multiply<M, VECTORS>(tile, keys, channels, 1, queries, PANEL, channels);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < VECTORS; ++n) {
      store(scores + m * PANEL + n * LANES, tile[m][n]);
      highest[n] = larger(highest[n], tile[m][n]);
    }
}

void forward_scores(float* scores, const float* keys, const float* queries, Size rows,
                    Size channels, Vector* highest) {
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
  const Vector steepness = all(factor);
  Vector highest[PANEL_VECTORS], total[PANEL_VECTORS];
  for (int n = 0; n < PANEL_VECTORS; ++n) {
    highest[n] = all(-__builtin_inff());
    total[n] = zero();
  }
  for (Size key = 0; key < problem.keys; key += ROWS) {
    const Size count = std::min(ROWS, problem.keys - key);
    Vector before[PANEL_VECTORS];
    for (int n = 0; n < PANEL_VECTORS; ++n) before[n] = highest[n];
    for (Size lane = 0; lane < PANEL; lane += WIDTH)
      forward_scores(scores + lane, keys + key * channels, queries + lane, count, channels,
                     highest + lane / LANES);
    for (int n = 0; n < PANEL_VECTORS; ++n) {
      if (!key || !differ(before[n], highest[n])) continue;
      const Vector rescale =
          power_of_two((before[n] - highest[n]) * steepness);
      total[n] = total[n] * rescale;
      for (Size channel = 0; channel < channels; ++channel) {
        float* sum = sums + channel * PANEL + n * LANES;
        store(sum, load(sum) * rescale);
      }
    }
    Vector added[PANEL_VECTORS], base[PANEL_VECTORS];
    for (int n = 0; n < PANEL_VECTORS; ++n) {
      added[n] = zero();
      base[n] = highest[n] * steepness;
    }
    for (Size row = 0; row < count; ++row)
#pragma GCC unroll 8
      for (int n = 0; n < PANEL_VECTORS; ++n) {
        float* score = scores + row * PANEL + n * LANES;
        const Vector power = multiply_subtract(load(score), steepness, base[n]);
        const Vector weight = power_of_two(power);
        store(score, weight);
        added[n] = added[n] + weight;
      }
    for (int n = 0; n < PANEL_VECTORS; ++n) total[n] = total[n] + added[n];
    add_by_channel(sums, values + key * channels, scores, count, channels);
  }
  alignas(64) float tops[PANEL], totals[PANEL];
  for (int n = 0; n < PANEL_VECTORS; ++n) {
    store(tops + n * LANES, highest[n]);
    store(totals + n * LANES, total[n]);
    const Vector share = all(1.0f) / total[n];
    for (Size channel = 0; channel < channels; ++channel) {
      float* sum = sums + channel * PANEL + n * LANES;
      store(sum, load(sum) * share);
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
