// What is computed: sizes, where tensors lie, and the threads that share the work.

#pragma once

#include <omp.h>
#include <atomic>

#include "vectors.h"

namespace {

// Lengths and strides, in elements. Each head's rows are contiguous.
struct Strides {
  Size batch, head, row;
};
struct Problem {
  Size batch, heads, queries, keys, channels;
  Size tasks() const { return batch * heads; }
};

template <typename T>
T* head_of(T* tensor, const Strides& strides, const Problem& problem, Size index) {
  return tensor + (index / problem.heads) * strides.batch + (index % problem.heads) * strides.head;
}

Size rounded(Size number, Size multiple) { return (number + multiple - 1) / multiple * multiple; }

// Call `task` with each number below `count` and the number of the thread that does it.
template <typename Task>
void in_parallel(Size count, int threads, const Task& task) {
  std::atomic<Size> next{0};
#pragma omp parallel num_threads(threads)
  for (Size number = next++; number < count; number = next++) task(number, omp_get_thread_num());
}

}  // namespace
