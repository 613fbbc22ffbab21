// SPDX-License-Identifier: Apache-2.0
// Purpose: the few names that every kernel file needs: integer types, function markers, additions on
//   the FMA pipe, byte permutations.
// Thread mapping: none. Bytes moved: none. Specification: none.
//
// No toolkit or system header is included anywhere: <cuda/std/cstdint> moved between toolkit releases and
// NVRTC has no <cstdint>. The host tests force-include host_shim.h, which supplies the CUDA built-ins.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEV static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define FULL_WARP 0xffffffffu

// Integer hashes are bound by the ALU pipe (xor, rotate). `one` is a kernel argument that always holds 1:
// the compiler cannot know that, so a*one+b must become IMAD, which runs on the otherwise idle FMA pipe.
DEV u32 add(u32 a, u32 b, u32 one) { return a * one + b; }

// IMAD takes `one` from a uniform register, which leaves two reads of the register file (three of them often
// collide on its banks), but not if another operand is a constant. Additions of constants therefore
// use a second 1, which the compiler cannot know to be the same: every launch is one-dimensional.
DEV u32 one_for_constants() { return blockDim.y; }

DEV u32 rotr32(u32 x, u32 n) { return __funnelshift_r(x, x, n); }

// Selector for __byte_perm(previous, current, s): four consecutive bytes that start `shift` (0 to 4) bytes
// into the pair. The big-endian form reverses them, so the swap of SHA-256 costs nothing extra.
DEV u32 select_le(u32 shift) { return 0x3210u + 0x1111u * shift; }
DEV u32 select_be(u32 shift) { return 0x0123u + 0x1111u * shift; }

DEV u32 byte_swap(u32 x) { return __byte_perm(x, 0, 0x0123); }
