// Vectors of numbers, as long as the processor's registers.

#pragma once

#ifdef __AVX512F__
#include "avx512.h"
#else
#include "avx2.h"
#endif

namespace {

// 2^x for x <= 0, to 2e-7; below 2^-80, which no sum of scores can notice, that. NaN stays NaN.
inline Vector power_of_two(Vector x) {
  x = larger(all(-80.0f), x);
  const Vector whole = nearest_integers(x);
  const Vector part = x - whole;
  Vector value = all(0.0013264602748677135f);
  value = multiply_add(value, part, all(0.009671513922512531f));
  value = multiply_add(value, part, all(0.055507343262434006f));
  value = multiply_add(value, part, all(0.24022242426872253f));
  value = multiply_add(value, part, all(0.6931470036506653f));
  value = multiply_add(value, part, all(1.0f));
  return times_power_of_two(value, whole);
}

}  // namespace
