//! One checkpoint key gives way to the next while the log is written.
//!
//! Nothing is signed by both: the sealer signs the handover with the old key and the new one, puts it beside the log, and only then
//! signs with the new one. Whoever is interrupted before that file is whole goes on with the old key, after it with the new.

use std::{path::PathBuf, time::Duration};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{CheckpointSigner, SealError, Sealer, SignError, Signing};
use crate::audit::{
    error::AuditError,
    key_history::{Handover, KeyHistory, KeyHistoryError},
    note::{Checkpoint, CheckpointKey},
    receipt::Renewal,
};

/// A key to go on with, and who waits for the answer.
pub(in crate::audit) struct HandoverOrder {
    signer: CheckpointSigner,
    answer: Sender<Result<Handover, AuditError>>,
}

/// Replaces the checkpoint key of a running log. Its call blocks on two signatures and the disk.
#[derive(Clone)]
pub struct Handovers {
    orders: Sender<HandoverOrder>,
    dir: PathBuf,
}

impl Handovers {
    pub(in crate::audit) const fn new(orders: Sender<HandoverOrder>, dir: PathBuf) -> Self {
        Self { orders, dir }
    }

    /// The key that signs now, as the file beside the log has it.
    ///
    /// # Errors
    /// As [`KeyHistory::beside`], and [`AuditError::NotHandedOver`] where that file is gone.
    pub fn current(&self) -> Result<CheckpointKey, AuditError> {
        let refuse = |cause: String| AuditError::NotHandedOver { cause };
        let history = KeyHistory::beside(&self.dir)?.unwrap_or_default();
        let current = history.current().map_err(|error| refuse(error.to_string()))?;
        current.ok_or_else(|| refuse(format!("{} has no checkpoint.key any more", self.dir.display())))
    }

    /// Has the current key name `signer`'s as its successor; from the next checkpoint on that one signs.
    ///
    /// # Errors
    /// [`AuditError::NotHandedOver`]: one of the keys does not sign, the new one was the log's before, or the file beside the log cannot
    /// be written. The old key then signs on. After `patience` without an answer it is not known which of them does.
    pub fn hand_over(&self, signer: CheckpointSigner, patience: Duration) -> Result<Handover, AuditError> {
        let failed = |cause: &str| AuditError::NotHandedOver { cause: cause.to_owned() };
        let (answer, answered): (_, Receiver<_>) = bounded(1);
        self.orders
            .try_send(HandoverOrder { signer, answer })
            .map_err(|_| failed("the log is closed, or another key is about to take over"))?;
        answered
            .recv_timeout(patience)
            .map_err(|_| failed("no answer in time; `checkpoint.key` says which key signs"))?
    }
}

impl Sealer {
    pub(super) fn hand_over(&mut self, order: HandoverOrder) {
        let HandoverOrder { signer, answer } = order;
        let handed_over = self.try_hand_over(signer);
        // Whoever asked may have stopped waiting; the file beside the log says what came of it.
        let _ = answer.send(handed_over.map_err(|cause| AuditError::NotHandedOver { cause }));
    }

    fn try_hand_over(&mut self, mut signer: CheckpointSigner) -> Result<Handover, String> {
        self.follower.follow(self.progress.durable()).map_err(|error| match error {
            SealError::Sign(SignError(cause)) => cause,
            SealError::Stored(failure) => failure.to_string(),
        })?;
        self.follower.fold();
        let tree = &self.follower.tree;
        let root = tree.root().ok_or("the log has no record yet that could be signed")?;
        let old = &self.signing.key;
        let new = CheckpointKey::new(old.name.clone(), signer.verifying_key);
        let checkpoint = Checkpoint { origin: old.name.clone(), size: tree.end(), root };
        let text = Handover::text(&checkpoint, old, &new);
        let sign = |signer: &mut CheckpointSigner| {
            (signer.sign)(text.as_bytes()).map_err(|SignError(cause)| format!("a key does not sign: {cause}"))
        };
        let signatures = [sign(&mut self.signing.signer)?, sign(&mut signer)?];
        let refused = |error: KeyHistoryError| error.to_string();
        let handover = Handover::new(&checkpoint, [old, &new], signatures.each_ref()).map_err(refused)?;
        let mut history = self.signing.history.clone();
        history.push(handover.clone()).map_err(refused)?;
        history
            .publish(&self.follower.dir)
            .map_err(|error| format!("cannot write {}: {error}", self.follower.dir.display()))?;
        self.signing = Signing { signer, key: new, history };
        // Receipts are certified by the key that signs checkpoints.
        self.receipts = self.receipts.take().map(|_| Renewal::new(self.shared.boot));
        Ok(handover)
    }
}
