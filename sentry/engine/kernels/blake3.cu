// SPDX-License-Identifier: Apache-2.0
// Purpose: BLAKE3 of many messages: chunk chaining values, then the tree; digests put into record preimages.
// Thread mapping: chunks: one thread per chunk of any message, warps independent, any block size that
//   is a multiple of 32 up to CHUNK_THREADS; nodes: see tree.cuh; fill_holes: one thread per word.
// Bytes moved: chunks: every input byte once, 32 bytes written per chunk.
// Specification: BLAKE3 paper sections 2.1 to 2.5; docs/format.md, records and leaves.
#include "blake3.cuh"
#include "stage.cuh"
#include "tree.cuh"

#define CHUNK_BYTES 1024
#define CHUNK_THREADS 128
#define CHUNK_BLOCKS 9  // per SM at least: 56 registers, 36 warps
#define NODE_BLOCKS 8   // 64 registers, 32 warps

struct ChunkShared {
    alignas(16) u32 buf[CHUNK_THREADS / 32][32 * Pitch<16>::value];
    Row rows[CHUNK_THREADS / 32][32];
};

// Collective over a warp; the lane's chunk to its chaining value.
DEV void hash_chunks(u32 (&h)[8], const Batch& batch, const Piece& piece, bool active, u32 counter, u32 flags,
                     u32 last_flags, ChunkShared& shared, u32 one) {
    Stage<16, 0> stage;
    stage.lane = threadIdx.x % 32;
    stage.buf = shared.buf[threadIdx.x / 32];
    stage.rows = shared.rows[threadIdx.x / 32];
    stage.open(piece, CHUNK_BYTES);
    u32 nbytes = (u32)piece.nbytes;
    u32 mine = !active ? 0 : nbytes ? (nbytes + 63) / 64 : 1;
    u32 most = __reduce_max_sync(FULL_WARP, mine);
    bool shifted = __any_sync(FULL_WARP, stage.shift != 4);
    u32 selector = select_le(stage.shift);
    stage.fill(0);
    flags |= CHUNK_START;
#pragma unroll 1
    for (u32 block = 0; block < most; block++) {
        u32 m[16];
        stage.begin(batch, block);
        stage.words(m);
        stage.end(block, most);
        if (shifted) stage.merged(m, selector);  // aligned warps save 16 of 480 ALU operations
        if (block < mine) {
            bool last = block + 1 == mine;
            blake3_compress(h, m, counter, last ? nbytes - block * 64 : 64, flags | (last ? last_flags : 0), one);
        }
        flags &= ~CHUNK_START;
    }
}

// cvs[slot] = chaining value of chunk slot - first_chunk[message]; with `root` the value of a message of
// one chunk is its digest already. `number` is that of the messages' first chunks: a message may be part of
// a longer one that passes in pieces.
extern "C" __global__ void __launch_bounds__(CHUNK_THREADS, CHUNK_BLOCKS)
chunks(const u64* seg_ptr, const u64* seg_start, const u32* msg_seg, const u32* first_chunk, u32 messages, u32 n_chunks,
       u32 number, u64 key0, u64 key1, u64 key2, u64 key3, u32 flags, u32 root, u32 one, u32* cvs) {
    __shared__ ChunkShared shared;
    u32 slot = blockIdx.x * blockDim.x + threadIdx.x;
    u32 warp_slot = slot & ~31u;
    if (warp_slot >= n_chunks) return;  // whole warps only: the others are needed for loading
    Batch batch = {seg_ptr, seg_start, msg_seg, messages};
    bool active = slot < n_chunks;
    Piece piece = {0, 0, false};
    u32 counter = 0, last_flags = CHUNK_END;
    if (active) {
        u32 message = message_of_slot(first_chunk, messages, warp_slot, slot);
        u32 begin = first_chunk[message];
        counter = number + (slot - begin);
        if (root && first_chunk[message + 1] - begin == 1) last_flags |= ROOT;
        piece = locate(batch, message, (u64)(slot - begin) * CHUNK_BYTES, CHUNK_BYTES);
    }
    Blake3Key key = {{key0, key1, key2, key3}};
    u32 h[8];
#pragma unroll
    for (int i = 0; i < 8; i++) h[i] = key.word(i);
    hash_chunks(h, batch, piece, active, counter, flags, last_flags, shared, one);
    if (active) store_value(cvs + (u64)slot * 8, h);
}

extern "C" __global__ void __launch_bounds__(TREE_THREADS, NODE_BLOCKS)
nodes(u32* values, const TreeEntry* entries, u32 large, u32 tiles, u32 small, u32 tile, u64 key0, u64 key1, u64 key2,
      u64 key3, u32 flags, u32 root, u32 one, u32* tile_out, u32* digests) {
    __shared__ TreeShared shared;
    TreeArgs args = {values, entries, large, tiles, small, tile, root != 0, tile_out, digests};
    Blake3Node node = {{{key0, key1, key2, key3}}, flags, one};
    reduce_level(args, node, shared);
}

// Record preimages have holes for content digests: digest which[i] is copied to address where[i], whose alignment is any.
// A thread writes one aligned word that lies inside the hole; a hole's last thread writes the bytes at both of its ends.
extern "C" __global__ void fill_holes(const u64* where, const u32* which, u32 holes, const u32* digests, u32 words) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 hole = i / words, word = i % words;
    if (hole >= holes) return;
    const u32* digest = digests + (u64)which[hole] * words;
    u64 to = where[hole];
    u32 value = digest[word], skew = (u32)to & 3;
    if (skew == 0) {
        *(u32*)(to + 4 * word) = value;
    } else if (word + 1 < words) {
        *(u32*)(to + 4 * word + 4 - skew) = __funnelshift_r(value, digest[word + 1], 32 - 8 * skew);
    } else {
        for (u32 b = 0; b < 4 - skew; b++) *(u8*)(to + b) = (u8)(digest[0] >> (8 * b));
        for (u32 b = 4 - skew; b < 4; b++) *(u8*)(to + 4 * word + b) = (u8)(value >> (8 * b));
    }
}
