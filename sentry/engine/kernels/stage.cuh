// SPDX-License-Identifier: Apache-2.0
// Purpose: feeds 32 pieces (chunks, leaves or messages), one per lane, to a hash, block by block.
// Thread mapping: one warp. Lane i owns row i; all lanes together load the rows, so that a warp reads whole
//   runs of 64 bytes or more instead of 32 scattered words; then each lane reads its own row.
// Bytes moved: every input byte once from device memory, once through shared memory (16-byte accesses,
//   rows padded: no bank conflicts).
// Specification: none; RFC 9162's leaf prefix, the byte 0x00, is put in front of the bytes here.
//
// The stream of a row is `prefix byte (optional) || piece`. If the stream starts `shift` bytes after a 4-byte
// boundary, aligned words are staged from the *next* boundary on, and the owner merges neighbouring words with
// one byte permutation; the first, partial word is read byte by byte. So every alignment, and the
// prefix byte, costs the same permutation, and nothing outside the piece is ever read.
#pragma once
#include "ptx.cuh"
#include "segments.cuh"

struct alignas(16) Row {
    u64 ptr;  // address of the first staged word (16-byte, 8-byte or 4-byte aligned); with GATHERED: an offset
    u64 end;  // address after the last byte of the piece; not above ptr: nothing to stage
};

// A piece that crosses segments: its row is assembled by its owner. As an address the value lies beyond every
// end, so that the loading lanes find nothing to copy.
#define GATHERED (1ull << 63)

// Words from row to row. Four more than a block keep the 16-byte reads of neighbouring lanes on different
// banks, without the address arithmetic of a swizzle; rows of 34 words (SHA3) are free of conflicts as they are.
template <int WORDS> struct Pitch {
    static const int value = WORDS % 4 ? WORDS : WORDS + 4;
};

