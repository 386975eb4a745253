//! The chain made anew behind a change, as somebody does who has the folder and can hash, but has not the signing key;
//! or, with a key of the drill's own, signs again what was signed.

use std::{collections::VecDeque, io};

use ed25519_dalek::{Signer as _, SigningKey};

use super::ground::{Ground, Parts, Piece, with_fields};
use crate::audit::{
    cbor::Value,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    record::Hash,
    schema::{self, Kind},
    walk::{SegmentOpen, genesis_hash},
};

/// A key that the log never had, under the log's name.
pub(super) struct Forger {
    signing_key: SigningKey,
    pub(super) key: CheckpointKey,
}

impl Forger {
    pub(super) fn of(origin: &str) -> Self {
        let signing_key = SigningKey::from_bytes(&FORGER_SEED);
        let verifying_key = signing_key.verifying_key().to_bytes();
        Self { signing_key, key: CheckpointKey::new(origin, verifying_key) }
    }

    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> String {
        let signature = self.signing_key.sign(checkpoint.to_text().as_bytes()).to_bytes();
        checkpoint.to_note(&self.key, &signature)
    }
}

/// What is rewritten: everything from one record on.
pub(super) struct Rewrite<'a> {
    /// The segment, counted from 0, and the record in it.
    pub(super) from: (usize, usize),
    /// Signs every checkpoint again; then everything must be rewritten, since trees are counted from record 0.
    pub(super) forger: Option<&'a Forger>,
}

/// How a rewritten log ends.
pub(super) struct Rewritten {
    pub(super) size: u64,
    /// Known where everything was rewritten.
    pub(super) root: Option<Hash>,
}

impl Rewrite<'_> {
    /// Writes the log anew, with care. `change` gets each record from the first on that may differ, and hands over what is to stand in
    /// its place: itself, something else, more, or nothing. Numbers, links, digests, checksums and ends of segments fit
    /// again afterwards.
    pub(super) fn run(
        &self,
        ground: &Ground<'_>,
        mut change: impl FnMut(Piece, &mut Vec<Piece>),
    ) -> io::Result<Rewritten> {
        let (segment, at) = self.from;
        let mut chain = Chain::before(ground, segment, at)?;
        chain.tree = (self.from == (0, 0)).then(|| CompactRange::new(0));
        let mut pieces = Vec::new();
        for (number, segment) in ground.copy.segments.iter().enumerate().skip(segment) {
            let parts = ground.segment(segment)?;
            let first = if number == self.from.0 { at } else { 0 };
            let mut out = parts.bytes[..parts.offsets[first]].to_vec();
            for at in first..parts.records() {
                let piece = Piece::of(&parts.read(at));
                chain.moved.note(piece.header.seq, chain.seq);
                change(piece, &mut pieces);
                for piece in pieces.drain(..) {
                    chain.add(piece, self.forger, &mut out);
                }
            }
            chain.ended = Some(out.len() as u64);
            // A torn tail, which the next segment states, stays what it was.
            out.extend_from_slice(&parts.bytes[parts.offsets[parts.records()]..]);
            ground.put(segment, &out)?;
        }
        let root = chain.tree.as_ref().and_then(CompactRange::root);
        Ok(Rewritten { size: chain.seq, root })
    }
}

/// Where the chain stands while it is written.
struct Chain {
    seq: u64,
    prev_hash: Option<Hash>,
    // Where the segment before ended.
    ended: Option<u64>,
    tree: Option<CompactRange>,
    // Trees at the last commits: checkpoints are of one of these.
    commits: VecDeque<CompactRange>,
    moved: Moved,
}

/// Where records stand that stood elsewhere before.
#[derive(Default)]
struct Moved {
    // From this old number on, until the next: the new number of the record that had it.
    runs: Vec<(u64, u64)>,
}

impl Moved {
    fn note(&mut self, old: u64, new: u64) {
        if self.now_of(old) != new {
            self.runs.push((old, new));
        }
    }

    /// The number that stands for an old one.
    fn now_of(&self, old: u64) -> u64 {
        let at = self.runs.partition_point(|(from, _)| *from <= old);
        at.checked_sub(1).map_or(old, |at| old - self.runs[at].0 + self.runs[at].1)
    }
}

