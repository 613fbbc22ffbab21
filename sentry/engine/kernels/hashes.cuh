// SPDX-License-Identifier: Apache-2.0
// Purpose: what all sequential hashes share: the loop over the blocks of 32 pieces, and RFC 9162 nodes.
//   A hash is a policy type with WORDS, DIGEST_WORDS, THREADS, init, blocks, take, take_words, step, digest.
// Thread mapping: one warp per 32 pieces, one thread per piece.
// Bytes moved: see stage.cuh; DIGEST_WORDS * 4 bytes written per piece.
// Specification: docs/format.md, tree digests; RFC 9162 section 2.1.1.
#pragma once
#include "stage.cuh"
#include "tree.cuh"

template <class Hash> struct WarpShared {
    alignas(16) u32 buf[Hash::THREADS / 32][32 * Pitch<Hash::WORDS>::value];
    Row rows[Hash::THREADS / 32][32];
};

// Collective over a warp. Lanes without a piece pass `active` = false and help loading. Length is the
// integer type of stream lengths: 32 bits are enough for leaves and save registers.
template <int HEAD, class Length, class Hash>
DEV void hash_pieces(Hash& hash, const Batch& batch, const Piece& piece, bool active, u32 spacing,
                     WarpShared<Hash>& shared, u32 one) {
    u32 warp = threadIdx.x / 32;
    Stage<Hash::WORDS, HEAD> stage;
    stage.lane = threadIdx.x % 32;
    stage.buf = shared.buf[warp];
    stage.rows = shared.rows[warp];
    stage.open(piece, spacing);
    Length nbytes = (Length)(piece.nbytes + (HEAD && piece.nbytes ? 1 : 0));
    u32 mine = active ? Hash::blocks(nbytes) : 0;
    u32 most = __reduce_max_sync(FULL_WARP, mine);
    hash.init();
    stage.fill(0);
#pragma unroll 1
    for (u32 block = 0; block < most; block++) {
        stage.begin(batch, block);
        if (block < mine) hash.take(stage);
        stage.end(block, most);
        if (block < mine) hash.step(block, nbytes, one);
    }
}

template <int N> DEV void store_digest(u32* to, const u32 (&value)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4) *(uint4*)(to + i) = make_uint4(value[i], value[i + 1], value[i + 2], value[i + 3]);
}

// H(0x01 || left || right) with 32-byte children.
template <class Hash> struct HashNode {
    u32 one;

    METHOD void merge(u32 (&out)[8], const u32 (&children)[16], bool) const {
        u32 stream[Hash::WORDS];
        Hash hash;
        hash.init();
        stream[0] = children[0] << 8 | 0x01;
#pragma unroll
        for (int i = 1; i < Hash::WORDS; i++)
            stream[i] = i < 16 ? __funnelshift_r(children[i - 1], children[i < 16 ? i : 15], 24) : 0;
        // The 65th byte: word 16, which is in a second block if blocks have 64 bytes.
        u32 tail = children[15] >> 24;
        if (Hash::WORDS > 16) stream[16 % Hash::WORDS] = tail;
#pragma unroll 1
        for (u32 block = 0; block < Hash::blocks(65u); block++) {
            hash.take_words(stream);
            hash.step(block, 65u, one);
#pragma unroll
            for (int i = 0; i < Hash::WORDS; i++) stream[i] = i ? 0 : tail;
        }
        hash.digest(out);
    }
};
