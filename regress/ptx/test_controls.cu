/*
 * regress/ptx sees what it says that it sees: kernels with one fault each must end the process with the words
 * for it, and the same kernels without the fault must not.
 */
#include <cuda_runtime.h>
#include <instruction.h>

#include "../kernels/launches.h"

#define THREADS 64

/* Reversed through shared memory, twice: the second time over what others read in the first. */
template <bool waits_to_read, bool waits_to_write> __global__ void barrier_kernel(word *out, const word *in)
{
    __shared__ word words[THREADS];
    int t = threadIdx.x;

    words[t] = 0;
    __syncthreads();
    for (int pass = 0; pass < 2; pass++) {
        words[t] = in[pass * THREADS + t];
        if (waits_to_read)
            __syncthreads();
        out[pass * THREADS + t] = words[THREADS - 1 - t];
        if (waits_to_write)
            __syncthreads();
    }
}

/* Lanes of one warp change places. */
template <bool waits> __global__ void lanes_kernel(word *out, const word *in)
{
    __shared__ word words[THREADS];
    int t = threadIdx.x;

    words[t] = in[t];
    if (waits)
        __syncwarp();
    out[t] = words[t ^ 1];
}

/* The threads below `writers` write what all read, from `first` on. */
template <int writers, int first> __global__ void shared_kernel(word *out, const word *in)
{
    __shared__ word words[THREADS];
    int t = threadIdx.x;

    if (t < writers)
        words[t] = in[t];
    __syncthreads();
    out[t] = words[first + t];
}

template <int first> __global__ void end_kernel(word *out, const word *in)
{
    out[threadIdx.x] = in[first + threadIdx.x];
}

template <int first> __global__ void vector_kernel(word *out, const word *in)
{
    ((uint4 *) out)[threadIdx.x] = *(const uint4 *) (in + first + 4 * threadIdx.x);
}

template <bool waits, bool reads> __global__ void copy_kernel(word *out, const word *in)
{
    __shared__ word words[THREADS];
    int t = threadIdx.x;

    cp_async_4(words + t, in + t, 4);
    if (waits)
        cp_async_wait_all();
    out[t] = reads ? words[t] : in[t];
}

/* The lanes below `lanes` exchange words. */
template <int lanes> __global__ void shuffle_kernel(word *out, const word *in)
{
    int t = threadIdx.x;

    if (t % 32 < lanes)
        out[t] = __shfl_xor_sync(0xffffffffu, in[t], 1);
}

/* The threads below `threads` meet. */
template <int threads> __global__ void meeting_kernel(word *out, const word *in)
{
    if (threadIdx.x < threads)
        __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

__global__ void __launch_bounds__(32) small_kernel(word *out, const word *in)
{
    out[threadIdx.x] = in[threadIdx.x];
}

/* With an instruction that nothing here uses. */
__global__ void unknown_kernel(word *out, const word *in)
{
#ifdef __CUDA_ARCH__
    __nanosleep(in[0]);
#endif
    out[threadIdx.x] = in[threadIdx.x];
}

/* out[i] is in[i] of thread i with its number's bits in `change` changed; `words` of them. */
static void check_sound(kernel *k, const char *name, int words, int change, unsigned threads = THREADS)
{
    word in[MOST], out[MOST];
    int wrong = 0;

    for (int i = 0; i < MOST; i++)
        in[i] = (word) rand();
    run(k, out, in, threads);
    for (int i = 0; i < words; i++)
        wrong += out[i] != in[i ^ change];
    ok(wrong == 0, "%s without a fault: %d of %d words are wrong", name, wrong, words);
}

int main()
{
    check_sound(barrier_kernel<true, true>, "barriers of a block", 2 * THREADS, THREADS - 1);
    check_sound(lanes_kernel<true>, "a barrier of a warp", THREADS, 1);
    check_sound(shared_kernel<THREADS, 0>, "shared memory", THREADS, 0);
    check_sound(end_kernel<0>, "global memory", THREADS, 0);
    check_sound(vector_kernel<0>, "vectors", 4 * THREADS, 0);
    check_sound(copy_kernel<true, true>, "copies", THREADS, 0);
    check_sound(shuffle_kernel<32>, "a shuffle", THREADS, 1);
    check_sound(meeting_kernel<THREADS>, "a barrier", THREADS, 0);
    check_sound(small_kernel, "a small block", 32, 0, 32);

    check_refusal(barrier_kernel<false, true>, "a race: thread", THREADS);
    check_refusal(barrier_kernel<true, false>, "a race: thread", THREADS);
    check_refusal(lanes_kernel<false>, "a race: thread", THREADS);
    check_refusal(shared_kernel<THREADS / 2, 0>, "which nobody wrote", THREADS);
    check_refusal(shared_kernel<THREADS, 1>, "of 256 bytes of shared memory", THREADS);
    check_refusal(end_kernel<MOST - THREADS + 1>, "which is not memory of the device", THREADS);
    check_refusal(vector_kernel<1>, "which is not aligned", THREADS);
    check_refusal(copy_kernel<false, true>, "which nobody wrote", THREADS);
    check_refusal(copy_kernel<false, false>, "a thread that ends before its copies", THREADS);
    check_refusal(shuffle_kernel<31>, "only lanes 0x7fffffff of the warp are there", THREADS);
    check_refusal(meeting_kernel<32>, "1 of 2 warps end before a barrier of the block", THREADS);
    check_refusal(meeting_kernel<16>, "only lanes 0xffff of a warp reach a barrier", THREADS);
    check_refusal(small_kernel, "64 threads of at most 32", THREADS);
    check_refusal(unknown_kernel, "an instruction that is not known: nanosleep", THREADS);
    return tap_end();
}
