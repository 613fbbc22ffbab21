// SPDX-License-Identifier: Apache-2.0
// Purpose: reduces rows of 32-byte node values to roots: neighbours are paired level by level, an odd last
//   value moves up unchanged. BLAKE3's tree and RFC 9162's (split at the largest power of two) both equal that.
// Thread mapping: large rows: a block per tile of up to TILE values, reduced in shared memory;
//   small rows: one thread per message, which wastes no lane however many messages there are.
// Bytes moved: 32 bytes read per value; 32 written per tile or message.
// Specification: docs/format.md, tree digests; RFC 9162 section 2.1.1; BLAKE3 paper section 2.1.
#pragma once
#include "types.cuh"

#define TREE_THREADS 128
#define TREE_TILE 1024  // values per block; any smaller power of two may be asked for

// One message at one level. The host writes one table per level.
struct alignas(16) TreeEntry {
    u32 first;  // index of its first value in the input
    u32 count;  // number of values, at least 1
    u32 dest;   // index of its digest in the output
    u32 tile;   // index of its first tile (large rows only; ascending)
};

// Word-major, so that reading two neighbours is one conflict-free 8-byte access.
struct TreeShared {
    alignas(16) u32 even[8][TREE_TILE / 4];
    alignas(16) u32 odd[8][TREE_TILE / 8];
};

// Two neighbouring values, 64 bytes; 32-byte alignment suffices.
DEV void load_children(u32 (&m)[16], const u32* values) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 q = *(const uint4*)(values + 4 * i);
        m[4 * i] = q.x, m[4 * i + 1] = q.y, m[4 * i + 2] = q.z, m[4 * i + 3] = q.w;
    }
}

DEV void store_value(u32* to, const u32 (&value)[8]) {
    *(uint4*)to = make_uint4(value[0], value[1], value[2], value[3]);
    *(uint4*)(to + 4) = make_uint4(value[4], value[5], value[6], value[7]);
}

DEV void load_value(u32 (&value)[8], const u32* from) {
    uint4 a = *(const uint4*)from, b = *(const uint4*)(from + 4);
    value[0] = a.x, value[1] = a.y, value[2] = a.z, value[3] = a.w;
    value[4] = b.x, value[5] = b.y, value[6] = b.z, value[7] = b.w;
}

// Thread: 1 to 4 neighbouring values in device memory to one, two levels without a barrier in between.
template <class Node>
DEV void reduce_quad(u32 (&value)[8], const u32* values, u32 count, bool root, const Node& node) {
    u32 left[8];
    if (count == 1) load_value(value, values);
#pragma unroll 1
    for (u32 step = 0; step + 1 < count; step++) {
        // One merge in the code for (0, 1), (2, 3) and the join: more copies crowd the instruction cache.
        u32 m[16];
        bool last = step + 2 == count;
        if (step == 0 || !last) {
            load_children(m, values + 16 * step);
        } else {
            if (count == 3) load_value(value, values + 16);  // the odd one moves up unchanged
#pragma unroll
            for (int i = 0; i < 8; i++) m[i] = left[i], m[i + 8] = value[i];
        }
        node.merge(value, m, root && last);
        if (step == 0) {
#pragma unroll
            for (int i = 0; i < 8; i++) left[i] = value[i];
        }
    }
}

DEV u32 quad_size(u32 count, u32 quad) { return count - 4 * quad < 4 ? count - 4 * quad : 4; }

// Block: `count` values (1 to TREE_TILE) to one, which thread 0 returns in `value`.
template <class Node>
DEV void reduce_tile(u32 (&value)[8], const u32* values, u32 count, bool root, const Node& node, TreeShared& s) {
    u32* src = &s.even[0][0];
    u32* dst = &s.odd[0][0];
    u32 src_width = TREE_TILE / 4, dst_width = TREE_TILE / 8;
    u32 quads = (count + 3) / 4;
    for (u32 i = threadIdx.x; i < quads; i += blockDim.x) {
        reduce_quad(value, values + 32 * (u64)i, quad_size(count, i), root && quads == 1, node);
#pragma unroll
        for (int w = 0; w < 8; w++) src[w * src_width + i] = value[w];
    }
    for (u32 n = quads; n > 1; n = (n + 1) / 2) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < (n + 1) / 2; i += blockDim.x) {
            u32 m[16];
#pragma unroll
            for (int w = 0; w < 8; w++) {
                uint2 both = *(const uint2*)(src + w * src_width + 2 * i);  // widths are even: in bounds
                m[w] = value[w] = both.x;
                m[w + 8] = both.y;
            }
            if (2 * i + 1 < n) node.merge(value, m, root && n == 2);
#pragma unroll
            for (int w = 0; w < 8; w++) dst[w * dst_width + i] = value[w];
        }
        u32* other = src;
        src = dst, dst = other;
        u32 other_width = src_width;
        src_width = dst_width, dst_width = other_width;
    }
}

// Thread: a message's values to one, in place. In place in device memory, not on a stack, because
// a stack indexed at run time would live in local memory for every thread of the kernel.
template <class Node> DEV void reduce_serial(u32 (&value)[8], u32* values, u32 count, bool root, const Node& node) {
    for (;;) {
        u32 quads = (count + 3) / 4;
#pragma unroll 1
        for (u32 i = 0; i < quads; i++) {
            reduce_quad(value, values + 32 * (u64)i, quad_size(count, i), root && quads == 1, node);
            if (quads > 1) store_value(values + 8 * (u64)i, value);
        }
        if (quads == 1) return;
        count = quads;
    }
}

struct TreeArgs {
    u32* values;               // input of this level; small rows are overwritten
    const TreeEntry* entries;  // `large` entries with tiles, then `small` ones
    u32 large, tiles, small, tile;  // counts; tile: values per tile
    bool root;                 // false: chaining values only (subtrees)
    u32* tile_out;             // [tiles] values for the next level
    u32* digests;              // [messages] finished values
};

// Grid: `tiles` blocks, then ceil(small / TREE_THREADS) blocks.
template <class Node> DEV void reduce_level(const TreeArgs& t, const Node& node, TreeShared& shared) {
    u32 value[8];
    if (blockIdx.x >= t.tiles) {
        u32 i = (blockIdx.x - t.tiles) * blockDim.x + threadIdx.x;
        if (i >= t.small) return;
        TreeEntry e = t.entries[t.large + i];
        reduce_serial(value, t.values + 8 * (u64)e.first, e.count, t.root, node);
        store_value(t.digests + 8 * (u64)e.dest, value);
        return;
    }
    u32 lo = 0, hi = t.large;
    while (hi - lo > 1) {
        u32 mid = lo + (hi - lo) / 2;
        if (t.entries[mid].tile <= blockIdx.x)
            lo = mid;
        else
            hi = mid;
    }
    TreeEntry e = t.entries[lo];
    u32 done = (blockIdx.x - e.tile) * t.tile;
    u32 count = e.count - done < t.tile ? e.count - done : t.tile;
    bool last = t.root && e.count <= t.tile;
    reduce_tile(value, t.values + 8 * ((u64)e.first + done), count, last, node, shared);
    if (threadIdx.x == 0) store_value(last ? t.digests + 8 * (u64)e.dest : t.tile_out + 8 * (u64)blockIdx.x, value);
}
