// SPDX-License-Identifier: Apache-2.0
// Purpose: BLAKE2b (unkeyed, any digest length) as a policy of hashes.cuh.
// Thread mapping: one thread per message or leaf.
// Bytes moved: none (registers only): 128 bytes in per block.
// Specification: RFC 7693 sections 2.5 to 3.3.
//
// 96 quarter rounds per block, each 6 additions of 64 bits, 4 xors and 3 rotations that cost something (by
// 32 is a renaming). The compiler splits an addition between the pipes by itself (IADD3 + IMAD.X). Adding with
// IMAD.WIDE takes all of it off the ALU pipe and was 9 to 27 % slower on an H100: it has a lower rate.
#pragma once
#include "stage.cuh"

// 64-bit rotations as 32-bit operations; n is a constant.
template <u32 N> DEV u64 rotr64(u64 x) {
    u32 lo = (u32)x, hi = (u32)(x >> 32);
    if (N == 32) return (u64)lo << 32 | hi;
    if (N % 8 == 0 && N < 32) {
        const u32 s = 0x3210 + 0x1111 * (N / 8);
        return (u64)__byte_perm(hi, lo, s) << 32 | __byte_perm(lo, hi, s);
    }
    if (N < 32) return (u64)__funnelshift_r(hi, lo, N) << 32 | __funnelshift_r(lo, hi, N);
    return (u64)__funnelshift_r(lo, hi, N - 32) << 32 | __funnelshift_r(hi, lo, N - 32);
}

template <int DIGEST_BYTES> struct Blake2b {
    static const int WORDS = 32;
    static const int DIGEST_WORDS = DIGEST_BYTES / 4;
    static const int THREADS = 128;
    static const int BLOCKS = 4;       // per SM at least: caps the registers of leaves and flat
    static const int TREE_BLOCKS = 5;
    u64 h[8];
    u64 m[16];

    DEV u64 iv(int i) {
        constexpr u64 v[8] = {0x6a09e667f3bcc908ull, 0xbb67ae8584caa73bull, 0x3c6ef372fe94f82bull, 0xa54ff53a5f1d36f1ull,
                              0x510e527fade682d1ull, 0x9b05688c2b3e6c1full, 0x1f83d9abfb41bd6bull, 0x5be0cd19137e2179ull};
        return v[i];
    }

    METHOD void init() {
#pragma unroll
        for (int i = 0; i < 8; i++) h[i] = iv(i);
        h[0] ^= 0x01010000u ^ DIGEST_BYTES;  // parameter block: fanout 1, depth 1, no key
    }

    template <class Length> DEV u32 blocks(Length nbytes) { return nbytes ? (u32)((nbytes + 127) / 128) : 1; }

    template <class Source> METHOD void take(Source& stage) {
        u32 w[32];
        stage.words(w);
        stage.merged(w, select_le(stage.shift));
        take_words(w);
    }

    METHOD void take_words(const u32 (&stream)[WORDS]) {
#pragma unroll
        for (int i = 0; i < 16; i++) m[i] = (u64)stream[2 * i + 1] << 32 | stream[2 * i];
    }

    // Padding is zeros, which staging has put there; only counter and last-block flag are left.
    template <class Length> METHOD void step(u32 block, Length nbytes, u32) {
        Length done = (Length)(block + 1) * 128;
        compress(done < nbytes ? done : nbytes, done >= nbytes);
    }

    METHOD void digest(u32 (&out)[DIGEST_WORDS]) const {
#pragma unroll
        for (int i = 0; i < DIGEST_WORDS; i++) out[i] = (u32)(h[i / 2] >> (32 * (i & 1)));
    }

    DEV void g(u64& a, u64& b, u64& c, u64& d, u64 x, u64 y) {
        a = a + b + x;
        d = rotr64<32>(d ^ a);
        c = c + d;
        b = rotr64<24>(b ^ c);
        a = a + b + y;
        d = rotr64<16>(d ^ a);
        c = c + d;
        b = rotr64<63>(b ^ c);
    }

    METHOD void compress(u64 counter, bool last) {
        constexpr u8 sigma[10][16] = {
            {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
            {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
            {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
            {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
            {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};
        u64 v[16];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = h[i], v[i + 8] = iv(i);
        v[12] ^= counter;
        if (last) v[14] = ~v[14];
#pragma unroll
        for (int r = 0; r < 12; r++) {
            const u8* s = sigma[r % 10];
            g(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]);
            g(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]);
            g(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]);
            g(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]);
            g(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]);
            g(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]);
            g(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]);
            g(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
    }
};
