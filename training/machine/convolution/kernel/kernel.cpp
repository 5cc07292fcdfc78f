// Convolution with 3 x 3 weights, stride 1 and padding 1 by Winograd's minimal filtering, float32.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): of each tile of
// (m + 2) x (m + 2) inputs an m x m tile of outputs is made with (m + 2)^2 multiplications per pair
// of channels, in the place of 9 m^2. What lies between is matrix products, (m + 2)^2 of them over
// all tiles, which the caller takes from a library. The points of F(4 x 4, 3 x 3) are 0,
// +-1/sqrt(2), +-sqrt(2) and infinity, whose rounding errors are half of those of 0, +-1, +-2
// (Alam et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection", 2022).
//
// With m = 1 it is the direct convolution: nine products of the inputs with the weights as they are.
//
// A gradient is convolved with the weights in reverse: `reversed` has matrices with which the
// weights as they were transformed for forward serve.

#include "transforms.h"

namespace {

constexpr double ROOT = 1.4142135623730951;

template <int m>
struct Scheme;
template <>
struct Scheme<2> {
  static constexpr Points<3> points{{0, 1, -1}};
};
template <>
struct Scheme<4> {
  static constexpr Points<5> points{{0, 1 / ROOT, -1 / ROOT, ROOT, -ROOT}};
};

template <int m>
constexpr Matrices<m> FORWARD = matrices(Scheme<m>::points);
template <int m>
constexpr Matrices<m> REVERSED = reversed(Scheme<m>::points);
template <>
constexpr Matrices<1> FORWARD<1> = direct(false);
template <>
constexpr Matrices<1> REVERSED<1> = direct(true);

template <int m, bool backward>
struct Chosen {
  static constexpr auto made = backward ? REVERSED<m> : FORWARD<m>;
  static constexpr auto A = made.A;
  static constexpr auto G = made.G;
  static constexpr auto B = made.B;
};

// Pictures [N, H, W, C], the channels beside each other, and a strip of each that is cut into
// tiles: `rows` rows of tiles, from row `first` on.
template <int m>
struct Tiles {
  Size height, width, channels, first, rows, columns, count;

  explicit Tiles(const Size* sizes)
      : height(sizes[1]), width(sizes[2]), channels(sizes[3]), first(sizes[4]), rows(sizes[5]),
        columns((width + m - 1) / m), count(sizes[0] * rows * columns) {}

  // The offset of the picture that a tile is of, and the tile's first row and column of outputs.
  void place(Size tile, Size& picture, Size& y, Size& x) const {
    picture = tile / (rows * columns) * height * width * channels;
    y = (first + tile / columns % rows) * m;
    x = tile % columns * m;
  }
};

// Calls `body` with each tile and each of its vectors of channels, tiles in parallel.
template <int m, typename Body>
void each_vector(const Tiles<m>& tiles, int threads, const Body& body) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Size tile = 0; tile < tiles.count; ++tile) {
    Size picture, top, left;
    tiles.place(tile, picture, top, left);
    for (Size channel = 0; channel < tiles.channels; channel += LANES) {
      body(tile * tiles.channels + channel, picture + channel, top, left);
    }
  }
}

template <int m, bool backward>
void transform_inputs(const Size* sizes, const float* pictures, float* made, int threads) {
  constexpr int n = m + 2;
  const Tiles<m> tiles(sizes);
  const Size apart = tiles.count * tiles.channels;
  each_vector(tiles, threads, [&](Size vector, Size picture, Size top, Size left) {
    Lanes inputs[n * n], outputs[n * n];
    each<n>([&](auto i) {
      each<n>([&](auto j) {
        const Size y = top + i - 1, x = left + j - 1;
        const bool inside = y >= 0 && y < tiles.height && x >= 0 && x < tiles.width;
        inputs[i * n + j] =
            inside ? load(pictures + picture + (y * tiles.width + x) * tiles.channels) : Lanes{};
      });
    });
    sandwich<Chosen<m, backward>::B, n, n>(inputs, outputs);
    each<n * n>([&](auto k) { store(made + vector + k * apart, outputs[k]); });
  });
}

