//! Proofs from the audit log, given by anyone to anyone.

use std::sync::OnceLock;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::CheckpointKey;
use edgate::audit::merkle::CompactRange;
use edgate::audit::note::Checkpoint;
use edgate::audit::proof::{
    ConsistencyProof, Expected, InclusionProof, ProvenGrowth, consistency_path, inclusion_path,
    verify_consistency, verify_inclusion,
};
use edgate::audit::receipt::Receipt;
use edgate::audit::record::{HASHED_BYTES, Hash, Header, event_hash};
use edgate::audit::schema::Kind;
use sha2::{Digest as _, Sha256};

/// A proof has one spelling, and what passes is a record, or a state, of the one log that our key signed.
pub fn audit_proof(input: &[u8]) {
    let log = Log::known();
    let keys = std::slice::from_ref(&log.key);
    let expected = Expected { keys, origin: None, id: None };
    if let Ok(proof) = InclusionProof::parse(input) {
        assert_eq!(proof.to_text().as_bytes(), input, "a second spelling was accepted");
    }
    if let Ok(proof) = ConsistencyProof::parse(input) {
        assert_eq!(proof.to_text().as_bytes(), input, "a second spelling was accepted");
    }
    if let Ok(proven) = verify_inclusion(input, &expected) {
        let seq = usize::try_from(proven.header.seq).expect("a small log");
        assert_eq!(proven.hash, event_hash(&log.headers[seq].to_bytes()));
        assert_eq!(proven.header, log.headers[seq]);
        assert!(proven.body.is_none_or(|body| body == log.bodies[seq]));
        assert_eq!((proven.checkpoint.size, proven.checkpoint.root), (SIZE, log.root(SIZE)));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(receipt) = Receipt::parse(text) {
            assert_eq!(receipt.to_text(), text.trim_end(), "a second spelling was accepted");
        }
        assert!(Receipt::open(text, &expected).is_err(), "this log promised nothing");
    }
    if let Ok(ProvenGrowth { old, new, .. }) =
        verify_consistency(input, log.note(OLD_SIZE).as_bytes(), &expected)
    {
        assert_eq!((old.size, new.size, new.root), (OLD_SIZE, SIZE, log.root(SIZE)));
    }
}

/// Seven records, and their checkpoints.
pub(super) struct Log {
    signing: SigningKey,
    pub(super) key: CheckpointKey,
    headers: Vec<Header>,
    bodies: Vec<Vec<u8>>,
}

pub(super) const SIZE: u64 = 7;
pub(super) const OLD_SIZE: u64 = 3;

impl Log {
    pub(super) fn known() -> &'static Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let signing = SigningKey::from_bytes(&[7; 32]);
            let verifying_key = signing.verifying_key().to_bytes();
            let key = CheckpointKey::new("fuzz.example/log", verifying_key);
            // {1: "n"}: a stop and its reason.
            let bodies: Vec<Vec<u8>> = (b'0'..).take(7).map(|digit| vec![0xa1, 0x01, 0x61, digit]).collect();
            let mut prev_hash: Hash = [5; 32];
            let mut headers = Vec::new();
            for (seq, body) in (0..).zip(&bodies) {
                let header = Header {
                    body_len: 4,
                    seq,
                    wall_ns: 1_700_000_000_000_000_000 + seq,
                    mono_ns: seq,
                    kind: Kind::Stop.code(),
                    flags: 0,
                    core: 0,
                    schema: Kind::Stop.code(),
                    core_seq: seq + 1,
                    body_digest: Sha256::digest(body).into(),
                    prev_hash,
                    epoch: 0,
                };
                prev_hash = event_hash(&header.to_bytes());
                headers.push(header);
            }
            Self { signing, key, headers, bodies }
        })
    }

    pub(super) fn root(&self, size: u64) -> Hash {
        let mut tree = CompactRange::new(0);
        let leaves = self.headers.iter().take_while(|header| header.seq < size);
        leaves.for_each(|header| tree.push(&event_hash(&header.to_bytes())));
        tree.root().expect("a range from leaf 0")
    }

    fn note(&self, size: u64) -> String {
        let checkpoint = Checkpoint { origin: self.key.name.clone(), size, root: self.root(size) };
        let signature = self.signing.sign(checkpoint.to_text().as_bytes()).to_bytes();
        checkpoint.to_note(&self.key, &signature)
    }

    /// The head of a run of the records, which a path is made of.
    fn head(&self, run: &std::ops::Range<u64>) -> Hash {
        let mut tree = CompactRange::new(0);
        let leaves = self.headers.iter().filter(|header| run.contains(&header.seq));
        leaves.for_each(|header| tree.push(&event_hash(&header.to_bytes())));
        // A run of a path is a tree of its own.
        tree.root().expect("a range from leaf 0")
    }

    /// The proof that the checkpoint of `size` continues that of `old_size`.
    pub(super) fn continued(&self, old_size: u64, size: u64) -> String {
        let path = consistency_path(old_size, size).iter().map(|run| self.head(run)).collect();
        ConsistencyProof { old_size, path, note: self.note(size) }.to_text()
    }
}

/// Writes the seeds: proofs that pass, which is what mutations begin with.
pub fn write_proofs(folder: &std::path::Path) {
    let log = Log::known();
    for (name, index, shown) in [("first", 0, false), ("shown", 4, true), ("last", 6, false)] {
        let at = usize::try_from(index).expect("a small log");
        let bytes = log.headers[at].to_bytes();
        let mut entry = [0; HASHED_BYTES];
        entry.copy_from_slice(&bytes[..HASHED_BYTES]);
        let proof = InclusionProof {
            index,
            path: inclusion_path(index, SIZE).iter().map(|run| log.head(run)).collect(),
            hash: event_hash(&bytes),
            entry,
            body: shown.then(|| log.bodies[at].clone()),
            note: log.note(SIZE),
        };
        std::fs::write(folder.join(name), proof.to_text()).expect("the corpus can be written");
    }
    let grown = log.continued(OLD_SIZE, SIZE);
    std::fs::write(folder.join("grown"), grown).expect("the corpus can be written");
}
