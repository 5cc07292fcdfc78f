// Operands in the order in which the products read them.

#pragma once

#include "products.h"

namespace {

// Rows of a head as float32, `width` apart; what lies between is zero.
template <typename T>
void pack_rows(float* to, Size width, const T* from, Size stride, Size rows, Size channels) {
  for (Size row = 0; row < rows; ++row, to += width, from += stride)
    for (Size channel = 0; channel < width; channel += LANES) {
      const Size count = std::min(LANES, std::max<Size>(0, channels - channel));
      store(to + channel, load(from + channel, count), std::min(LANES, width - channel));
    }
}

// Up to 64 rows as [channel][64]; lanes without a row are zero.
template <typename T>
void pack_panel(float* to, const T* from, Size stride, Size rows, Size channels) {
  for (Size row = 0; row < PANEL; row += LANES)
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      Vector block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i)
        block[i] = row + i < rows ? load(from + (row + i) * stride + channel, count)
                                  : zero();
      transpose(block);
      for (Size i = 0; i < count; ++i) store(to + (channel + i) * PANEL + row, block[i]);
    }
}

// What `pack_panel` does, the other way round, times `factor`.
template <typename T>
void unpack_panel(T* to, Size stride, const float* from, Size rows, Size channels, float factor) {
  for (Size row = 0; row < rows; row += LANES)
    for (Size channel = 0; channel < channels; channel += LANES) {
      const Size count = std::min(LANES, channels - channel);
      Vector block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; ++i)
        block[i] = i < count ? load(from + (channel + i) * PANEL + row) * all(factor)
                             : zero();
      transpose(block);
      for (Size i = 0; i < std::min(LANES, rows - row); ++i)
        store(to + (row + i) * stride + channel, block[i], count);
    }
}

}  // namespace
