// What is computed: sizes, where tensors lie, and the threads that share the work.

#pragma once

#include <omp.h>
#include <atomic>

#include "vectors.h"

namespace {

// Of one sample, in elements. The channels of a row are contiguous.
struct Strides {
  Size head, row;
};
struct Problem {
  Size heads, queries, keys, channels;
};

Size rounded(Size number, Size multiple) { return (number + multiple - 1) / multiple * multiple; }

// Call `task` with each number below `count` and the number of the thread that does it.
template <typename Task>
void in_parallel(Size count, int threads, const Task& task) {
  std::atomic<Size> next{0};
#pragma omp parallel num_threads(threads)
  for (Size number = next++; number < count; number = next++) task(number, omp_get_thread_num());
}

}  // namespace
