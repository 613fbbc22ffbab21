// SPDX-License-Identifier: Apache-2.0
// Purpose: SHA-256 as a policy of hashes.cuh: state, padding, compression.
// Thread mapping: one thread per message or leaf; the chain of blocks is sequential by definition.
// Bytes moved: none (registers only): 64 bytes in per block.
// Specification: FIPS 180-4 sections 4.1.2, 4.2.2, 5.1.1, 6.2.
//
// Per block 64 * 10 + 48 * 8 = 1024 operations on the ALU pipe (rotations, logic) and 16 permutations
// that swap bytes, merge misaligned words and shift in the Merkle prefix at once. The 600 additions go to
// the FMA pipe (types.cuh).
#pragma once
#include "stage.cuh"

struct Sha256 {
    static const int WORDS = 16;         // words per block
    static const int DIGEST_WORDS = 8;
    static const int THREADS = 128;
    static const int BLOCKS = 8;       // per SM at least: caps the registers of leaves and flat
    static const int TREE_BLOCKS = 8;
    u32 h[8];
    u32 w[16];

    METHOD void init() {
        const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
#pragma unroll
        for (int i = 0; i < 8; i++) h[i] = start[i];
    }

    // At least 9 bytes follow the message: 0x80 and the length in bits.
    template <class Length> DEV u32 blocks(Length nbytes) { return (u32)((nbytes + 8) / 64) + 1; }

    template <class Source> METHOD void take(Source& stage) {
        stage.words(w);
        stage.merged(w, select_be(stage.shift));
    }

    // Bytes of the stream as little-endian words, for nodes, whose input is in registers.
    METHOD void take_words(const u32 (&stream)[WORDS]) {
#pragma unroll
        for (int i = 0; i < 16; i++) w[i] = byte_swap(stream[i]);
    }

    template <class Length> METHOD void pad(u32 block, Length nbytes) {
        Length at = nbytes - (Length)block * 64;  // position of 0x80 in this block; wraps if it lay in the last one
        if (at < 64) {
            u32 mark = 0x80000000u >> (8 * (at & 3));
#pragma unroll
            for (u32 i = 0; i < 16; i++) w[i] |= i == (u32)at / 4 ? mark : 0;
        }
        if (block + 1 == blocks(nbytes)) {
            w[14] = (u32)((u64)nbytes >> 29);
            w[15] = (u32)(nbytes << 3);
        }
    }

    template <class Length> METHOD void step(u32 block, Length nbytes, u32 one) {
        if ((Length)(block + 1) * 64 > nbytes) pad(block, nbytes);
        compress(one);
    }

    METHOD void digest(u32 (&out)[DIGEST_WORDS]) const {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = byte_swap(h[i]);
    }

    DEV u32 big_sigma0(u32 x) { return rotr32(x, 2) ^ rotr32(x, 13) ^ rotr32(x, 22); }
    DEV u32 big_sigma1(u32 x) { return rotr32(x, 6) ^ rotr32(x, 11) ^ rotr32(x, 25); }
    DEV u32 small_sigma0(u32 x) { return rotr32(x, 7) ^ rotr32(x, 18) ^ x >> 3; }
    DEV u32 small_sigma1(u32 x) { return rotr32(x, 17) ^ rotr32(x, 19) ^ x >> 10; }

    // Message schedule in place: w[i] becomes W[i + 16]. Sums run through the first operand, the one that is
    // multiplied: x*one + y*one would be factored back into ALU additions by the compiler.
    METHOD void extend(int i, u32 one) {
        u32 t = add(w[i & 15], w[(i + 9) & 15], one);
        t = add(t, small_sigma0(w[(i + 1) & 15]), one);
        w[i & 15] = add(t, small_sigma1(w[(i + 14) & 15]), one);
    }

    METHOD void compress(u32 one) {
        constexpr u32 k[64] = {
            0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
            0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
            0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
            0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
            0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
            0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
            0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
        u32 one_k = one_for_constants();
        u32 a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], x = h[7];
#pragma unroll
        for (int i = 0; i < 64; i++) {
            // x + k + w does not wait for the previous round; only the last two additions do.
            u32 t = add(add(x, k[i], one_k), w[i & 15], one);
            t = add(t, (e & f) ^ (~e & g), one);
            t = add(t, big_sigma1(e), one);
            d = add(d, t, one);
            u32 n = add(big_sigma0(a), (a & b) ^ (a & c) ^ (b & c), one);
            x = g, g = f, f = e, e = d, d = c, c = b, b = a, a = add(n, t, one);
            if (i < 48) extend(i, one);
        }
        h[0] = add(h[0], a, one), h[1] = add(h[1], b, one), h[2] = add(h[2], c, one), h[3] = add(h[3], d, one);
        h[4] = add(h[4], e, one), h[5] = add(h[5], f, one), h[6] = add(h[6], g, one), h[7] = add(h[7], x, one);
    }
};
