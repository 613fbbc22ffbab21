// SPDX-License-Identifier: Apache-2.0
// Purpose: the three kernels of a sequential hash: leaves and nodes of the RFC 9162 tree, flat digests of
//   many messages. Compiled once per hash with -DSENTRY_HEADER="sha256.cuh" -DSENTRY_HASH=Sha256
//   (registry.py lists the pairs).
// Thread mapping: leaves, flat: one thread per leaf or message, warps independent, any block size that
//   is a multiple of 32 up to HASH::THREADS; nodes: see tree.cuh.
// Bytes moved: leaves, flat: every input byte once, one digest written per thread.
// Specification: docs/format.md, tree digests of a byte string; RFC 9162 section 2.1.1.
#include "hashes.cuh"
#include SENTRY_HEADER

typedef SENTRY_HASH Hash;

// Leaf j of a message is H(0x00 || bytes); the only leaf of an empty message is H("").
extern "C" __global__ void __launch_bounds__(Hash::THREADS, Hash::BLOCKS)
leaves(const u64* seg_ptr, const u64* seg_start, const u32* msg_seg, const u32* first_leaf, u32 messages, u32 n_leaves,
       u32 leaf_bytes, u32 one, u32* out) {
    __shared__ WarpShared<Hash> shared;
    u32 slot = blockIdx.x * blockDim.x + threadIdx.x;
    u32 warp_slot = slot & ~31u;
    if (warp_slot >= n_leaves) return;  // whole warps only: the others are needed for loading
    Batch batch = {seg_ptr, seg_start, msg_seg, messages};
    bool active = slot < n_leaves;
    Piece piece = {0, 0, false};
    if (active) {
        u32 message = message_of_slot(first_leaf, messages, warp_slot, slot);
        piece = locate(batch, message, (u64)(slot - first_leaf[message]) * leaf_bytes, leaf_bytes);
    }
    Hash hash;
    hash_pieces<1, u32>(hash, batch, piece, active, leaf_bytes, shared, one);
    u32 digest[Hash::DIGEST_WORDS];
    hash.digest(digest);
    if (active) store_digest(out + (u64)slot * Hash::DIGEST_WORDS, digest);
}

// Lengths have 64 bits here, which costs a few registers more.
extern "C" __global__ void __launch_bounds__(Hash::THREADS, Hash::BLOCKS)
flat(const u64* seg_ptr, const u64* seg_start, const u32* msg_seg, u32 messages, u32 one, u32* out) {
    __shared__ WarpShared<Hash> shared;
    u32 message = blockIdx.x * blockDim.x + threadIdx.x;
    if ((message & ~31u) >= messages) return;
    Batch batch = {seg_ptr, seg_start, msg_seg, messages};
    bool active = message < messages;
    Piece piece = {0, 0, false};
    if (active) piece = locate(batch, message, 0, ~0ull);
    Hash hash;
    hash_pieces<0, u64>(hash, batch, piece, active, 0, shared, one);
    u32 digest[Hash::DIGEST_WORDS];
    hash.digest(digest);
    if (active) store_digest(out + (u64)message * Hash::DIGEST_WORDS, digest);
}

// Only 32-byte digests form trees; for longer ones this kernel is left out.
#ifndef SENTRY_FLAT_ONLY
extern "C" __global__ void __launch_bounds__(TREE_THREADS, Hash::TREE_BLOCKS)
nodes(u32* values, const TreeEntry* entries, u32 large, u32 tiles, u32 small, u32 tile, u32 one, u32* tile_out,
      u32* digests) {
    __shared__ TreeShared shared;
    TreeArgs args = {values, entries, large, tiles, small, tile, true, tile_out, digests};
    HashNode<Hash> node = {one};
    reduce_level(args, node, shared);
}
#endif
