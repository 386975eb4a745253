//! The sealer: re-reads what was stored, recomputes it, and only then has it signed.
//!
//! It signs durable prefixes that end with a COMMIT record, so that a checkpoint never covers what a power cut may
//! take back. The bytes it hashes are the ones on disk, not the ones the sequencer meant: a bit that flipped between
//! hashing and storing is found here, before a signature makes it permanent (CT log Yeti 2022).

mod follower;
mod handover;

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError};

pub(super) use follower::Follower;
pub(super) use handover::HandoverOrders;
pub use handover::Handovers;

use super::{
    appender::{Ack, Appender, Shared},
    clock::Clock,
    error::{AuditFailure, FailureKind},
    key_history::KeyHistory,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    outlet::Outlets,
    real::replace_file,
    receipt::Renewal,
    schema::Kind,
    settings::Settings,
    status::Progress,
};

/// Signs checkpoints: a closure over whatever holds the key, and the key to check it with.
pub struct CheckpointSigner {
    /// The Ed25519 verifying key of the signatures.
    pub verifying_key: [u8; 32],
    /// Signs a message. May block: it runs on the sealer's thread.
    pub sign: Sign,
}

/// Signs one message.
pub type Sign = Box<dyn FnMut(&[u8]) -> Result<[u8; 64], SignError> + Send>;

/// Why a checkpoint could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint was not signed: {0}")]
pub struct SignError(pub String);

/// The key that signs now, and those before it.
pub(super) struct Signing {
    pub(super) signer: CheckpointSigner,
    pub(super) key: CheckpointKey,
    pub(super) history: KeyHistory,
}

/// When to sign.
#[derive(Debug, Clone, Copy)]
struct Cadence {
    interval: Duration,
    events: u64,
    idle: Duration,
    unsigned_age_max: Duration,
}

/// The sealer's thread.
pub(super) struct Sealer {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    appender: Appender,
    signing: Signing,
    cadence: Cadence,
    follower: Follower,
    // Where receipts are given: when their next key is due.
    receipts: Option<Renewal>,
    // CHECKPOINT records that are not durable yet: place among this thread's records, and the size that is covered.
    recording: VecDeque<(u64, u64)>,
    outlets: Arc<Outlets>,
    handovers: HandoverOrders,
    stop: Receiver<()>,
}

impl Sealer {
    pub(super) fn new(
        settings: &Settings,
        (shared, progress, appender): (Arc<Shared>, Arc<Progress>, Appender),
        (signing, follower): (Signing, Follower),
        outlets: Arc<Outlets>,
        (handovers, stop): (HandoverOrders, Receiver<()>),
    ) -> Self {
        let cadence = Cadence {
            interval: settings.checkpoint_interval,
            events: settings.checkpoint_events,
            idle: settings.checkpoint_idle,
            unsigned_age_max: settings.unsigned_age_max,
        };
        let receipts = settings.receipts.then(|| Renewal::new(shared.boot));
        let recording = VecDeque::new();
        Self {
            shared,
            progress,
            appender,
            signing,
            cadence,
            follower,
            receipts,
            recording,
            outlets,
            handovers,
            stop,
        }
    }

