// Scaled dot-product attention, forward and backward, for processors with AVX-512.
//
// Dao et al., "FlashAttention" (2022), with what a processor's cores need: a block of scores never
// leaves the cache, and each operand is packed once so that every product's inner loop reads
// vectors in order. Everything is computed in float32, whatever the tensors' type.
//
// Forward, for 64 queries (the vectors' lanes) and blocks of keys (rows), in powers of two:
//     S^T = K Q^T,  P^T = 2^(c S^T - c maximum),  O^T += V^T P^T,  with c = scale log2(e)
// Backward, for blocks of queries (rows) and 64 keys (lanes), with L = log2 of the sum of 2^(c S)
// and D = rowsum(dO o O):
//     S = Q K^T,  P = 2^(c S - L),  dS = P o (dO V^T - D),
//     dV^T += dO^T P,  dK^T += scale Q^T dS,  dQ += scale dS K
//
// A task writes what is its own, in an order that does not depend on the number of threads: the
// same tensors give the same bits.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

using Size = std::int64_t;

constexpr Size LANES = 16;
constexpr Size VECTORS = 4;
constexpr Size PANEL = LANES * VECTORS;  // queries (forward) or keys (backward) of a panel
constexpr Size ROWS = 96;                // keys (forward) or queries (backward) of a block of scores
constexpr Size TILE = 6;                 // rows of a tile of scores: with 4 vectors, 24 registers
constexpr Size SLACK = 16;               // rows that a last tile may read or write beyond the end
constexpr Size CHUNK_FLOATS = 256 * 1024;  // of a backward task's keys in each packed form: in L2
constexpr Size MOST_CHANNELS = 256;
constexpr float LOG2_E = 1.44269504088896341f;

struct BFloat16 {
  std::uint16_t bits;
};

// Lengths and strides, in elements. Each head's rows are contiguous.
struct Strides {
  Size batch, head, row;
};
struct Problem {
  Size batch, heads, queries, keys, channels;
  Size tasks() const { return batch * heads; }
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

template <typename T>
T* head_of(T* tensor, const Strides& strides, const Problem& problem, Size index) {
  return tensor + (index / problem.heads) * strides.batch + (index % problem.heads) * strides.head;
}

Size rounded(Size number, Size multiple) { return (number + multiple - 1) / multiple * multiple; }

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
        _mm512_storeu_ps(to + n * LANES, _mm512_add_ps(_mm512_loadu_ps(to + n * LANES), tile[m][n]));
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

// Rows of a head as float32, `width` apart; what lies between is zero.
template <typename T>
void pack_rows(float* to, Size width, const T* from, Size stride, Size rows, Size channels) {
  for (Size row = 0; row < rows; ++row, to += width, from += stride)
    for (Size channel = 0; channel < width; channel += LANES) {
      const Size count = std::min(LANES, std::max<Size>(0, channels - channel));
      store(to + channel, load(from + channel, count), std::min(LANES, width - channel));
    }
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

// Up to 64 rows as [channel][64]; lanes without a row are zero.
template <typename T>
void pack_panel(float* to, const T* from, Size stride, Size rows, Size channels) {
  for (Size row = 0; row < PANEL; row += LANES)
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      __m512 block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i)
        block[i] = row + i < rows ? load(from + (row + i) * stride + channel, count)
                                  : _mm512_setzero_ps();
      transpose(block);
      for (Size i = 0; i < count; ++i) _mm512_storeu_ps(to + (channel + i) * PANEL + row, block[i]);
    }
}

// What `pack_panel` does, the other way round, times `factor`.
template <typename T>
void unpack_panel(T* to, Size stride, const float* from, Size rows, Size channels, float factor) {
  for (Size row = 0; row < rows; row += LANES)
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      __m512 block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i)
        block[i] = i < count ? _mm512_mul_ps(_mm512_loadu_ps(from + (channel + i) * PANEL + row),
                                             _mm512_set1_ps(factor))
                             : _mm512_setzero_ps();
      transpose(block);
      for (Size i = 0; i < std::min(LANES, rows - row); ++i)
        store(to + (row + i) * stride + channel, block[i], count);
    }
}

// Call `task` with each number below `count` and the number of the thread that does it.
template <typename Task>
void in_parallel(Size count, int threads, const Task& task) {
  std::atomic<Size> next{0};
#pragma omp parallel num_threads(threads)
  for (Size number = next++; number < count; number = next++) task(number, omp_get_thread_num());
}

