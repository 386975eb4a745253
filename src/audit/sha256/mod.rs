//! SHA-256 of many messages that do not depend on one another, sixteen at a time where the CPU can.
//!
//! One block takes 60 ns with the CPU's own SHA-256 instructions, because each waits for the one before; sixteen lanes
//! of AVX-512 take a third of that per block (`avx512.rs`). Where there are too few messages for the lanes, or no lanes,
//! the `sha2` crate does the work. Of the chain only the first half of each link can ride: the second needs the link before.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
#[path = "none.rs"]
mod avx512;

use sha2::{Digest as _, Sha256, block_api::compress256};
use zeroize::Zeroize as _;

use avx512::Avx512;

use super::{record::Hash, short};

/// What SHA-256 takes at a time.
pub(super) type Block = [u8; 64];

/// Hashes messages in groups. Keeps its memory from group to group.
pub(super) struct Hasher {
    cpu: Option<Avx512>,
    // Padded messages back to back.
    blocks: Vec<Block>,
    messages: Vec<Message>,
    // Indices into `messages`, fewest blocks first.
    order: Vec<u32>,
    hashes: Vec<Hash>,
}

/// A message in `blocks`; one of 0 blocks was too long for the lanes and is hashed already.
#[derive(Clone, Copy)]
struct Message {
    first: u32,
    blocks: u32,
}

impl Hasher {
    /// For the CPU at hand.
    pub(super) fn new() -> Self {
        Self::on(Avx512::detect())
    }

    fn on(cpu: Option<Avx512>) -> Self {
        Self { cpu, blocks: Vec::new(), messages: Vec::new(), order: Vec::new(), hashes: Vec::new() }
    }

    /// Forgets the messages so far.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.messages.clear();
        self.hashes.clear();
    }

    /// Adds a message.
    pub(super) fn push(&mut self, message: &[u8]) {
        if blocks(message.len()) > LANE_BLOCKS_MAX {
            self.hashes.push(Sha256::digest(message).into());
            self.messages.push(Message { first: 0, blocks: 0 });
        } else {
            self.push_with(message.len(), |bytes| short::copy(bytes, message));
        }
    }

    /// Adds a short message that `fill` writes over zeros: what is written in its place once is not read back too soon.
    #[inline]
    pub(super) fn push_with(&mut self, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let blocks = blocks(bytes);
        assert!(blocks <= LANE_BLOCKS_MAX, "a short message");
        let first = self.blocks.len();
        self.blocks.resize(first + blocks, [0; 64]);
        let padded = self.blocks[first..].as_flattened_mut();
        fill(&mut padded[..bytes]);
        padded[bytes] = 0x80;
        let length = padded.len() - 8;
        padded[length..].copy_from_slice(&(8 * bytes as u64).to_be_bytes());
        self.hashes.push([0; 32]);
        self.messages.push(Message { first: narrow(first), blocks: narrow(blocks) });
    }

    /// The hashes of the messages since [`Self::clear`], in their order. Call it once.
    pub(super) fn finish(&mut self) -> &[Hash] {
        self.sort();
        let Self { cpu, blocks, messages, order, hashes } = self;
        let of = |index: u32| {
            let Message { first, blocks: count } = messages[index as usize];
            &blocks[first as usize..(first + count) as usize]
        };
        for group in order.chunks(LANES) {
            match cpu {
                Some(cpu) if group.len() >= LANES_MIN => {
                    // The lanes go on while there are enough of them; the longest messages of the group end alone.
                    let shared = of(group[group.len() - LANES_MIN]).len();
                    let mut lanes: [&[Block]; LANES] = [&[]; LANES];
                    for (lane, index) in lanes.iter_mut().zip(group) {
                        let blocks = of(*index);
                        *lane = &blocks[..blocks.len().min(shared)];
                    }
                    for (index, hash) in group.iter().zip(cpu.hashes(&lanes)) {
                        let rest = &of(*index)[of(*index).len().min(shared)..];
                        hashes[*index as usize] = if rest.is_empty() { hash } else { continued(&hash, rest) };
                    }
                }
                _ => {
                    for index in group {
                        hashes[*index as usize] = hash_blocks(of(*index));
                    }
                }
            }
        }
        &self.hashes
    }

    /// What [`Self::finish`] yielded.
    pub(super) fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Fills `order`, by counting: there are few numbers of blocks.
    fn sort(&mut self) {
        let mut ends = [0; LANE_BLOCKS_MAX + 1];
        for message in &self.messages {
            ends[message.blocks as usize] += 1;
        }
        // What is hashed already has no place in the order.
        ends[0] = 0;
        for blocks in 1..ends.len() {
            ends[blocks] += ends[blocks - 1];
        }
        self.order.clear();
        self.order.resize(ends[LANE_BLOCKS_MAX], 0);
        for (index, message) in
            self.messages.iter().enumerate().rev().filter(|(_, message)| message.blocks > 0)
        {
            let end = &mut ends[message.blocks as usize];
            *end -= 1;
            self.order[*end] = narrow(index);
        }
    }
}

/// The first blocks of messages whose further ones are not known yet, compressed together.
pub(super) struct FirstBlocks {
    cpu: Option<Avx512>,
    blocks: Vec<Block>,
    states: Vec<Hash>,
}

impl FirstBlocks {
    /// For the CPU at hand.
    pub(super) fn new() -> Self {
        Self::on(Avx512::detect())
    }

    fn on(cpu: Option<Avx512>) -> Self {
        Self { cpu, blocks: Vec::new(), states: Vec::new() }
    }