    /// Signs on its cadence until told to stop, and once more when the log was closed in order.
    pub(super) fn run(mut self) {
        let tick = (self.cadence.interval / 4).max(Duration::from_millis(1));
        // Due at once: what the last run left unsigned, and the start itself, do not wait for an interval that a crash
        // may cut short.
        let mut signed_at = Instant::now().checked_sub(self.cadence.idle).unwrap_or_else(Instant::now);
        let mut wait = Duration::from_millis(1);
        let mut unsigned_since: Option<Instant> = None;
        let mut unpublished: Option<u64> = None;
        let mut told_at: Option<Instant> = None;
        loop {
            let durable = self.appender.acknowledged(Ack::Durable);
            while let Some((_, size)) = self.recording.pop_front_if(|(core_seq, _)| *core_seq <= durable) {
                self.progress.publish_vouched(size);
            }
            match self.stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => wait = tick,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    self.finish();
                    return;
                }
            }
            if self.shared.failure().is_some_and(|failure| failure.kind.is_permanent()) {
                continue;
            }
            while let Ok(order) = self.handovers.orders.try_recv() {
                self.hand_over(order);
            }
            let turned = self.turn(&mut signed_at, &mut unsigned_since, &mut unpublished);
            match turned.and_then(|()| self.renew_receipt_key()) {
                Ok(()) => {}
                Err(SealError::Stored(failure)) => self.shared.fail(failure),
                Err(SealError::Sign(error)) => {
                    if told_at.is_none_or(|at| at.elapsed() >= self.cadence.idle) {
                        told_at = Some(Instant::now());
                        self.tell_unsigned(unsigned_since, &error.to_string());
                    }
                }
            }
            if let Some(since) = unsigned_since
                && since.elapsed() > self.cadence.unsigned_age_max
            {
                let age = since.elapsed().as_secs();
                self.shared.restrict(AuditFailure::new(
                    FailureKind::Unsigned,
                    format_args!("nothing was signed for {age} s"),
                ));
            }
        }
    }

    /// Signs if it is time. `unpublished` is what `news` was when a checkpoint was recorded whose copy beside the log
    /// could not be written.
    fn turn(
        &mut self,
        signed_at: &mut Instant,
        unsigned_since: &mut Option<Instant>,
        unpublished: &mut Option<u64>,
    ) -> Result<(), SealError> {
        let durable = self.progress.durable();
        self.follower.follow(durable)?;
        if self.follower.news > 0 {
            unsigned_since.get_or_insert_with(Instant::now);
        }
        let since = signed_at.elapsed();
        let due = self.follower.news >= self.cadence.events
            || (self.follower.news > 0 || self.progress.is_checkpoint_wanted())
                && since >= self.cadence.interval
            || since >= self.cadence.idle;
        if !due || durable.size == 0 {
            return Ok(());
        }
        let (checkpoint, note) = self.sign()?;
        // The record first: `checkpoint` is a copy for those who do not read the log.
        // Once: a record for each try to write the copy would use up the disk whose lack of room is what fails.
        if *unpublished != Some(self.follower.news) {
            self.record(&checkpoint, &note)?;
            *unpublished = Some(self.follower.news);
        }
        self.publish(&note)?;
        let since = std::mem::replace(&mut self.follower.fresh, CompactRange::new(checkpoint.size));
        self.outlets.publish(&note, &since);
        *unpublished = None;
        self.follower.news = 0;
        *signed_at = Instant::now();
        *unsigned_since = None;
        self.shared.reopen(FailureKind::Unsigned);
        self.progress.publish_signed(checkpoint.size);
        Ok(())
    }

    /// Has the next key of receipts certified, if it is due.
    fn renew_receipt_key(&mut self) -> Result<(), SealError> {
        let Some(renewal) = &mut self.receipts else { return Ok(()) };
        let now = Clock::system().read().wall_ns / 1_000_000_000;
        if let Some(key) =
            renewal.due(now, &self.signing.key, &mut self.signing.signer.sign).map_err(SealError::Sign)?
        {
            self.shared.receipt_key.store(Some(Arc::new(key)));
        }
        Ok(())
    }

    fn record(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<(), SealError> {
        let tree = self.follower.tree.to_bytes();
        let appended = self.appender.append_own(Kind::Checkpoint, |body| {
            body.uint(1, checkpoint.size);
            body.bytes(2, &checkpoint.root);
            body.text_whole(3, note);
            body.bytes(4, &tree);
        });
        self.appender.submit();
        let id = appended.map_err(|error| SealError::Sign(SignError(error.to_string())))?;
        self.recording.push_back((id.core_seq, checkpoint.size));
        Ok(())
    }

    /// After an orderly close nothing can be appended, but the whole log, its seal included, can still be signed.
    fn finish(&mut self) {
        if self.progress.closed_at().is_none() {
            return;
        }
        let head = self.progress.durable();
        let signed =
            self.follower.follow(head).and_then(|()| self.sign()).and_then(|(_, note)| self.publish(&note));
        if signed.is_ok() {
            self.progress.publish_signed(head.size);
        }
    }

    fn sign(&mut self) -> Result<(Checkpoint, String), SealError> {
        self.follower.fold();
        let root =
            self.follower.tree.root().ok_or(SealError::Sign(SignError("the tree is incomplete".into())))?;
        let Signing { signer, key, .. } = &mut self.signing;
        let checkpoint = Checkpoint { origin: key.name.clone(), size: self.follower.tree.end(), root };
        let signature = (signer.sign)(checkpoint.to_text().as_bytes()).map_err(SealError::Sign)?;
        let note = checkpoint.to_note(key, &signature);
        // A signer that answers with another key's signature must not go unnoticed until an audit.
        Checkpoint::open(&note, std::slice::from_ref(key))
            .map_err(|error| SealError::Sign(SignError(format!("the signer's answer: {error}"))))?;
        Ok((checkpoint, note))
    }

    /// Writes the note, and the tree a restart continues from.
    fn publish(&self, note: &str) -> Result<(), SealError> {
        let failed = |error: io::Error| SealError::Sign(SignError(format!("cannot publish: {error}")));
        replace_file(&self.follower.dir, TREE_FILE, self.follower.to_text(note).as_bytes())
            .map_err(failed)?;
        replace_file(&self.follower.dir, CHECKPOINT_FILE, note.as_bytes()).map_err(failed)
    }

    fn tell_unsigned(&mut self, since: Option<Instant>, error: &str) {
        let age = since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        // Refused while the log is shut; then there is nothing to be told.
        let _ = self.appender.append_own(Kind::Heartbeat, |body| {
            body.uint(1, age);
            body.text(2, error);
        });
        self.appender.submit();
    }
}

/// What keeps a checkpoint from being made.
#[derive(Debug)]
pub(super) enum SealError {
    /// The signer, or the file beside the log: the next turn tries again.
    Sign(SignError),
    /// The stored bytes are not what was hashed: nothing may be signed any more.
    Stored(AuditFailure),
}

/// The latest checkpoint, for readers and for a later look at what had been signed.
pub(super) const CHECKPOINT_FILE: &str = "checkpoint";

/// The tree at that checkpoint, for the next start.
const TREE_FILE: &str = "checkpoint.tree";

#[cfg(test)]
#[path = "sealer_tests.rs"]
mod tests;
