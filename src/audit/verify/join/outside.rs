//! What is said about the log outside of it: anchors kept elsewhere, and the checkpoint published beside it.

use super::{Class, Join};
use crate::audit::{
    note::Checkpoint,
    sealer::CHECKPOINT_FILE,
    verify::{Mode, anchors},
};

impl Join<'_> {
    /// Compares with the checkpoints that were kept elsewhere.
    pub(super) fn check_anchors(&mut self) {
        let origin = self.log.as_ref().map(|log| log.origin.clone()).unwrap_or_default();
        for anchor in &self.options.anchors {
            let broken = !self.report.breaks.is_empty();
            let known = anchors::Known { origin: &origin, size: self.report.size, roots: &self.anchor_roots };
            let verdict = anchor.judge(self.options, &known);
            if let Some((class, seq)) = verdict.failed
                // Behind another break nothing can be compared; that break is what there is to say.
                && !(broken && class == Class::Unchecked)
            {
                let detail = format!("anchor {}: {}", anchor.name, verdict.detail);
                self.broken(class, 0, 0, seq, 0, detail);
            }
            self.report.anchors.push(verdict);
        }
    }

    /// Compares with what two keys of the log signed when one gave way to the other.
    pub(super) fn check_handovers(&mut self) {
        let partial = self.stopped || matches!(self.options.mode, Mode::Range { .. });
        for checkpoint in &self.options.handovers {
            let (size, root) = (checkpoint.size, &checkpoint.root);
            let known = anchors::Known {
                origin: &checkpoint.origin,
                size: self.report.size,
                roots: &self.anchor_roots,
            };
            if let Err((class, seq, detail)) = anchors::continues(&known, size, root)
                && class != Class::Unchecked
                && !(partial && size > self.report.size)
            {
                self.broken(class, 0, 0, seq, 0, format!("handover to the next checkpoint key: {detail}"));
            }
        }
    }

    /// Compares with the checkpoint that was published beside the log.
    pub(super) fn check_published(&mut self) {
        let Some(note) = self.published.take() else { return };
        if matches!(self.options.mode, Mode::Range { .. }) {
            return;
        }
        let opened = if self.options.keys.is_empty() {
            Checkpoint::read_unverified(&note)
        } else {
            Checkpoint::open(&note, &self.options.keys)
        };
        let size = self.report.size;
        match opened {
            Err(error) => {
                self.broken(error.into(), 0, 0, size, 0, format!("file {CHECKPOINT_FILE}: {error}"));
            }
            // A running log may have been signed beyond what we were told to look at.
            Ok(published) if published.size > size && !self.stopped => {
                let missing = published.size - size;
                let detail = format!("{} records were signed, {size} are there", published.size);
                let place =
                    self.last.as_ref().map(|last| (last.index, last.ended.end, last.ended.tail_bytes));
                let (index, end, tail) = place.unwrap_or((self.expected_index, 0, 0));
                if tail == 0 {
                    self.broken(Class::Truncated, index, end, size, missing, detail);
                } else {
                    // Not a crash's leavings, as it seemed: what stands there was signed.
                    self.report.notices.retain(|notice| {
                        notice.class != Class::TornUnacknowledged
                            || (notice.segment, notice.offset) != (index, end)
                    });
                    let cause =
                        self.last.as_ref().and_then(|last| last.tail_cause.clone()).unwrap_or_default();
                    let body = cause.starts_with("body");
                    let class = if body { Class::AlteredBody } else { Class::AlteredHeader };
                    self.broken(class, index, end, size, missing, format!("{cause}; {detail}"));
                }
            }
            Ok(published) => self.compare_published(&published),
        }
    }

    fn compare_published(&mut self, published: &Checkpoint) {
        match self.anchor_roots.get(&published.size) {
            Some(root) if *root == published.root => {
                self.report.checkpoints += 1;
                if published.size > self.report.signed_size {
                    self.report.signed_size = published.size;
                    self.signed_wall_ns = self.last_wall_ns;
                }
            }
            Some(_) if self.report.breaks.is_empty() => {
                let size = published.size;
                let detail = format!(
                    "the first {size} records do not hash to the tree head of file {CHECKPOINT_FILE}"
                );
                self.broken(Class::Rewritten, 0, 0, size, 0, detail);
            }
            _ => {}
        }
    }
}
