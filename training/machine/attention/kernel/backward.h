// The gradients of query, key and value, in one pass over the scores.

#pragma once

#include "forward.h"

namespace {

// Panels of keys that a task takes: what they are packed into stays in its core's L2.
Size chunk_panels(const Problem& problem, Size panels) {
  const Size channels = std::max(problem.channels, LANES);
  const Size most = std::max<Size>(1, CHUNK_FLOATS / (5 * PANEL * channels));
  const Size chunks = (panels + most - 1) / most;
  return (panels + chunks - 1) / chunks;
}

// What a head's tensors are packed into, in floats from the head's first.
struct Packed {
  Size panels, width;  // panels of 64 keys; channels, rounded up to whole vectors
  Size chunk, chunks;  // panels of a task, tasks of a head
  Size queries, grads, keys_panel, values_panel, keys, logsumexp, delta, total;
  Size sums;           // floats of a task's own sums
  explicit Packed(const Problem& problem) {
    const Size channels = problem.channels, rows = problem.queries + SLACK;
    panels = (problem.keys + PANEL - 1) / PANEL;
    width = rounded(channels, LANES);
    Size used = 0;
    const auto take = [&used](Size floats) {
      const Size first = used;
      used += rounded(floats, LANES);
      return first;
    };
    queries = take(rows * channels);
    grads = take(rows * channels);
    keys_panel = take(panels * PANEL * channels);
    values_panel = take(panels * PANEL * channels);
    keys = take(problem.keys * width);
    logsumexp = take(rows);
    delta = take(rows);
    total = used;
    chunk = chunk_panels(problem, panels);
    chunks = (panels + chunk - 1) / chunk;
    sums = 2 * chunk * (channels + SLACK) * PANEL;
  }
};

template <typename T>
void pack_queries(const Problem& problem, const Packed& packed, float* to, const T* query,
                  const T* grad, const T* out, const Strides* strides, const float* logsumexp,
                  Size first, Size rows) {
  const Size channels = problem.channels;
  pack_rows(to + packed.queries + first * channels, channels, query + first * strides[0].row,
            strides[0].row, rows, channels);
  pack_rows(to + packed.grads + first * channels, channels, grad + first * strides[3].row,
            strides[3].row, rows, channels);
  for (Size row = first; row < first + rows; ++row) {
    Vector sum = zero();
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      sum = multiply_add(load(grad + row * strides[3].row + channel, count),
                            load(out + row * strides[4].row + channel, count), sum);
    }
    to[packed.delta + row] = add_up(sum);
    to[packed.logsumexp + row] = logsumexp[row];
  }
}

// P of up to 96 queries and a tile's keys. Whole tiles of rows: what is beyond the end is never read.
void backward_weights(float* weights, const float* queries, const float* keys,
                      const float* logsumexp, Size rows, Size channels, float factor) {
  const Vector steepness = all(factor);
  for (Size row = 0; row < rows; row += TILE) {
    Vector tile[TILE][VECTORS];
    clear(tile);
    multiply<TILE, VECTORS>(tile, queries + row * channels, channels, 1, keys, PANEL, channels);
    float* to = weights + row * PANEL;
#pragma GCC unroll 8
    for (int m = 0; m < TILE; ++m, to += PANEL) {
      const Vector base = all(logsumexp[row + m]);
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n)
        store(to + n * LANES,
                         power_of_two(multiply_subtract(tile[m][n], steepness, base)));
    }
  }
}

// dS of the same.
void backward_slopes(float* slopes, const float* weights, const float* grads, const float* values,
                     const float* delta, Size rows, Size channels) {
  for (Size row = 0; row < rows; row += TILE) {
    Vector tile[TILE][VECTORS];
    clear(tile);
    multiply<TILE, VECTORS>(tile, grads + row * channels, channels, 1, values, PANEL, channels);
    const float* from = weights + row * PANEL;
    float* to = slopes + row * PANEL;
#pragma GCC unroll 8
    for (int m = 0; m < TILE; ++m, from += PANEL, to += PANEL) {
      const Vector base = all(delta[row + m]);
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n)
        store(to + n * LANES, load(from + n * LANES) * (tile[m][n] - base));
    }
  }
}