impl Chain {
    fn before(ground: &Ground<'_>, segment: usize, at: usize) -> io::Result<Self> {
        let last_of = |parts: &Parts, at: usize| parts.read(at).hash;
        let segments = &ground.copy.segments;
        let prev_hash = match (segment, at) {
            (0, 0) => None,
            (segment, 0) => {
                let parts = ground.segment(&segments[segment - 1])?;
                Some(last_of(&parts, parts.records() - 1))
            }
            (segment, at) => Some(last_of(&ground.segment(&segments[segment])?, at - 1)),
        };
        let seq = segments[segment].first_seq + at as u64;
        Ok(Self {
            seq,
            prev_hash,
            ended: None,
            tree: None,
            commits: VecDeque::new(),
            moved: Moved::default(),
        })
    }

    fn add(&mut self, piece: Piece, forger: Option<&Forger>, out: &mut Vec<u8>) {
        let mut piece = piece;
        if let Some(ended) = self.ended.take() {
            piece.refit(7, Value::Uint(ended));
        }
        if piece.header.kind == Kind::Commit.code() {
            self.renumber(&mut piece, &[2, 3]);
        } else if piece.header.kind == Kind::SegmentSeal.code() {
            self.renumber(&mut piece, &[2]);
        }
        if let Some(forger) = forger {
            self.sign_again(&mut piece, forger);
        }
        let prev_hash = self.prev_hash.unwrap_or_else(|| piece.genesis());
        let hash = piece.store(self.seq, &prev_hash, out);
        self.prev_hash = Some(hash);
        self.seq += 1;
        if let Some(tree) = &mut self.tree {
            tree.push(&hash);
            if piece.header.kind == Kind::Commit.code() {
                if self.commits.len() == COMMITS_MAX {
                    self.commits.pop_front();
                }
                self.commits.push_back(tree.clone());
            }
        }
    }

    /// Numbers of records in a body are those of today.
    fn renumber(&self, piece: &mut Piece, keys: &[u64]) {
        for key in keys {
            let body = schema::read_body(piece.header.kind, piece.header.schema, &piece.body).ok();
            let Some(old) = body.and_then(|body| schema::uint(&body, *key)) else { continue };
            let now = self.moved.now_of(old);
            if now != old {
                piece.refit(*key, Value::Uint(now));
            }
        }
    }

    /// A CHECKPOINT states the tree as it is now.
    fn sign_again(&self, piece: &mut Piece, forger: &Forger) {
        if piece.header.kind != Kind::Checkpoint.code() {
            return;
        }
        let Ok(body) = schema::read_body(piece.header.kind, piece.header.schema, &piece.body) else { return };
        let size = schema::uint(&body, 1);
        let tree = self.commits.iter().find(|tree| Some(tree.end()) == size).or(self.commits.back());
        let Some((tree, root)) = tree.and_then(|tree| Some((tree, tree.root()?))) else { return };
        let note = forger.sign(&Checkpoint { origin: forger.key.name.clone(), size: tree.end(), root });
        let changes = [
            (1, Value::Uint(tree.end())),
            (2, Value::Bytes(&root)),
            (3, Value::Text(&note)),
            (4, Value::Bytes(&tree.to_bytes())),
        ];
        if let Some(body) = with_fields(&body, &changes) {
            piece.set_body(body);
        }
    }
}

impl Piece {
    /// Another value in a field of its body that is there.
    pub(super) fn refit(&mut self, key: u64, value: Value<'_>) {
        let body = schema::read_body(self.header.kind, self.header.schema, &self.body);
        if let Some(body) = body.ok().and_then(|body| with_fields(&body, &[(key, value)])) {
            self.set_body(body);
        }
    }

    /// The hash before the log's first record, which this is.
    fn genesis(&self) -> Hash {
        let stored = self.stored();
        let record = crate::audit::walk::read_record(&stored, 0).ok();
        let open = record.and_then(|record| SegmentOpen::read(&record));
        open.map_or(self.header.prev_hash, |open| genesis_hash(&open.origin, &open.log_id))
    }
}

/// The seed of the forger's key. It signs for nobody.
const FORGER_SEED: [u8; 32] = *b"edgate drill, signs for no log..";

/// Commits whose tree is remembered while a log is signed again: a checkpoint follows its commit closely.
const COMMITS_MAX: usize = 1024;
