// SPDX-License-Identifier: Apache-2.0
// Purpose: the input description that all kernels share. A batch is a list of messages; a message is the
//   concatenation of its segments (any address, any alignment, any length, 0 included).
// Thread mapping: per thread; table reads are warp-uniform or neighbouring, so they stay in L1.
// Bytes moved: 8 to 40 bytes of tables per piece of a message.
// Specification: docs/format.md, tree digests of a byte string.
#pragma once
#include "types.cuh"

struct Batch {
    const u64* seg_ptr;    // [segments] device address of each segment
    const u64* seg_start;  // [segments + 1] prefix sum of lengths over the whole batch
    const u32* msg_seg;    // [messages + 1] first segment of each message
    u32 messages;
};

// A run of bytes of one message. If it crosses a segment boundary there is no single address: then
// `gather` is set and `ptr` is its byte offset in the concatenation of all segments.
struct Piece {
    u64 ptr;
    u64 nbytes;
    bool gather;
};

// Largest i in [lo, hi) with prefix[i] <= x. Among equal values the last one wins, so empty segments,
// which share their start with the next segment, are never chosen for a byte that exists.
template <class T> DEV u32 find(const T* prefix, u32 lo, u32 hi, T x) {
    while (hi - lo > 1) {
        u32 mid = lo + (hi - lo) / 2;
        if (prefix[mid] <= x)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

DEV u64 message_bytes(const Batch& batch, u32 message) {
    return batch.seg_start[batch.msg_seg[message + 1]] - batch.seg_start[batch.msg_seg[message]];
}

// At most `want` bytes of a message from `offset` on; `offset` must not exceed the length.
DEV Piece locate(const Batch& batch, u32 message, u64 offset, u64 want) {
    u32 first = batch.msg_seg[message], last = batch.msg_seg[message + 1];
    u64 start = batch.seg_start[first] + offset;
    u64 left = batch.seg_start[last] - start;
    Piece piece = {0, left < want ? left : want, false};
    if (piece.nbytes == 0) return piece;
    u32 seg = find(batch.seg_start, first, last, start);
    piece.gather = start + piece.nbytes > batch.seg_start[seg + 1];
    piece.ptr = piece.gather ? start : batch.seg_ptr[seg] + (start - batch.seg_start[seg]);
    return piece;
}

// Message that owns a slot. Every message has at least one slot, so a warp's 32 slots belong to at most
// 32 messages: one uniform search for the warp, then five steps per lane instead of sixteen.
DEV u32 message_of_slot(const u32* first_slot, u32 messages, u32 warp_slot, u32 slot) {
    u32 lo = find(first_slot, 0u, messages, warp_slot);
    u32 hi = messages - lo > 32 ? lo + 32 : messages;
    if (first_slot[lo + 1] > warp_slot + 31) return lo;
    return find(first_slot, lo, hi, slot);
}

// Copies bytes [offset, offset + 4 * words) of the concatenation into `write(i, word)`, zero from `end` on.
// Byte by byte on purpose: this is the path for pieces that cross segments, a handful per tensor.
struct Gather {
    const Batch* batch;
    u64 at, end;
    u32 seg;

    METHOD void open(const Batch& b, u64 offset, u64 stop) {
        batch = &b;
        at = offset;
        end = stop;
        seg = at < end ? find(b.seg_start, 0u, b.msg_seg[b.messages], at) : 0;
    }

    METHOD u32 next() {
        if (at >= end) return 0;
        while (at >= batch->seg_start[seg + 1]) seg++;
        return *(const u8*)(batch->seg_ptr[seg] + (at++ - batch->seg_start[seg]));
    }
};