// ---- forward ----

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
      const __m512 rescale = power_of_two(
          _mm512_mul_ps(_mm512_sub_ps(before[n], highest[n]), steepness));
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
        const __m512 weight = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(score), steepness, base[n]));
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
  for (Size row = 0; row < rows; ++row) logsumexp[row] = tops[row] * factor + __builtin_log2f(totals[row]);
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
  float* packed_values = scratch + problem.tasks() * head;
  constexpr Size PIECE = 256;  // rows that are packed in one task
  const Size pieces = (problem.keys + PIECE - 1) / PIECE;
  in_parallel(problem.tasks() * pieces, threads, [&](Size number, int) {
    const Size index = number / pieces, first = number % pieces * PIECE;
    const Size rows = std::min(PIECE, problem.keys - first), channels = problem.channels;
    pack_rows(packed_keys + index * head + first * channels, channels,
              head_of(key, strides[1], problem, index) + first * strides[1].row, strides[1].row,
              rows, channels);
    pack_rows(packed_values + index * head + first * channels, channels,
              head_of(value, strides[2], problem, index) + first * strides[2].row, strides[2].row,
              rows, channels);
  });
  in_parallel(problem.tasks() * panels, threads, [&](Size number, int) {
    const Size index = number / panels, first = number % panels * PANEL;
    forward_panel(problem, head_of(query, strides[0], problem, index) + first * strides[0].row,
                  strides[0].row, packed_keys + index * head, packed_values + index * head,
                  head_of(out, strides[3], problem, index) + first * strides[3].row,
                  strides[3].row, logsumexp + index * problem.queries + first,
                  std::min(PANEL, problem.queries - first), scale * LOG2_E);
  });
}

// ---- backward ----

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
  Size chunk, chunks;      // panels of a task, tasks of a head
  Size queries, grads, keys_panel, values_panel, keys, logsumexp, delta, total;
  Size sums;  // floats of a task's own sums
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
    __m512 sum = _mm512_setzero_ps();
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      sum = _mm512_fmadd_ps(load(grad + row * strides[3].row + channel, count),
                            load(out + row * strides[4].row + channel, count), sum);
    }
    to[packed.delta + row] = _mm512_reduce_add_ps(sum);
    to[packed.logsumexp + row] = logsumexp[row];
  }
}

// P of up to 96 queries and 64 keys. Whole tiles of rows: what is beyond the end is never read.
void backward_weights(float* weights, const float* queries, const float* keys,
                      const float* logsumexp, Size rows, Size channels, float factor) {
  const __m512 steepness = _mm512_set1_ps(factor);
  for (Size row = 0; row < rows; row += TILE) {
    __m512 tile[TILE][VECTORS];
    clear(tile);
    multiply<TILE, VECTORS>(tile, queries + row * channels, channels, 1, keys, PANEL, channels);
    float* to = weights + row * PANEL;
#pragma GCC unroll 8
    for (int m = 0; m < TILE; ++m, to += PANEL) {
      const __m512 base = _mm512_set1_ps(logsumexp[row + m]);
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n)
        _mm512_storeu_ps(to + n * LANES,
                         power_of_two(_mm512_fmsub_ps(tile[m][n], steepness, base)));
    }
  }
}

