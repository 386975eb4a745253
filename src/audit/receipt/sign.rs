//! Making receipts: one signature for all of a batch.

use std::sync::Arc;

use base64_simd::{Out, URL_SAFE_NO_PAD};

use super::{DEPTH_MAX, Parts, Promise, ReceiptKey, batch_text, bytes_len};
use crate::audit::{
    id::RecordId,
    merkle::node_hash,
    record::{Hash, Header},
};

/// Receipts that are wanted of the batch being filled. How long each will be is known before their records are.
pub struct ReceiptBatch {
    key: Arc<ReceiptKey>,
    signed_at: u64,
    depth: usize,
    asked: Vec<RecordId>,
}

/// The receipts of a batch, signed.
pub struct SignedReceipts {
    promises: Vec<Promise>,
    batch: ReceiptBatch,
    signature: [u8; 64],
    // The tree, level by level from the leaves up, each half as long as the one before.
    levels: Vec<Vec<Hash>>,
    // The receipt being written.
    bytes: Vec<u8>,
}

impl ReceiptBatch {
    /// `None` when the key's certificate does not cover `now`, or more are wanted than one signature is for.
    pub(in crate::audit) fn begin(key: Arc<ReceiptKey>, wanted: usize, now: u64) -> Option<Self> {
        let depth = wanted.next_power_of_two().trailing_zeros() as usize;
        (key.covers(now) && depth <= DEPTH_MAX).then(|| Self {
            key,
            signed_at: now,
            depth,
            asked: Vec::with_capacity(wanted),
        })
    }

    /// Characters of each receipt.
    #[must_use]
    pub fn text_len(&self) -> usize {
        URL_SAFE_NO_PAD.encoded_length(bytes_len(self.key.origin.len(), self.depth))
    }

    /// Asks for the receipt of a record that was just appended. Their places are the order of asking.
    ///
    /// # Panics
    /// When more are asked for than were wanted.
    pub fn ask(&mut self, id: RecordId) {
        assert!(self.asked.len() < 1 << self.depth, "no more receipts than were wanted");
        self.asked.push(id);
    }

    /// Whether none was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Signs, once the digests are there: `records` are the headers of the batch, in their order.
    pub(in crate::audit) fn sign(self, mut records: impl Iterator<Item = Header>) -> SignedReceipts {
        let promise = |id: &RecordId| {
            let header = records.find(|header| header.core_seq == id.core_seq);
            let header = header.expect("a record stays in its batch until that is submitted");
            Promise { id: *id, kind: header.kind, body_digest: header.body_digest }
        };
        let promises: Vec<Promise> = self.asked.iter().map(promise).collect();
        let mut leaves: Vec<Hash> = promises.iter().map(Promise::leaf).collect();
        // A record that could not be appended has no receipt; its place stays empty.
        leaves.resize(1 << self.depth, [0; 32]);
        let mut levels = vec![leaves];
        for level in 0..self.depth {
            let above = levels[level].chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
            levels.push(above);
        }
        let text = batch_text(&self.key.origin, self.signed_at, self.depth, &levels[self.depth][0]);
        let signature = self.key.sign(text.as_bytes());
        SignedReceipts { promises, batch: self, signature, levels, bytes: Vec::new() }
    }
}

impl SignedReceipts {
    /// Writes the receipt at `place` into `text`, which has the length that was told.
    ///
    /// # Panics
    /// When there is no such place, or `text` has another length.
    pub fn write(&mut self, place: usize, text: &mut [u8]) {
        let Self { promises, batch, signature, levels, bytes } = self;
        let parts = Parts {
            promise: &promises[place],
            signed_at: batch.signed_at,
            origin: &batch.key.origin,
            certified: &batch.key.certified,
            signature,
            index: u16::try_from(place).expect("at most 2^DEPTH_MAX places"),
        };
        bytes.clear();
        parts.write((0..batch.depth).map(|level| levels[level][place >> level ^ 1]), bytes);
        assert_eq!(text.len(), batch.text_len(), "a receipt has the length that was told");
        let _ = URL_SAFE_NO_PAD.encode(bytes, Out::from_slice(text));
    }
}
