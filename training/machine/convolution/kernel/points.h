// The matrices of Winograd's minimal filtering F(m, 3) for given points, made by the compiler.
//
// Toom and Cook's construction: `m` outputs of a filter g with three taps over m + 2 inputs d are
//     y = A [(G g) o (B d)]
// where each row k belongs to a point p: (G g)[k] = g(p) / N(p) with N(p) the product of p - q over
// the other points q, B's row holds the coefficients of the product of x - q, A's column the powers
// of p. The last row belongs to infinity.

#pragma once

namespace {

constexpr int TAPS = 3;

template <int rows, int columns>
struct Matrix {
  double at[rows][columns] = {};
};

template <int m>
struct Matrices {
  Matrix<m, m + 2> A;
  Matrix<m + 2, TAPS> G;
  Matrix<m + 2, m + 2> B;
};

// What leaves taps and inputs as they are and adds the products: a direct convolution's output.
constexpr Matrices<1> direct(bool reversed) {
  Matrices<1> made;
  for (int k = 0; k < TAPS; ++k) {
    made.A.at[0][k] = 1;
    made.G.at[k][k] = 1;
    made.B.at[k][reversed ? TAPS - 1 - k : k] = 1;
  }
  return made;
}

template <int count>
struct Points {
  double at[count];
};

// Multiplies a polynomial of degree `degree`, lowest coefficient first, by x - root.
template <int size>
constexpr void multiply(double (&polynomial)[size], int degree, double root) {
  for (int i = degree + 1; i >= 0; --i) {
    polynomial[i] = (i > 0 ? polynomial[i - 1] : 0) - (i <= degree ? root * polynomial[i] : 0);
  }
}

template <int count, int m = count - 1>
constexpr Matrices<m> matrices(const Points<count>& points) {
  Matrices<m> made;
  for (int k = 0; k <= count; ++k) {
    const bool infinite = k == count;
    double product = 1;
    double polynomial[m + 3] = {1};
    int degree = 0;
    for (int other = 0; other < count; ++other) {
      if (other == k) continue;
      multiply(polynomial, degree++, points.at[other]);
      if (!infinite) product *= points.at[k] - points.at[other];
    }
    for (int i = 0; i < m + 2; ++i) made.B.at[k][i] = polynomial[i];
    double power = 1;
    for (int i = 0; i < m || i < TAPS; ++i) {
      const double value = infinite ? 0 : power;
      if (i < m) made.A.at[i][k] = infinite && i == m - 1 ? 1 : value;
      if (i < TAPS) made.G.at[k][i] = infinite && i == TAPS - 1 ? 1 : value / product;
      power *= infinite ? 0 : points.at[k];
    }
  }
  return made;
}

// The matrices that filter with the taps in reverse order, and for which G g is the same.
//
// The reversed filter at 1 / p is g(p) / p^2: so these are the matrices for the points' reciprocals
// (infinity for 0 and the other way round), with the factors between the two in B.
template <int count, int m = count - 1>
constexpr Matrices<m> reversed(const Points<count>& points) {
  static_assert(count > 1);
  Points<count> reciprocals{};
  int at = 0, zero = 0;
  for (int k = 0; k < count; ++k) {
    if (points.at[k] == 0) {
      zero = k;
    } else {
      reciprocals.at[at++] = 1 / points.at[k];
    }
  }
  reciprocals.at[at] = 0;
  const auto forward = matrices(points);
  const auto other = matrices(reciprocals);
  Matrices<m> made;
  for (int k = 0; k <= count; ++k) {
    const int row = k == zero ? count : k == count ? count - 1 : k - (k > zero);
    double above = 0, below = 0;
    for (int i = 0; i < TAPS; ++i) {
      const double value = other.G.at[row][TAPS - 1 - i];
      above += value * value;
      below += value * forward.G.at[k][i];
    }
    for (int i = 0; i < m + 2; ++i) made.B.at[k][i] = other.B.at[row][i] * (above / below);
    for (int i = 0; i < m; ++i) made.A.at[i][k] = other.A.at[i][row];
    for (int i = 0; i < TAPS; ++i) made.G.at[k][i] = forward.G.at[k][i];
  }
  return made;
}

}  // namespace
