// Scaled dot-product attention, forward and backward, for processors with AVX-512 or AVX2.
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

#include <type_traits>

#include "backward.h"

// Sizes: heads, queries, keys, channels of a head. Strides: head and row of each tensor.
extern "C" {

// Floats of the scratch memory that `attention_forward` needs.
Size attention_forward_scratch(const Size* sizes) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3]};
  return 2 * problem.heads * forward_floats(problem);
}

// Floats of the scratch memory that `attention_backward` needs.
Size attention_backward_scratch(const Size* sizes, int threads) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3]};
  const Packed packed(problem);
  return problem.heads * (packed.total + packed.chunks * problem.queries * packed.width) +
         threads * packed.sums;
}

// Strides of query, key, value, out.
void attention_forward(int bfloat16, const Size* sizes, const Size* strides, const void* query,
                       const void* key, const void* value, void* out, float* logsumexp,
                       float* scratch, float scale, int threads) {
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3]};
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
  const Problem problem{sizes[0], sizes[1], sizes[2], sizes[3]};
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