template <int m, bool backward>
void transform_outputs(const Size* sizes, const float* products, const float* bias, float* pictures,
                       int threads) {
  constexpr int n = m + 2;
  const Tiles<m> tiles(sizes);
  const Size apart = tiles.count * tiles.channels;
  each_vector(tiles, threads, [&](Size vector, Size picture, Size top, Size left) {
    Lanes inputs[n * n], outputs[m * m];
    each<n * n>([&](auto k) { inputs[k] = load(products + vector + k * apart); });
    sandwich<Chosen<m, backward>::A, m, n>(inputs, outputs);
    const Lanes added = bias ? load(bias + vector % tiles.channels) : Lanes{};
    each<m>([&](auto i) {
      each<m>([&](auto j) {
        const Size y = top + i, x = left + j;
        if (y < tiles.height && x < tiles.width) {
          store(pictures + picture + (y * tiles.width + x) * tiles.channels,
                outputs[i * m + j] + added);
        }
      });
    });
  });
}

template <int m>
void transform_weights(const Size* sizes, const float* weights, float* made, int threads) {
  constexpr int n = m + 2;
  const Size outputs = sizes[0], inputs = sizes[1];
#pragma omp parallel for num_threads(threads) schedule(static)
  for (Size output = 0; output < outputs; ++output) {
    for (Size input = 0; input < inputs; input += LANES) {
      Lanes taps[TAPS * TAPS], transformed[n * n];
      const float* from = weights + (output * inputs + input) * TAPS * TAPS;
      each<TAPS * TAPS>([&](auto k) {
        float beside[LANES];
        for (Size lane = 0; lane < LANES; ++lane) beside[lane] = from[lane * TAPS * TAPS + k];
        taps[k] = load(beside);
      });
      sandwich<Chosen<m, false>::G, n, TAPS>(taps, transformed);
      each<n * n>([&](auto k) {
        store(made + (k * outputs + output) * inputs + input, transformed[k]);
      });
    }
  }
}

template <typename Function>
Function of_side(int m, Function one, Function two, Function four) {
  return m == 1 ? one : m == 2 ? two : four;
}

}  // namespace

// m: 1, 2 or 4. Channels are multiples of 16. Sizes: N, H, W and C of pictures [N, H, W, C], the
// first row of tiles and how many rows. Matrices: [(m + 2)^2, tiles, C], a tile for each m x m
// outputs, also of those at the edges that are cut.
extern "C" {

// Pictures to matrices.
void convolution_inputs(int m, int backward, const Size* sizes, const float* pictures, float* made,
                        int threads) {
  const auto run = backward ? of_side(m, transform_inputs<1, true>, transform_inputs<2, true>,
                                      transform_inputs<4, true>)
                            : of_side(m, transform_inputs<1, false>, transform_inputs<2, false>,
                                      transform_inputs<4, false>);
  run(sizes, pictures, made, threads);
}

// Matrices to pictures; bias [C] or null is added.
void convolution_outputs(int m, int backward, const Size* sizes, const float* products,
                         const float* bias, float* pictures, int threads) {
  const auto run = backward ? of_side(m, transform_outputs<1, true>, transform_outputs<2, true>,
                                      transform_outputs<4, true>)
                            : of_side(m, transform_outputs<1, false>, transform_outputs<2, false>,
                                      transform_outputs<4, false>);
  run(sizes, products, bias, pictures, threads);
}

// Weights [outputs, inputs, 3, 3], whose outputs and inputs are the sizes, to matrices
// [(m + 2)^2, outputs, inputs].
void convolution_weights(int m, const Size* sizes, const float* weights, float* made,
                         int threads) {
  of_side(m, transform_weights<1>, transform_weights<2>, transform_weights<4>)(sizes, weights, made,
                                                                              threads);
}

}  // extern "C"
