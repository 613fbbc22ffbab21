// SPDX-License-Identifier: Apache-2.0
// Purpose: LtHash16-1024: the lane-wise sum mod 2^16 of the elements of n leaves of 32 bytes.
// Thread mapping: partial: a warp per leaf, lane i computes XOF block i, which is 32 of the 1024 lanes of
//   the element, and keeps their sums in registers over all leaves of the warp; finish: 16 threads per word.
// Bytes moved: partial: 32 bytes read per leaf, 2 KiB written per block; finish: 2 KiB read per block.
// Specification: docs/format.md, lattice sums; BLAKE3 paper section 2.6 (XOF).
#include "blake3.cuh"
#include "ptx.cuh"
#include "tree.cuh"

#define LATTICE_THREADS 256
#define LATTICE_BLOCKS 3  // per SM at least
#define FINISH_THREADS 512
#define LATTICE_WORDS 512  // 1024 lanes of 16 bits

DEV u32 add_lanes(u32 a, u32 b) { return ((a & 0xffff0000u) + (b & 0xffff0000u)) | ((a + b) & 0xffffu); }

// Sums of packed lanes without masking carries at every step: `full` adds whole words, so that its low half is
// right and its high half has collected carries; `high` adds the high halves alone.
struct LaneSums {
    u32 full[16], high[16];

    METHOD void clear() {
#pragma unroll
        for (int i = 0; i < 16; i++) full[i] = high[i] = 0;
    }

    METHOD void add_element(const u32* leaf, u32 nbytes, u32 xof_block, u32 one) {
        u32 value[8], m[16], v[16];
        load_value(value, leaf);
#pragma unroll
        for (int i = 0; i < 8; i++) m[i] = value[i], m[i + 8] = 0;
        blake3_xof(v, m, xof_block, nbytes, one);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            full[i] = add(full[i], v[i], one);
            high[i] = add_high_half(v[i], high[i]);
        }
    }

    METHOD u32 packed(int i) const { return high[i] << 16 | (full[i] & 0xffffu); }
};

// Partial sums are stored word-major (word * 32 + xof block), so that lanes write neighbouring words.
// leaf_bytes is 32 for records; published vectors have shorter messages, padded with zeros to 32 bytes.
extern "C" __global__ void __launch_bounds__(LATTICE_THREADS, LATTICE_BLOCKS)
lattice_partial(const u32* leaves, u32 n, u32 leaf_bytes, u32 one, u32* partial) {
    __shared__ u32 sums[LATTICE_WORDS];
    u32 lane = threadIdx.x % 32, warps = blockDim.x / 32;
    LaneSums mine;
    mine.clear();
#pragma unroll 1
    for (u32 i = blockIdx.x * warps + threadIdx.x / 32; i < n; i += gridDim.x * warps)
        mine.add_element(leaves + 8 * (u64)i, leaf_bytes, lane, one);
    for (u32 w = 0; w < warps; w++) {
        if (threadIdx.x / 32 == w) {
#pragma unroll
            for (int i = 0; i < 16; i++) sums[i * 32 + lane] = w ? add_lanes(sums[i * 32 + lane], mine.packed(i)) : mine.packed(i);
        }
        __syncthreads();
    }
    for (u32 i = threadIdx.x; i < LATTICE_WORDS; i += blockDim.x) partial[(u64)blockIdx.x * LATTICE_WORDS + i] = sums[i];
}

// Grid: LATTICE_WORDS / 32 blocks of FINISH_THREADS threads. state is 2048 bytes in element order.
extern "C" __global__ void __launch_bounds__(FINISH_THREADS) lattice_finish(const u32* partial, u32 blocks, u32* state) {
    __shared__ u32 sums[FINISH_THREADS / 32][32];
    u32 lane = threadIdx.x % 32, slice = threadIdx.x / 32, word = blockIdx.x * 32 + lane;
    u32 sum = 0;
#pragma unroll 4
    for (u32 i = slice; i < blocks; i += FINISH_THREADS / 32) sum = add_lanes(sum, partial[(u64)i * LATTICE_WORDS + word]);
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice) return;
    for (u32 i = 1; i < FINISH_THREADS / 32; i++) sum = add_lanes(sum, sums[i][lane]);
    state[lane * 16 + blockIdx.x] = sum;  // block = word of the XOF block, lane = XOF block
}
