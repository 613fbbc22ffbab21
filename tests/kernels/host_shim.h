// SPDX-License-Identifier: Apache-2.0
// Purpose: lets g++ compile the kernels unchanged and run them block by block, without a GPU.
// Method: every thread of a block is a coroutine (ucontext). A barrier switches to the scheduler, which
//   releases a warp, or the block, once all of its unfinished threads have arrived. Warp votes and shuffles are
//   two barriers around a shared array. Blocks run one after the other.
// What it does not show: races between barriers, and the memory model. compute-sanitizer does, on a GPU.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define SENTRY_NO_PTX 1
#define __device__
#define __forceinline__ inline
#define __global__
#define __constant__ static const
#define __shared__ static
#define __launch_bounds__(...)

struct dim3_t { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace shim {
enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Thread {
    ucontext_t context;
    State state;
    uint64_t offer;  // value that this thread contributes to a vote or shuffle
};
inline std::vector<Thread> threads;
inline std::vector<char> stacks;
inline ucontext_t scheduler;
inline void (*body)(void**);
inline void** arguments;
inline dim3_t thread, block, block_size, grid_size;
const size_t STACK = 64 * 1024;

inline void pause(State state) {
    unsigned self = thread.x;
    threads[self].state = state;
    swapcontext(&threads[self].context, &scheduler);
}

inline void enter() {
    body(arguments);
    threads[thread.x].state = DONE;
}

// Releases threads [from, to) if those that are not done all wait at `at`.
inline void release(unsigned from, unsigned to, State at) {
    for (unsigned i = from; i < to; i++)
        if (threads[i].state != at && threads[i].state != DONE) return;
    for (unsigned i = from; i < to; i++)
        if (threads[i].state == at) threads[i].state = READY;
}

inline bool resume_ready() {
    bool any = false;
    for (unsigned i = 0; i < block_size.x; i++) {
        if (threads[i].state != READY) continue;
        any = true;
        thread.x = i;
        swapcontext(&scheduler, &threads[i].context);
    }
    return any;
}

inline void run_block() {
    for (unsigned i = 0; i < block_size.x; i++) {
        Thread& t = threads[i];
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = &stacks[i * STACK];
        t.context.uc_stack.ss_size = STACK;
        t.context.uc_link = &scheduler;
        t.state = READY;
        makecontext(&t.context, enter, 0);
    }
    while (resume_ready()) {
        for (unsigned i = 0; i < block_size.x; i += 32) release(i, i + 32 < block_size.x ? i + 32 : block_size.x, AT_WARP);
        release(0, block_size.x, AT_BLOCK);
    }
    for (unsigned i = 0; i < block_size.x; i++)
        if (threads[i].state != DONE) fprintf(stderr, "deadlock at a barrier\n"), abort();
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** a, std::index_sequence<I...>) {
    kernel(*(A*)a[I]...);
}

// Like cuLaunchKernel: `a` holds the addresses of the arguments.
template <auto kernel> struct Launch;
template <class... A, void (*kernel)(A...)> struct Launch<kernel> {
    static void trampoline(void** a) { call(kernel, a, std::index_sequence_for<A...>()); }
    static void run(unsigned grid, unsigned size, void** a) {
        threads.resize(size);
        stacks.resize(size * STACK);
        body = trampoline, arguments = a, block_size = {size, 1}, grid_size = {grid, 1};
        for (block.x = 0; block.x < grid; block.x++) run_block();
    }
};

inline void exchange(uint64_t value) {
    threads[thread.x].offer = value;
    pause(AT_WARP);
}

// Folds what the threads of this warp offered; the second barrier keeps the offers until all have read.
template <class F> uint64_t fold(uint64_t value, F f) {
    exchange(value);
    unsigned from = thread.x & ~31u;
    uint64_t result = threads[from].offer;
    for (unsigned i = from + 1; i < from + 32 && i < block_size.x; i++) result = f(result, threads[i].offer);
    pause(AT_WARP);
    return result;
}
}  // namespace shim

#define threadIdx shim::thread
#define blockIdx shim::block
#define blockDim shim::block_size
#define gridDim shim::grid_size

inline void __syncthreads() { shim::pause(shim::AT_BLOCK); }
inline void __syncwarp() { shim::pause(shim::AT_WARP); }
inline bool __all_sync(unsigned, bool p) { return shim::fold(p, [](uint64_t a, uint64_t b) { return a & b; }); }
inline bool __any_sync(unsigned, bool p) { return shim::fold(p, [](uint64_t a, uint64_t b) { return a | b; }); }
inline unsigned __reduce_max_sync(unsigned, unsigned v) {
    return (unsigned)shim::fold(v, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}
template <class T> T __shfl_sync(unsigned, T value, int lane) {
    shim::exchange(value);
    T result = (T)shim::threads[(shim::thread.x & ~31u) + lane].offer;
    shim::pause(shim::AT_WARP);
    return result;
}

inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((uint64_t)hi << 32) | lo) >> (n & 31));
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)(((((uint64_t)hi << 32) | lo) << (n & 31)) >> 32);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (unsigned)(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
    return result;
}

template <int SIZE> void async_copy(void* shared, unsigned long long source) {
    if (source % SIZE || (uintptr_t)shared % SIZE) fprintf(stderr, "misaligned async_copy\n"), abort();
    memcpy(shared, (const void*)source, SIZE);
}
inline unsigned add_high_half(unsigned x, unsigned sum) { return sum + (x >> 16); }
template <class T> T opaque(T x) { return x; }
inline void async_wait() {}

// One line per kernel at the end of a test translation unit: an entry with a C name for ctypes.
#define SHIM_EXPORT(kernel) \
    extern "C" void run_##kernel(unsigned grid, unsigned size, void** a) { shim::Launch<&kernel>::run(grid, size, a); }
