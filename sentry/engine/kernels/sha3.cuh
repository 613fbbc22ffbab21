// SPDX-License-Identifier: Apache-2.0
// Purpose: SHA3-256 as a policy of hashes.cuh: Keccak-f[1600], padding.
// Thread mapping: one thread per message or leaf; the state is 50 registers.
// Bytes moved: none (registers only): 136 bytes in per permutation.
// Specification: FIPS 202 sections 3.2, 3.3, 5.1, 6.1.
//
// Keccak has no additions: everything is logic and rotation on the ALU pipe. Rotating by multiplication (IMAD.WIDE)
// moves up to a quarter of it to the FMA pipe and was 7 to 23 % slower on an H100, so it is not done.
#pragma once
#include "stage.cuh"

template <u32 N> DEV u64 rotl64(u64 x) {
    u32 lo = (u32)x, hi = (u32)(x >> 32);
    if (N >= 32) return (u64)__funnelshift_l(hi, lo, N - 32) << 32 | __funnelshift_l(lo, hi, N - 32);
    return (u64)__funnelshift_l(lo, hi, N) << 32 | __funnelshift_l(hi, lo, N);
}

__constant__ u64 keccak_round[24] = {
    0x0000000000000001ull, 0x0000000000008082ull, 0x800000000000808aull, 0x8000000080008000ull, 0x000000000000808bull,
    0x0000000080000001ull, 0x8000000080008081ull, 0x8000000000008009ull, 0x000000000000008aull, 0x0000000000000088ull,
    0x0000000080008009ull, 0x000000008000000aull, 0x000000008000808bull, 0x800000000000008bull, 0x8000000000008089ull,
    0x8000000000008003ull, 0x8000000000008002ull, 0x8000000000000080ull, 0x000000000000800aull, 0x800000008000000aull,
    0x8000000080008081ull, 0x8000000000008080ull, 0x0000000080000001ull, 0x8000000080008008ull};

struct Sha3_256 {
    static const int WORDS = 34;
    static const int DIGEST_WORDS = 8;
    static const int THREADS = 128;
    static const int BLOCKS = 4;       // per SM at least: caps the registers of leaves and flat
    static const int TREE_BLOCKS = 5;
    u64 a[25];

    METHOD void init() {
#pragma unroll
        for (int i = 0; i < 25; i++) a[i] = 0;
    }

    template <class Length> DEV u32 blocks(Length nbytes) { return (u32)(nbytes / 136) + 1; }

    // Absorbs straight from shared memory: a copy of the block would cost 34 registers more.
    template <class Source> METHOD void take(Source& stage) {
        u32 selector = select_le(stage.shift);
#pragma unroll
        for (int i = 0; i < 17; i++) {
            uint2 p = stage.pair(i);
            u32 lo = stage.merge(p.x, selector), hi = stage.merge(p.y, selector);
            a[i] ^= (u64)hi << 32 | lo;
        }
    }

    METHOD void take_words(const u32 (&stream)[WORDS]) {
#pragma unroll
        for (int i = 0; i < 17; i++) a[i] ^= (u64)stream[2 * i + 1] << 32 | stream[2 * i];
    }

    template <class Length> METHOD void step(u32 block, Length nbytes, u32) {
        Length at = nbytes - (Length)block * 136;
        if (at < 136) {  // the last block: domain bits 01, then pad10*1
            u64 mark = 0x06ull << (8 * (at & 7));
#pragma unroll
            for (u32 i = 0; i < 17; i++) a[i] ^= i == (u32)at / 8 ? mark : 0;
            a[16] ^= 1ull << 63;
        }
        permute();
    }

    METHOD void digest(u32 (&out)[DIGEST_WORDS]) const {
#pragma unroll
        for (int i = 0; i < 8; i++) out[i] = (u32)(a[i / 2] >> (32 * (i & 1)));
    }

    METHOD void theta() {
        u64 c[5];
#pragma unroll
        for (int x = 0; x < 5; x++) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
#pragma unroll
        for (int x = 0; x < 5; x++) {
            u64 left = c[(x + 4) % 5], right = rotl64<1>(c[(x + 1) % 5]);
#pragma unroll
            for (int y = 0; y < 25; y += 5) a[x + y] = a[x + y] ^ left ^ right;  // one three-input LOP3 per half
        }
    }

    // rho and pi: lane (x, y) goes to (y, 2x + 3y), rotated.
    METHOD void rho_pi(u64 (&b)[25]) const {
        b[0] = a[0];
        b[10] = rotl64<1>(a[1]), b[20] = rotl64<62>(a[2]), b[5] = rotl64<28>(a[3]);
        b[15] = rotl64<27>(a[4]), b[16] = rotl64<36>(a[5]), b[1] = rotl64<44>(a[6]);
        b[11] = rotl64<6>(a[7]), b[21] = rotl64<55>(a[8]), b[6] = rotl64<20>(a[9]);
        b[7] = rotl64<3>(a[10]), b[17] = rotl64<10>(a[11]), b[2] = rotl64<43>(a[12]);
        b[12] = rotl64<25>(a[13]), b[22] = rotl64<39>(a[14]), b[23] = rotl64<41>(a[15]);
        b[8] = rotl64<45>(a[16]), b[18] = rotl64<15>(a[17]), b[3] = rotl64<21>(a[18]);
        b[13] = rotl64<8>(a[19]), b[14] = rotl64<18>(a[20]), b[24] = rotl64<2>(a[21]);
        b[9] = rotl64<61>(a[22]), b[19] = rotl64<56>(a[23]), b[4] = rotl64<14>(a[24]);
    }

    METHOD void permute() {
#pragma unroll 1
        for (int r = 0; r < 24; r++) {
            u64 b[25];
            theta();
            rho_pi(b);
#pragma unroll
            for (int y = 0; y < 25; y += 5)
#pragma unroll
                for (int x = 0; x < 5; x++) a[x + y] = b[x + y] ^ (~b[(x + 1) % 5 + y] & b[(x + 2) % 5 + y]);
            a[0] ^= keccak_round[r];
        }
    }
};
