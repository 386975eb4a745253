//! What the threads of a pool in this process share besides its desk: the module, and who is inside it since when.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::Sender;
use cryptoki::session::Session;

use super::PoolSettings;
use super::desk::{Desk, Standing, lock};
use super::keeper::Order;
use crate::pkcs11::{Activity, Module, PinPolicy, Tenant, TokenSeen};
use crate::{HsmError, PinSource};

pub(super) struct Shared {
    desk: Arc<Desk>,
    pub(super) settings: PoolSettings,
    pub(super) pin: PinPolicy,
    pub(super) module: Arc<Module>,
    pub(super) orders: Sender<Order>,
    pub(super) slots: Mutex<Slots>,
    // Of all that call the module.
    threads: Mutex<Vec<JoinHandle<()>>>,
    // The token and the epoch of the module in which its slot is that. Set by the keeper with each login, read by workers
    // that open a session ([`Shared::token_in`]).
    pub(super) token: Mutex<Option<(TokenSeen, u64)>>,
    /// This pool, as others in the module see it.
    pub(super) tenant: Arc<Tenant>,
}

/// The threads that call the module.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) live: Vec<Arc<Slot>>,
    pub(super) lost: Vec<Arc<Slot>>,
}

/// Since when one thread is inside the module.
#[derive(Debug, Default)]
pub(super) struct Slot {
    // Nanoseconds since the pool's origin; 0 when outside.
    since: AtomicU64,
    // Set by the watch: the thread ends when its call returns.
    pub(super) lost: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        desk: Arc<Desk>,
        settings: PoolSettings,
        pin: PinPolicy,
        module: Arc<Module>,
        orders: Sender<Order>,
    ) -> Arc<Self> {
        // A pipe serves one login, an operator has to be asked.
        let logs_in_again = matches!(pin.source, PinSource::Credential(_) | PinSource::File(_));
        Arc::new_cyclic(|shared: &Weak<Self>| Self {
            tenant: Tenant::new(logs_in_again, {
                let shared = Weak::clone(shared);
                move || shared.upgrade().iter().for_each(|shared| shared.heal_if(|_| true))
            }),
            desk,
            settings,
            pin,
            module,
            orders,
            slots: Mutex::default(),
            threads: Mutex::default(),
            token: Mutex::default(),
        })
    }

    /// Keeps the handle of a thread that calls the module.
    pub(super) fn keep_thread(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Waits until all of them have ended. They must have left the module for good.
    pub(super) fn join_threads(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // One that panicked has ended, too.
            let _ = thread.join();
        }
    }

    /// The token as it was seen in this epoch of the module, so that its slot is still that.
    ///
    /// # Errors
    /// [`HsmError::ModuleRenewed`] if its slot may be another token's by now; the keeper finds it again.
    pub(super) fn token_in(&self, epoch: u64) -> Result<TokenSeen, HsmError> {
        let (token, seen) = lock(&self.token).clone().ok_or(HsmError::Stopped)?;
        if seen != epoch {
            return Err(HsmError::ModuleRenewed { path: self.module.path().to_owned() });
        }
        Ok(token)
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.desk.change_standing(standing, |standing| {
            self.tenant.does(match standing {
                Standing::Ready | Standing::Healing => Activity::Working,
                Standing::Starting | Standing::Down(_) | Standing::Stuck => Activity::Waiting,
                Standing::Stopped => Activity::Gone,
            });
        });
    }

    /// Tells the keeper that something failed in `generation`; later reports from the same generation are no news.
    pub(super) fn report(&self, generation: u64) {
        self.heal_if(|current| current == generation);
    }

    fn heal_if(&self, concerns: impl Fn(u64) -> bool) {
        self.desk.heal_if(concerns, || {
            // The keeper lives as long as the pool; when it is gone nobody waits for healing.
            let _ = self.orders.send(Order::Heal);
        });
    }
}

impl Deref for Shared {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl Slot {
    /// Marks the thread as inside the module until the mark is dropped.
    pub(super) fn enter<'a>(&'a self, shared: &Shared) -> Inside<'a> {
        self.since.store(shared.clock(Instant::now()), Ordering::SeqCst);
        Inside(self)
    }

    /// Since when the thread is inside.
    pub(super) fn inside_since(&self, shared: &Shared) -> Option<Instant> {
        match self.since.load(Ordering::SeqCst) {
            0 => None,
            clock => Some(shared.moment(clock)),
        }
    }
}

/// The mark of [`Slot::enter`].
pub(super) struct Inside<'a>(&'a Slot);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::SeqCst);
    }
}

/// Closes a session of this epoch. It may be broken, and is given up either way.
pub(super) fn give_back(session: Session) {
    let _ = session.close();
}
