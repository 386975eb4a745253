//! The receipts that a batch of answers asks for: room is left in the replies, and filled once the records are hashed.

use std::ops::Range;
use std::rc::Rc;

use crate::audit::receipt::ReceiptBatch;
use crate::audit::{Appender, RecordId};
use crate::decision::UnixSeconds;
use crate::wire;

use super::outbox::Outbox;
use super::turn::{Form, Job};

/// Receipts of one batch. A reply whose record could not be appended keeps saying that there is none.
pub(super) struct Receipts {
    batch: Option<ReceiptBatch>,
    rooms: Vec<(Rc<Outbox>, Range<usize>)>,
}

impl Receipts {
    /// Counts those that these jobs ask for, so that the length of each is known.
    pub(super) fn begin(jobs: &[Job], appender: &Appender, now: UnixSeconds) -> Self {
        let asks = |job: &&Job| matches!(job.form, Form::Verify(place) if place.last && place.receipt);
        let wanted = jobs.iter().filter(asks).count();
        let batch = (wanted > 0).then(|| appender.begin_receipts(wanted, now)).flatten();
        Self { batch, rooms: Vec::new() }
    }

    /// Characters of each; `None`: none is given.
    pub(super) fn text_len(&self) -> Option<usize> {
        self.batch.as_ref().map(ReceiptBatch::text_len)
    }

    /// Asks for the receipt of a record just appended, if its reply in `outbox` has room for one.
    pub(super) fn ask(&mut self, id: RecordId, outbox: &Rc<Outbox>, room: Option<Range<usize>>) {
        if let (Some(batch), Some(room)) = (&mut self.batch, room) {
            batch.ask(id);
            self.rooms.push((Rc::clone(outbox), room));
        }
    }

    /// Signs them, once, and writes each where its reply has room. Call it before the batch is submitted.
    pub(super) fn write(self, appender: &mut Appender) {
        let Some(batch) = self.batch.filter(|batch| !batch.is_empty()) else { return };
        let mut signed = appender.sign_receipts(batch);
        for (place, (outbox, room)) in self.rooms.into_iter().enumerate() {
            outbox.with_bytes(|out| {
                wire::write_receipt(&mut out[room], |receipt| signed.write(place, receipt));
            });
        }
    }
}
