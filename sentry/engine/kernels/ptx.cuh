// SPDX-License-Identifier: Apache-2.0
// Purpose: the only inline assembly: asynchronous copies from device memory to shared memory (sm_80 on), a
//   16-bit dot product, and a barrier against optimisation.
// Thread mapping: per thread; a thread waits for its own copies, a warp barrier makes all lanes' visible.
// Bytes moved: SIZE per copy. The form of cp.async that reads fewer bytes and fills up with zeros is not used:
//   compute-sanitizer counts the whole SIZE as read, and a tail would look like an access out of bounds.
// Specification: PTX ISA, cp.async and dp2a. The host tests define SENTRY_NO_PTX and bring their own versions.
#pragma once
#include "types.cuh"

#ifndef SENTRY_NO_PTX
// Both address registers are aligned to SIZE. The hint fetches the other half of a 128-byte line into L2, where
// the next block of the row finds it: half as many DRAM accesses. It stays inside the line, hence the allocation.
template <int SIZE> DEV void async_copy(void* shared, u64 source) {
    u32 to = (u32)__cvta_generic_to_shared(shared);
    // 16-byte copies skip L1 (.cg): every byte is used once. Shorter ones exist only as .ca.
    if (SIZE == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(source) : "memory");
    else
        asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2;" ::"r"(to), "l"(source), "n"(SIZE) : "memory");
}

// sum + the high 16 bits of x. Dot products run on the FMA pipe, a shift would take the ALU pipe.
DEV u32 add_high_half(u32 x, u32 sum) {
    u32 result;
    asm("dp2a.lo.u32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(0x0100), "r"(sum));
    return result;
}

// Hides from the compiler what a value is. Addresses derived from it are then computed where they are used:
// hoisted out of a loop they would occupy two registers each for the whole kernel.
DEV u64 opaque(u64 x) {
    asm volatile("" : "+l"(x));
    return x;
}

DEV void async_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif
