//! The queues before the workers: one per kind of purpose, bounded, served in order of urgency.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, select_biased};

use super::job::Ticket;
use crate::Purpose;

/// How many lanes there are.
pub(crate) const LANES: usize = 4;

/// After so many jobs in order of urgency one is taken from the lane whose turn it is, or the next that has one, so that no lane waits
/// for ever and none of them waits for another's end.
const FAIR_TURN: u32 = 16;

/// The lane of a purpose; 0 is the most urgent.
///
/// A checkpoint is one signature every few seconds, and without it the log stops, so it goes before what there may be any number of:
/// handshakes, which strangers can ask for and a client waits for, and tokens.
pub(crate) const fn lane_of(purpose: Purpose) -> usize {
    match purpose {
        // A cosignature is what another log's checkpoint waits for.
        Purpose::AuditCheckpoint | Purpose::Witness => 0,
        Purpose::TlsServer => 1,
        Purpose::TokenSigning => 2,
        // A pool never uses a backup key.
        Purpose::Backup | Purpose::Wrapping => 3,
    }
}

/// Both ends of every lane.
pub(crate) struct Lanes {
    senders: [Sender<Arc<Ticket>>; LANES],
    receivers: [Receiver<Arc<Ticket>>; LANES],
}

impl Lanes {
    pub(crate) fn new(len_max: usize) -> Self {
        let lanes: [_; LANES] = std::array::from_fn(|_| bounded(len_max));
        let receivers = std::array::from_fn(|index| {
            let (_, receiver): &(Sender<_>, Receiver<_>) = &lanes[index];
            receiver.clone()
        });
        Self { senders: lanes.map(|(sender, _)| sender), receivers }
    }

    /// Queues a job, or says at once that its lane is full.
    pub(crate) fn push(&self, ticket: Arc<Ticket>) -> bool {
        match self.senders[lane_of(ticket.purpose)].try_send(ticket) {
            Ok(()) => true,
            // Disconnected cannot be: both ends live in this struct.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Waits for the next job; `None` once `stop` is disconnected. `turn` is the caller's count of jobs.
    pub(crate) fn take(&self, turn: &mut u32, stop: &Receiver<()>) -> Option<Arc<Ticket>> {
        *turn = turn.wrapping_add(1);
        if matches!(stop.try_recv(), Err(TryRecvError::Disconnected)) {
            return None;
        }
        if turn.is_multiple_of(FAIR_TURN) {
            let first = (*turn / FAIR_TURN) as usize;
            let mut lanes = (0..LANES).map(|step| &self.receivers[(first + step) % LANES]);
            if let Some(ticket) = lanes.find_map(|lane| lane.try_recv().ok()) {
                return Some(ticket);
            }
        }
        let [first, second, third, fourth] = &self.receivers;
        select_biased! {
            recv(first) -> ticket => ticket.ok(),
            recv(second) -> ticket => ticket.ok(),
            recv(third) -> ticket => ticket.ok(),
            recv(fourth) -> ticket => ticket.ok(),
            recv(stop) -> _ => None,
        }
    }

    /// The next job in order of urgency, if one is queued. `turn` as for [`Self::take`].
    pub(crate) fn try_take(&self, turn: &mut u32) -> Option<Arc<Ticket>> {
        *turn = turn.wrapping_add(1);
        let next = |lane: &Receiver<Arc<Ticket>>| lane.try_recv().ok();
        if turn.is_multiple_of(FAIR_TURN) {
            return self.receivers.iter().rev().find_map(next);
        }
        self.receivers.iter().find_map(next)
    }

    /// Takes whatever is queued, without waiting.
    pub(crate) fn drain(&self) -> impl Iterator<Item = Arc<Ticket>> + '_ {
        self.receivers.iter().flat_map(Receiver::try_iter)
    }

    /// Jobs waiting in each lane.
    pub(crate) fn lens(&self) -> [usize; LANES] {
        std::array::from_fn(|index| self.receivers[index].len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::Pkcs11Uri;
    use crate::pool::Work;

    fn ticket(purpose: Purpose) -> Arc<Ticket> {
        let work = Work::FindSigning { uri: Pkcs11Uri::empty(), allowed: &[] };
        let deadline = Instant::now() + Duration::from_secs(60);
        Arc::new(Ticket::new(work, purpose, deadline, 0, Box::new(|_| {})))
    }

    #[test]
    fn the_urgent_go_first_and_nobody_waits_for_ever() {
        let lanes = Lanes::new(64);
        for purpose in [Purpose::Wrapping, Purpose::AuditCheckpoint, Purpose::TlsServer] {
            assert!(lanes.push(ticket(purpose)));
        }
        for _ in 0..64 {
            assert!(lanes.push(ticket(Purpose::TokenSigning)));
        }
        assert!(!lanes.push(ticket(Purpose::TokenSigning)), "full is full");
        assert_eq!(lanes.lens(), [1, 1, 64, 1]);
        let (stop, stopped) = bounded(0);
        let mut turn = 0;
        let order: Vec<_> = (0..60).map(|_| lanes.take(&mut turn, &stopped).unwrap().purpose).collect();
        assert_eq!(order[..3], [Purpose::AuditCheckpoint, Purpose::TlsServer, Purpose::TokenSigning]);
        // There are tokens enough to keep it waiting, but for the fair turn, which is every lane's in its turn.
        let wrapping = order.iter().position(|purpose| *purpose == Purpose::Wrapping).unwrap();
        assert!(wrapping < FAIR_TURN as usize * LANES, "{wrapping}");
        drop(stop);
        assert!(lanes.take(&mut turn, &stopped).is_none(), "stopping goes before what is queued");
    }
}
