//! The watch: keeps deadlines and writes off workers that do not come back. It never calls the module, which has no
//! timeouts and may keep a thread for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::desk::{Standing, lock};
use super::keeper::Order;
use super::metrics::add;
use super::shared::{Shared, Slot};
use super::spawn_worker;
use crate::HsmError;

/// How late a job may be answered after its deadline when the machine is not overloaded.
pub(crate) const TICK: Duration = Duration::from_millis(10);

pub(super) struct Watch {
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: Arc<Slot>,
    pub(super) stop: Receiver<()>,
    // Held by every thread that calls the module; the pool waits for the last to go.
    pub(super) alive: Sender<()>,
}

impl Watch {
    pub(super) fn run(self) {
        loop {
            // While the next moment is computed every new job wakes this thread again.
            self.shared.announce_wake(None);
            let stopped = matches!(self.stop.try_recv(), Err(TryRecvError::Disconnected));
            if stopped {
                self.shared.set_standing(Standing::Stopped);
                self.refuse_queued();
                if self.shared.outstanding_len() == 0 {
                    return;
                }
            }
            let now = Instant::now();
            let due = self.shared.expire(now);
            let hung = self.write_off(now, stopped);
            let next = [due, hung].into_iter().flatten().min();
            self.shared.sleep_until(next);
        }
    }

    /// Writes off workers that sit in a call for longer than the limit, and replaces them. Says when to look again.
    fn write_off(&self, now: Instant, stopped: bool) -> Option<Instant> {
        let limit = self.shared.settings.hang_limit;
        let mut next = None;
        let mut hung = Vec::new();
        {
            let mut slots = lock(&self.shared.slots);
            let (late, live) = slots.live.drain(..).partition::<Vec<_>, _>(|slot| {
                slot.inside_since(&self.shared).is_some_and(|since| now >= since + limit)
            });
            slots.live = live;
            for slot in late {
                slot.lost.store(true, Ordering::SeqCst);
                slots.lost.push(Arc::clone(&slot));
                hung.push(slot);
            }
            let inside = slots.live.iter().filter_map(|slot| slot.inside_since(&self.shared)).min();
            if let Some(since) = inside {
                next = Some(since + limit);
            }
        }
        for _ in &hung {
            add(&self.shared.counters.workers_lost);
        }
        if stopped {
            return next;
        }
        let keeper_since = self.keeper.inside_since(&self.shared);
        if let Some(since) = keeper_since {
            next = Some(next.map_or(since + limit, |next: Instant| next.min(since + limit)));
        }
        // A moment that has passed was acted upon: look again after a while, not at once.
        let next = next.map(|moment| moment.max(now + TICK));
        self.replace();
        self.judge(keeper_since.is_some_and(|since| now >= since + limit));
        // Jobs outstanding without anybody inside yet: somebody will be, unseen by this look.
        let busy = self.shared.outstanding_len() > 0;
        let again = busy.then(|| now + limit / 4);
        [next, again].into_iter().flatten().min()
    }

    /// Tops the workers up, as long as fewer are lost than there should be.
    fn replace(&self) {
        loop {
            let slot = Arc::new(Slot::default());
            {
                let mut slots = lock(&self.shared.slots);
                let wanted = self.shared.settings.workers;
                if slots.live.len() >= wanted || slots.lost.len() >= wanted {
                    return;
                }
                slots.live.push(Arc::clone(&slot));
            }
            if !spawn_worker(&self.shared, &slot, &self.stop, &self.alive) {
                // No thread to be had: go on with fewer.
                lock(&self.shared.slots).live.retain(|other| !Arc::ptr_eq(other, &slot));
                return;
            }
        }
    }

    /// Gives the token up when all workers are lost or the keeper hangs, and back when they return.
    fn judge(&self, keeper_hangs: bool) {
        let lost = lock(&self.shared.slots).lost.len();
        let stuck = keeper_hangs || lost >= self.shared.settings.workers;
        let standing = self.shared.standing().0;
        match (stuck, standing) {
            (true, Standing::Starting | Standing::Ready | Standing::Healing | Standing::Down(_)) => {
                self.shared.set_standing(Standing::Stuck);
                self.refuse_queued();
            }
            (true, Standing::Stuck) => self.refuse_queued(),
            (false, Standing::Stuck) => {
                self.shared.set_standing(Standing::Healing);
                // The keeper lives as long as the pool.
                let _ = self.shared.orders.send(Order::Heal);
            }
            (_, _) => {}
        }
    }

    /// Nobody else would answer them before their deadline.
    fn refuse_queued(&self) {
        let workers = self.shared.settings.workers;
        let stopped = matches!(self.shared.standing().0, Standing::Stopped);
        for ticket in self.shared.lanes.drain() {
            let error = if stopped { HsmError::Stopped } else { HsmError::Stuck { workers } };
            self.shared.settle(&ticket, Err(error));
        }
    }
}
