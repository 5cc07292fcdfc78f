// Sixteen channels at a time: a tile of the input, of the output and of the weights, transformed.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "points.h"

namespace {

using Size = std::int64_t;

#ifdef __AVX512F__
constexpr Size LANES = 16;
#else
constexpr Size LANES = 8;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));

inline Lanes load(const float* from) {
  Lanes values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
inline void store(float* to, Lanes values) { std::memcpy(to, &values, sizeof values); }

// Calls `body` with 0 to count - 1, each a constant of the compiler.
template <int... numbers, typename Body>
inline __attribute__((always_inline)) void each(std::integer_sequence<int, numbers...>,
                                                Body&& body) {
  (body(std::integral_constant<int, numbers>{}), ...);
}
template <int count, typename Body>
inline __attribute__((always_inline)) void each(Body&& body) {
  each(std::make_integer_sequence<int, count>{}, body);
}

// A matrix's row times `count` vectors `step` apart; what the matrix has zeros for is not read.
template <const auto& matrix, int row, int count>
inline __attribute__((always_inline)) Lanes product(const Lanes* vectors, int step) {
  Lanes sum = {};
  each<count>([&](auto i) {
    if constexpr (matrix.at[row][i] != 0) {
      sum += static_cast<float>(matrix.at[row][i]) * vectors[i * step];
    }
  });
  return sum;
}

// matrix x matrix^T: [columns, columns] vectors become [rows, rows].
template <const auto& matrix, int rows, int columns>
inline __attribute__((always_inline)) void sandwich(const Lanes (&x)[columns * columns],
                                                    Lanes (&y)[rows * rows]) {
  Lanes half[rows * columns];
  each<columns>([&](auto j) {
    each<rows>([&](auto i) {
      half[i * columns + j] = product<matrix, i, columns>(x + j, columns);
    });
  });
  each<rows>([&](auto i) {
    each<rows>([&](auto j) {
      y[i * rows + j] = product<matrix, j, columns>(half + i * columns, 1);
    });
  });
}

}  // namespace