// HEAD: 1 if non-empty pieces are preceded by the prefix byte 0x00, else 0.
template <int WORDS, int HEAD> struct Stage {
    static const int BLOCK = WORDS * 4;                  // bytes per block
    static const int UNIT = WORDS % 4 ? 8 : 16;          // widest copy that divides a block
    static const int PITCH = Pitch<WORDS>::value;
    u32* buf;     // shared, 32 * PITCH words of this warp
    Row* rows;    // shared, 32 rows of this warp
    u32 lane;
    u32 unit;     // bytes per copy that the alignment of all rows allows: UNIT, 8 or 4
    u32 bulk;     // number of blocks that can be staged without looking at single rows
    u32 stride;   // bulk blocks: bytes from row to row
    u64 base;     // bulk blocks: address of the first unit that this lane copies
    bool gather;  // this lane's piece crosses segments
    u32 shift;    // 0 to 4, see above; 4: staged words are stream words
    u32 carry;    // last word of the previous block

    // Lanes that load one row together: 136-byte blocks leave a rest, which fill_bulk copies separately.
    template <int SIZE> static METHOD u32 row_lanes() {
        return BLOCK / SIZE >= 32 ? 32 : BLOCK / SIZE >= 16 ? 16 : BLOCK / SIZE >= 8 ? 8 : 4;
    }

    // The first, partial word of a stream that starts at address `start`: bytes outside of it are never used.
    // The prefix byte is zero, so it needs no store.
    METHOD u32 partial_word(const Piece& piece, u64 start, u32 head) const {
        u32 word = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u64 i = (start & ~3ull) + j - start - head;  // position in the piece; huge if before it
            if (i < piece.nbytes) word |= (u32) * (const u8*)(piece.ptr + i) << (8 * j);
        }
        return word;
    }

    // Collective. `spacing` is the distance between neighbouring pieces of one message (0: unknown).
    METHOD void open(const Piece& piece, u32 spacing) {
        u32 head = HEAD && piece.nbytes ? 1 : 0;
        gather = piece.gather;
        u64 start = piece.ptr - head;
        bool plain = gather || (head == 0 && (start & 3) == 0);
        shift = plain ? 4 : (u32)start & 3;
        carry = plain ? 0 : partial_word(piece, start, head);
        Row row;
        row.ptr = gather ? piece.ptr | GATHERED : plain ? piece.ptr : (start & ~3ull) + 4;
        row.end = piece.ptr + piece.nbytes;
        rows[lane] = row;
        u32 alignment = row.end <= row.ptr ? UNIT : (u32)row.ptr % UNIT;
        unit = __all_sync(FULL_WARP, alignment % UNIT == 0) ? UNIT : __all_sync(FULL_WARP, alignment % 8 == 0) ? 8 : 4;
        // Bulk: 32 full pieces, one after the other in memory. True for all but the edges of large messages.
        u64 first = __shfl_sync(FULL_WARP, row.ptr, 0);
        bool next = spacing && !gather && piece.nbytes == spacing && row.ptr == first + (u64)lane * spacing;
        bulk = __all_sync(FULL_WARP, next) ? (u32)(row.end - row.ptr) / BLOCK : 0;
        if (UNIT == 8 && unit == 4) bulk = 0;
        u32 lanes = unit == UNIT ? row_lanes<UNIT>() : unit == 8 ? row_lanes<8>() : row_lanes<4>();
        stride = spacing;
        base = first + (u64)(lane / lanes) * spacing + lane % lanes * unit;
        __syncwarp();
    }

    template <int SIZE> METHOD void fill_bulk(u32 block) {
        const u32 lanes = row_lanes<SIZE>();
        u64 from = opaque(base) + (u64)block * BLOCK;
        u32* to = buf + lane / lanes * PITCH + lane % lanes * (SIZE / 4);
#pragma unroll
        for (u32 i = 0; i < lanes; i++) {
            async_copy<SIZE>(to + i * (32 / lanes) * PITCH, from);
            from += (u64)stride * (32 / lanes);
        }
        if (BLOCK > lanes * SIZE)  // the last 8 of 136 bytes
            async_copy<UNIT>(buf + lane * PITCH + WORDS - 2, rows[lane].ptr + (u64)block * BLOCK + BLOCK - UNIT);
    }

    template <int SIZE> METHOD void fill_rows(u32 block) {
#pragma unroll 1
        for (u32 i = lane; i < 32u * BLOCK / SIZE; i += 32) {
            u32 r = i / (BLOCK / SIZE), at = i % (BLOCK / SIZE) * SIZE;
            Row row = rows[r];
            u64 from = row.ptr + (u64)block * BLOCK + at;
            u32* to = buf + r * PITCH + at / 4;
            if (from + SIZE <= row.end) {
                async_copy<SIZE>(to, from);
                continue;
            }
            // The tail of a message, padding, and rows that have ended or are gathered.
#pragma unroll 1
            for (u32 j = 0; j < SIZE / 4; j++) to[j] = word_before(from + 4 * j, row.end);
        }
    }

    // Up to four bytes at `from` that lie before `end`; zeros for the others.
    static METHOD u32 word_before(u64 from, u64 end) {
        u32 word = 0;
#pragma unroll
        for (u32 j = 0; j < 4; j++)
            if (from + j < end) word |= (u32) * (const u8*)(from + j) << (8 * j);
        return word;
    }

    METHOD void fill(u32 block) {
        if (block < bulk) {
            if (unit == UNIT)
                fill_bulk<UNIT>(block);
            else if (unit == 8)
                fill_bulk<8>(block);
            else if (UNIT == 16)
                fill_bulk<4>(block);
        } else if (unit == UNIT)
            fill_rows<UNIT>(block);
        else
            fill_rows<4>(block);
    }

    // Owner's slow path: assembles the block in its own row, which no other lane touches now.
    METHOD void gather_row(const Batch& batch, u32 block) {
        Row row = rows[lane];
        u64 at = (row.ptr & ~GATHERED) + (u64)block * BLOCK;
        bool first = HEAD && block == 0;
        Gather bytes;
        bytes.open(batch, at - (first ? 0 : HEAD), row.end);
#pragma unroll 1
        for (u32 i = 0; i < WORDS; i++) {
            u32 word = 0;
            for (u32 j = 0; j < 4; j++)
                if (!(first && i + j == 0)) word |= bytes.next() << (8 * j);
            buf[lane * PITCH + i] = word;
        }
    }

    // Collective: after begin() the row holds block `block`; after end() it must not be read any more.
    METHOD void begin(const Batch& batch, u32 block) {
        async_wait();
        __syncwarp();
        if (gather) gather_row(batch, block);
    }

    // One block ahead is enough: the hint of async_copy has brought it into L2 or the compression is long.
    METHOD void end(u32 block, u32 blocks) {
        __syncwarp();
        if (block + 1 < blocks) fill(block + 1);  // in flight while this block is hashed
    }

    METHOD uint2 pair(u32 i) const { return *(const uint2*)(buf + lane * PITCH + 2 * i); }

    METHOD u32 merge(u32 word, u32 selector) {
        u32 merged = __byte_perm(carry, word, selector);
        carry = word;
        return merged;
    }

    // The block as staged; merged() makes stream words of it with select_le(shift) or select_be(shift).
    METHOD void words(u32 (&m)[WORDS]) const {
#pragma unroll
        for (u32 i = 0; i < WORDS / 4; i++) {
            uint4 q = *(const uint4*)(buf + lane * PITCH + 4 * i);
            m[4 * i] = q.x, m[4 * i + 1] = q.y, m[4 * i + 2] = q.z, m[4 * i + 3] = q.w;
        }
    }

    METHOD void merged(u32 (&m)[WORDS], u32 selector) {
#pragma unroll
        for (u32 i = 0; i < WORDS; i++) m[i] = merge(m[i], selector);
    }
};
