// The numbers that tensors consist of.

#pragma once

#include <immintrin.h>
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

using Size = std::int64_t;

struct BFloat16 {
  std::uint16_t bits;
};

}  // namespace
