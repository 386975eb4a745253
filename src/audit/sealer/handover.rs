//! One checkpoint key gives way to the next while the log is written.
//!
//! Nothing is signed by both: the sealer signs the handover with the old key and the new one, puts it beside the log, and only then
//! signs with the new one. Whoever is interrupted before that file is whole goes on with the old key, after it with the new.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::{CheckpointSigner, SealError, Sealer, SignError, Signing};
use crate::audit::{
    error::AuditError,
    key_history::{Handover, KeyHistory, KeyHistoryError},
    note::{Checkpoint, CheckpointKey},
    receipt::Renewal,
};

/// A key to go on with, and who waits for the answer.
pub(super) struct HandoverOrder {
    signer: CheckpointSigner,
    answer: Sender<Result<Handover, AuditError>>,
}

/// Replaces the checkpoint key of a running log. Its call blocks on two signatures and the disk.
#[derive(Clone)]
pub struct Handovers {
    orders: Sender<HandoverOrder>,
    // Written by the sealer.
    current: Arc<Mutex<CheckpointKey>>,
}

/// The sealer's end.
pub(in crate::audit) struct HandoverOrders {
    pub(super) orders: Receiver<HandoverOrder>,
    current: Arc<Mutex<CheckpointKey>>,
}

impl Handovers {
    /// Both ends, for a log that `key` signs.
    pub(in crate::audit) fn new(key: &CheckpointKey) -> (Self, HandoverOrders) {
        let (orders, taken) = bounded(1);
        let current = Arc::new(Mutex::new(key.clone()));
        (Self { orders, current: Arc::clone(&current) }, HandoverOrders { orders: taken, current })
    }

    /// The key that signs now.
    #[must_use]
    pub fn current(&self) -> CheckpointKey {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the current key name `signer`'s as its successor; from the next checkpoint on that one signs. Waits until it is known what
    /// came of it: whoever gave up earlier would not know which key the next start needs. Signers have their own deadlines.
    ///
    /// # Errors
    /// [`AuditError::NotHandedOver`]: one of the keys does not sign, the new one was the log's before, or the file beside the log cannot
    /// be written. The old key then signs on.
    pub fn hand_over(&self, signer: CheckpointSigner) -> Result<Handover, AuditError> {
        let failed = |cause: &str| AuditError::NotHandedOver { cause: cause.to_owned() };
        let (answer, answered) = bounded(1);
        self.orders
            .try_send(HandoverOrder { signer, answer })
            .map_err(|_| failed("the log is closed, or another key is about to take over"))?;
        answered.recv().map_err(|_| failed("the log was closed meanwhile"))?
    }
}

impl Sealer {
    pub(super) fn hand_over(&mut self, order: HandoverOrder) {
        let HandoverOrder { signer, answer } = order;
        let handed_over = self.try_hand_over(signer);
        if handed_over.is_ok() {
            let mut current = self.handovers.current.lock().unwrap_or_else(PoisonError::into_inner);
            *current = self.signing.key.clone();
            drop(current);
            // A start believes a tree beside the log that its own key signed. If this fails, the next turn does it.
            let _ = self.sign().and_then(|(_, note)| self.publish(&note));
        }
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
        self.publish_history(&history)
            .map_err(|error| format!("cannot write {}: {error}", self.follower.dir.display()))?;
        let key = history.current().expect("it ends with the new key");
        self.signing = Signing { signer, key, history };
        // Receipts are certified by the key that signs checkpoints.
        self.receipts = self.receipts.take().map(|_| Renewal::new(self.shared.boot));
        Ok(handover)
    }

    /// What readers see decides: a file that is there, though the folder could not be synced, says that the new key signs.
    fn publish_history(&self, history: &KeyHistory) -> io::Result<()> {
        let dir = &self.follower.dir;
        history.publish(dir).or_else(|error| match KeyHistory::beside(dir) {
            Ok(Some(seen)) if seen == *history => Ok(()),
            _ => Err(error),
        })
    }
}