// dS of the same.
void backward_slopes(float* slopes, const float* weights, const float* grads, const float* values,
                     const float* delta, Size rows, Size channels) {
  for (Size row = 0; row < rows; row += TILE) {
    __m512 tile[TILE][VECTORS];
    clear(tile);
    multiply<TILE, VECTORS>(tile, grads + row * channels, channels, 1, values, PANEL, channels);
    const float* from = weights + row * PANEL;
    float* to = slopes + row * PANEL;
#pragma GCC unroll 8
    for (int m = 0; m < TILE; ++m, from += PANEL, to += PANEL) {
      const __m512 base = _mm512_set1_ps(delta[row + m]);
#pragma GCC unroll 8
      for (int n = 0; n < VECTORS; ++n)
        _mm512_storeu_ps(to + n * LANES, _mm512_mul_ps(_mm512_loadu_ps(from + n * LANES),
                                                       _mm512_sub_ps(tile[m][n], base)));
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
      backward_weights(weights, queries, head + packed.keys_panel + panel * PANEL * channels,
                       head + packed.logsumexp + query, rows, channels, scale * LOG2_E);
      backward_slopes(slopes, weights, grads, head + packed.values_panel + panel * PANEL * channels,
                      head + packed.delta + query, rows, channels);
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
  float* parts = heads + problem.tasks() * packed.total;
  float* sums = parts + problem.tasks() * chunks * part;
  constexpr Size PIECE = 4 * PANEL;  // rows that are packed, or added up, in one task
  const Size key_pieces = (problem.keys + PIECE - 1) / PIECE;
  const Size query_pieces = (problem.queries + PIECE - 1) / PIECE;
  in_parallel(problem.tasks() * (key_pieces + query_pieces), threads, [&](Size number, int) {
    const Size index = number / (key_pieces + query_pieces);
    const Size piece = number % (key_pieces + query_pieces);
    float* to = heads + index * packed.total;
    if (piece >= key_pieces) {
      const Size first = (piece - key_pieces) * PIECE;
      pack_queries(problem, packed, to, head_of(query, strides[0], problem, index),
                   head_of(grad, strides[3], problem, index),
                   head_of(out, strides[4], problem, index), strides,
                   logsumexp + index * problem.queries, first,
                   std::min(PIECE, problem.queries - first));
      return;
    }
    const T* keys = head_of(key, strides[1], problem, index);
    const T* values = head_of(value, strides[2], problem, index);
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
  in_parallel(problem.tasks() * chunks, threads, [&](Size number, int thread) {
    const Size index = number / chunks, first = number % chunks * chunk;
    float* own = sums + thread * packed.sums;
    backward_chunk(problem, packed, heads + index * packed.total, first,
                   std::min(packed.panels, first + chunk), own, own + packed.sums / 2,
                   parts + number * part, head_of(key_grad, strides[6], problem, index),
                   strides[6].row, head_of(value_grad, strides[7], problem, index),
                   strides[7].row, scale);
  });
  in_parallel(problem.tasks() * query_pieces, threads, [&](Size number, int) {
    const Size index = number / query_pieces, first = number % query_pieces * PIECE;
    const Size end = std::min(problem.queries, first + PIECE);
    T* to = head_of(query_grad, strides[5], problem, index);
    for (Size row = first; row < end; ++row)
      for (Size channel = 0; channel < channels; channel += LANES) {
        const float* from = parts + index * chunks * part + row * width + channel;
        __m512 sum = _mm512_loadu_ps(from);
        for (Size other = 1; other < chunks; ++other)
          sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + other * part));
        store(to + row * strides[5].row + channel, _mm512_mul_ps(sum, _mm512_set1_ps(scale)),
              std::min(LANES, channels - channel));
      }
  });
}

}  // namespace

// Problem: batch, heads, queries, keys, channels. Strides: batch, head and row of each tensor.
extern "C" {

// Floats of the scratch memory that `attention_forward` needs.
Size attention_forward_scratch(const Size* sizes) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  return 2 * problem.tasks() * forward_floats(problem);
}

// Floats of the scratch memory that `attention_backward` needs.
Size attention_backward_scratch(const Size* sizes, int threads) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  const Packed packed(problem);
  return problem.tasks() * (packed.total + packed.chunks * problem.queries * packed.width) +
         threads * packed.sums;
}

// Strides of query, key, value, out.
void attention_forward(int bfloat16, const Size* sizes, const Size* strides, const void* query,
                       const void* key, const void* value, void* out, float* logsumexp,
                       float* scratch, float scale, int threads) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  const auto* steps = reinterpret_cast<const Strides*>(strides);
  const auto run = [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    forward(problem, steps, static_cast<const T*>(query), static_cast<const T*>(key),
            static_cast<const T*>(value), typed, logsumexp, scratch, scale, threads);
  };
  bfloat16 ? run(static_cast<BFloat16*>(out)) : run(static_cast<float*>(out));
}

// Strides of query, key, value, gradient, out, and of the gradients of query, key and value.
void attention_backward(int bfloat16, const Size* sizes, const Size* strides, const void* query,
                        const void* key, const void* value, const void* grad, const void* out,
                        const float* logsumexp, void* query_grad, void* key_grad, void* value_grad,
                        float* scratch, float scale, int threads) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  const auto* steps = reinterpret_cast<const Strides*>(strides);
  const auto run = [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    backward(problem, steps, static_cast<const T*>(query), static_cast<const T*>(key),
             static_cast<const T*>(value), static_cast<const T*>(grad), static_cast<const T*>(out),
             logsumexp, typed, static_cast<T*>(key_grad), static_cast<T*>(value_grad), scratch,
             scale, threads);
  };
  bfloat16 ? run(static_cast<BFloat16*>(query_grad)) : run(static_cast<float*>(query_grad));
}

}  // extern "C"