// A head's keys from panel `first` to `last`: their gradients, and what they add to the queries'.
template <typename T>
void backward_chunk(const Problem& problem, const Packed& packed, const float* head, Size first,
                    Size last, float* key_sums, float* value_sums, float* query_part, T* key_grad,
                    Size key_stride, T* value_grad, Size value_stride, float scale) {
  const Size channels = problem.channels, width = packed.width;
  const Size panel_floats = (channels + SLACK) * PANEL;
  alignas(64) float weights[(ROWS + SLACK) * PANEL];
  alignas(64) float slopes[(ROWS + SLACK) * PANEL];
  alignas(64) float sums[(ROWS + SLACK) * MOST_CHANNELS];
  std::memset(slopes, 0, sizeof slopes);
  std::memset(key_sums, 0, sizeof(float) * (last - first) * panel_floats);
  std::memset(value_sums, 0, sizeof(float) * (last - first) * panel_floats);
  for (Size query = 0; query < problem.queries; query += ROWS) {
    const Size rows = std::min(ROWS, problem.queries - query);
    const float* queries = head + packed.queries + query * channels;
    const float* grads = head + packed.grads + query * channels;
    std::memset(sums, 0, sizeof(float) * rows * width);
    for (Size panel = first; panel < last; ++panel) {
      const float* keys = head + packed.keys_panel + panel * PANEL * channels;
      const float* values = head + packed.values_panel + panel * PANEL * channels;
      for (Size lane = 0; lane < PANEL; lane += WIDTH) {
        backward_weights(weights + lane, queries, keys + lane, head + packed.logsumexp + query,
                         rows, channels, scale * LOG2_E);
        backward_slopes(slopes + lane, weights + lane, grads, values + lane,
                        head + packed.delta + query, rows, channels);
      }
      const Size place = (panel - first) * panel_floats;
      add_by_channel(value_sums + place, grads, weights, rows, channels);
      add_by_channel(key_sums + place, queries, slopes, rows, channels);
      add_by_row(sums, slopes, head + packed.keys + panel * PANEL * width, rows,
                 std::min(PANEL, problem.keys - panel * PANEL), width);
    }
    std::memcpy(query_part + query * width, sums, sizeof(float) * rows * width);
  }
  for (Size panel = first; panel < last; ++panel) {
    const Size place = (panel - first) * panel_floats, row = panel * PANEL;
    const Size rows = std::min(PANEL, problem.keys - row);
    unpack_panel(key_grad + row * key_stride, key_stride, key_sums + place, rows, channels, scale);
    unpack_panel(value_grad + row * value_stride, value_stride, value_sums + place, rows, channels,
                 1.0f);
  }
}

// Strides: query, key, value, gradient, out, and the gradients of query, key and value.
template <typename T>
void backward(const Problem& problem, const Strides* strides, const T* query, const T* key,
              const T* value, const T* grad, const T* out, const float* logsumexp, T* query_grad,
              T* key_grad, T* value_grad, float* scratch, float scale, int threads) {
  const Packed packed(problem);
  const Size channels = problem.channels, width = packed.width;
  const Size chunk = packed.chunk, chunks = packed.chunks;
  const Size part = problem.queries * width;
  float* heads = scratch;
  float* parts = heads + problem.heads * packed.total;
  float* sums = parts + problem.heads * chunks * part;
  constexpr Size PIECE = 4 * PANEL;  // rows that are packed, or added up, in one task
  const Size key_pieces = (problem.keys + PIECE - 1) / PIECE;
  const Size query_pieces = (problem.queries + PIECE - 1) / PIECE;
  in_parallel(problem.heads * (key_pieces + query_pieces), threads, [&](Size number, int) {
    const Size index = number / (key_pieces + query_pieces);
    const Size piece = number % (key_pieces + query_pieces);
    float* to = heads + index * packed.total;
    if (piece >= key_pieces) {
      const Size first = (piece - key_pieces) * PIECE;
      pack_queries(problem, packed, to, query + index * strides[0].head,
                   grad + index * strides[3].head,
                   out + index * strides[4].head, strides,
                   logsumexp + index * problem.queries, first,
                   std::min(PIECE, problem.queries - first));
      return;
    }
    const T* keys = key + index * strides[1].head;
    const T* values = value + index * strides[2].head;
    const Size end = std::min(problem.keys, (piece + 1) * PIECE);
    for (Size first = piece * PIECE; first < end; first += PANEL) {
      const Size rows = std::min(PANEL, end - first);
      pack_panel(to + packed.keys_panel + first * channels, keys + first * strides[1].row,
                 strides[1].row, rows, channels);
      pack_panel(to + packed.values_panel + first * channels, values + first * strides[2].row,
                 strides[2].row, rows, channels);
      pack_rows(to + packed.keys + first * width, width, keys + first * strides[1].row,
                strides[1].row, rows, channels);
    }
  });
  in_parallel(problem.heads * chunks, threads, [&](Size number, int thread) {
    const Size index = number / chunks, first = number % chunks * chunk;
    float* own = sums + thread * packed.sums;
    backward_chunk(problem, packed, heads + index * packed.total, first,
                   std::min(packed.panels, first + chunk), own, own + packed.sums / 2,
                   parts + number * part, key_grad + index * strides[6].head,
                   strides[6].row, value_grad + index * strides[7].head,
                   strides[7].row, scale);
  });
  in_parallel(problem.heads * query_pieces, threads, [&](Size number, int) {
    const Size index = number / query_pieces, first = number % query_pieces * PIECE;
    const Size end = std::min(problem.queries, first + PIECE);
    T* to = query_grad + index * strides[5].head;
    for (Size row = first; row < end; ++row)
      for (Size channel = 0; channel < channels; channel += LANES) {
        const float* from = parts + index * chunks * part + row * width + channel;
        Vector sum = load(from);
        for (Size other = 1; other < chunks; ++other)
          sum = sum + load(from + other * part);
        store(to + row * strides[5].row + channel, sum * all(scale),
              std::min(LANES, channels - channel));
      }
  });
}

}  // namespace
