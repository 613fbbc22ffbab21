// SPDX-License-Identifier: Apache-2.0
// Purpose: BLAKE3's compression function, its chunk step and its parent step.
// Thread mapping: one thread per compression; 4 independent quarter rounds give the instruction parallelism.
// Bytes moved: none (registers only): 64 bytes in, 32 out per compression.
// Specification: the BLAKE3 paper, sections 2.1 to 2.5 (table 1: IV; table 2: permutation; table 3: flags).
//
// Per compression 7 * 8 * (4 xor + 4 rotations) + 8 xor = 456 operations on the ALU pipe; the 336
// additions go to the FMA pipe (types.cuh).
#pragma once
#include "types.cuh"

enum : u32 { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8 };

#define BLAKE3_IV0 0x6a09e667u
#define BLAKE3_IV1 0xbb67ae85u
#define BLAKE3_IV2 0x3c6ef372u
#define BLAKE3_IV3 0xa54ff53au
#define BLAKE3_IV4 0x510e527fu
#define BLAKE3_IV5 0x9b05688cu
#define BLAKE3_IV6 0x1f83d9abu
#define BLAKE3_IV7 0x5be0cd19u

DEV void blake3_g(u32& a, u32& b, u32& c, u32& d, u32 x, u32 y, u32 one) {
    a = add(add(a, b, one), x, one);
    d = rotr32(d ^ a, 16);
    c = add(c, d, one);
    b = rotr32(b ^ c, 12);
    a = add(add(a, b, one), y, one);
    d = rotr32(d ^ a, 8);
    c = add(c, d, one);
    b = rotr32(b ^ c, 7);
}

// v[0..7] holds the chaining value on entry. The message order of each round is a compile-time constant
// once the loops are unrolled, so permuting costs nothing and no array is indexed at run time.
DEV void blake3_rounds(u32 (&v)[16], const u32 (&m)[16], u32 counter, u32 nbytes, u32 flags, u32 one) {
    constexpr u8 order[7][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8},
        {3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1}, {10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6},
        {12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4}, {9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7},
        {11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13}};
    v[8] = BLAKE3_IV0, v[9] = BLAKE3_IV1, v[10] = BLAKE3_IV2, v[11] = BLAKE3_IV3;
    // Chunk numbers are 32 bits here (4 TiB per batch), so the counter's high word is always 0.
    v[12] = counter, v[13] = 0, v[14] = nbytes, v[15] = flags;
#pragma unroll
    for (int r = 0; r < 7; r++) {
        const u8* s = order[r];
        u32 one_column = r == 0 ? one_for_constants() : one;  // IV and key words are constants
        blake3_g(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]], one_column);
        blake3_g(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]], one_column);
        blake3_g(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]], one_column);
        blake3_g(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]], one_column);
        blake3_g(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]], one);
        blake3_g(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]], one);
        blake3_g(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]], one);
        blake3_g(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]], one);
    }
}

DEV void blake3_compress(u32 (&h)[8], const u32 (&m)[16], u32 counter, u32 nbytes, u32 flags, u32 one) {
    u32 v[16];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = h[i];
    blake3_rounds(v, m, counter, nbytes, flags, one);
#pragma unroll
    for (int i = 0; i < 8; i++) h[i] = v[i] ^ v[i + 8];
}

// Words 0 to 15 of XOF block `counter` of a one-block message under the standard IV.
DEV void blake3_xof(u32 (&v)[16], const u32 (&m)[16], u32 counter, u32 nbytes, u32 one) {
    const u32 iv[8] = {BLAKE3_IV0, BLAKE3_IV1, BLAKE3_IV2, BLAKE3_IV3, BLAKE3_IV4, BLAKE3_IV5, BLAKE3_IV6, BLAKE3_IV7};
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = iv[i];
    blake3_rounds(v, m, counter, nbytes, CHUNK_START | CHUNK_END | ROOT, one);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] ^= v[i + 8];
        v[i + 8] ^= iv[i];
    }
}

// Key words as kernel arguments: they stay in constant memory and cost neither loads nor registers.
struct Blake3Key {
    u64 words[4];
    METHOD u32 word(int i) const { return (u32)(words[i / 2] >> (32 * (i & 1))); }
};

// How tree.cuh merges two children: the 64-byte block of a parent node under the key words.
struct Blake3Node {
    Blake3Key key;
    u32 flags, one;

    METHOD void merge(u32 (&out)[8], const u32 (&children)[16], bool root) const {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = key.word(i);
        blake3_compress(out, children, 0, 64, flags | PARENT | (root ? ROOT : 0), one);
    }
};