    /// Adds the first block of a message, which `fill` writes over zeros: as in [`Hasher::push_with`].
    #[inline]
    pub(super) fn push_with(&mut self, fill: impl FnOnce(&mut Block)) {
        self.blocks.push([0; 64]);
        fill(self.blocks.last_mut().expect("one was added"));
    }

    /// The states after the blocks, in their order: what [`continued`] goes on from. Forgets the blocks.
    pub(super) fn take(&mut self) -> &[Hash] {
        self.states.clear();
        for group in self.blocks.chunks(LANES) {
            match self.cpu {
                Some(cpu) if group.len() >= LANES_MIN => {
                    let lanes =
                        std::array::from_fn(|lane| group.get(lane).map_or(&[][..], std::slice::from_ref));
                    self.states.extend_from_slice(&cpu.hashes(&lanes)[..group.len()]);
                }
                _ => self.states.extend(group.iter().map(first_state)),
            }
        }
        self.blocks.clear();
        &self.states
    }
}

/// HMAC-SHA-256 (RFC 2104) of messages that fill one block each.
#[derive(Clone)]
pub(super) struct Macs {
    cpu: Option<Avx512>,
    // SHA-256 after the key's inner and outer block.
    inner: [u32; 8],
    outer: [u32; 8],
}

impl Macs {
    /// Under a key of 32 bytes.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let block = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL_STATE;
            compress256(&mut state, &[block]);
            state
        };
        Self { cpu: Avx512::detect(), inner: block(0x36), outer: block(0x5C) }
    }

    /// The MAC of the message that [`Self::pad`] laid out.
    pub(super) fn one(&self, block: &Block) -> Hash {
        let mut state = self.inner;
        compress256(&mut state, &[*block]);
        let mut block = [0; 64];
        block[..32].copy_from_slice(&state_bytes(&state));
        block[32] = 0x80;
        block[56..].copy_from_slice(&(8 * (64 + 32u64)).to_be_bytes());
        let mut state = self.outer;
        compress256(&mut state, &[block]);
        state_bytes(&state)
    }

    /// The MACs of many, in their order.
    pub(super) fn each(&self, blocks: &[Block], macs: &mut Vec<Hash>) {
        for group in blocks.chunks(LANES) {
            match self.cpu {
                Some(cpu) if group.len() >= LANES_MIN => {
                    // Lanes without a message repeat the first one.
                    let lanes = std::array::from_fn(|lane| group.get(lane).unwrap_or(&group[0]));
                    macs.extend_from_slice(&cpu.macs(&self.inner, &self.outer, &lanes)[..group.len()]);
                }
                _ => macs.extend(group.iter().map(|block| self.one(block))),
            }
        }
    }

    /// Lays out the message `first ‖ rest` of at most 1 + [`MAC_REST_MAX`] bytes in a block of zeros.
    pub(super) fn pad(block: &mut Block, first: u8, rest: &[u8]) {
        block[0] = first;
        short::copy(&mut block[1..=rest.len()], rest);
        block[rest.len() + 1] = 0x80;
        block[56..].copy_from_slice(&(8 * (64 + 1 + rest.len() as u64)).to_be_bytes());
    }

    /// Whether [`Self::pad`] laid out this message there.
    pub(super) fn holds(block: &Block, first: u8, rest: &[u8]) -> bool {
        // The message ends where its length says, which the last two bytes hold.
        let bits = 8 * (64 + 1 + rest.len());
        block[0] == first
            && usize::from(u16::from_be_bytes([block[62], block[63]])) == bits
            && short::equal(&block[1..=rest.len()], rest)
    }
}

impl Drop for Macs {
    fn drop(&mut self) {
        // Both are as good as the key.
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

/// 64 bytes less the first one, the padding bit and the length.
pub(super) const MAC_REST_MAX: usize = 54;

/// The blocks a message of `bytes` takes with its padding (FIPS 180-4 §5.1.1): a one bit, zeros, and its length in 64 bits.
const fn blocks(bytes: usize) -> usize {
    (bytes + 1 + 8).div_ceil(64)
}

/// SHA-256 over blocks that already hold the padding of FIPS 180-4 §5.1.1.
pub(super) fn hash_blocks(blocks: &[Block]) -> Hash {
    let mut state = INITIAL_STATE;
    compress256(&mut state, blocks);
    state_bytes(&state)
}

/// The state after the first block of a message, as the bytes of a hash.
pub(super) fn first_state(block: &Block) -> Hash {
    hash_blocks(std::slice::from_ref(block))
}

/// The hash of a message whose first blocks lead to `state` and whose last ones are `rest`.
pub(super) fn continued(state: &Hash, rest: &[Block]) -> Hash {
    let (words, _) = state.as_chunks::<4>();
    let mut state = std::array::from_fn(|i| u32::from_be_bytes(words[i]));
    compress256(&mut state, rest);
    state_bytes(&state)
}

/// A SHA-256 state as the bytes of a hash.
pub(super) fn state_bytes(state: &[u32; 8]) -> Hash {
    let mut hash = [0; 32];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("far fewer than 2^32 blocks are gathered")
}

/// The initial hash value of SHA-256 (FIPS 180-4 §5.3.3).
pub(super) const INITIAL_STATE: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Messages hashed at once.
const LANES: usize = 16;

/// Fewer messages than this are faster one after the other: a block in sixteen lanes takes the time of seven of them
/// (`bench/README.md`).
const LANES_MIN: usize = 8;

/// Longer messages are hashed alone: they are rare, and their padded copies would not fit the first-level cache.
const LANE_BLOCKS_MAX: usize = 16;

#[cfg(test)]
mod tests;
