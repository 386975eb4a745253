//! The keeper: logs in, holds one session so that the login lasts, and puts things right.
//!
//! It works on its own thread because all of this may block. A fault is first met softly (look, log in, find the keys
//! again, test them); only when that fails is the module re-initialised, at most every so often. A PIN that the token
//! refuses ends it: from then on only the record is asked, and an operator must act.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use cryptoki::session::{Session, SessionState};
use zeroize::Zeroizing;

use super::desk::{Standing, lock};
use super::gcm;
use super::job::{KeyKind, PinnedKey, Work};
use super::metrics::add;
use super::shared::{Shared, Slot, give_back};
use super::worker::verify;
use crate::HsmError;
use crate::pkcs11::{
    CallError, Class, Cost, Inside, Login, TokenSeen, Who, find_signing_key, find_token, log_in,
};

/// What the keeper is told.
pub(super) enum Order {
    /// Something failed.
    Heal,
    /// An operator supplies the PIN, for one login.
    Unlock(Zeroizing<String>, Sender<Result<(), Arc<HsmError>>>),
}

/// The back-off between re-initialisations grows to this many times the first.
const BACK_OFF_MAX: u32 = 10;

pub(super) struct Keeper {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    orders: Receiver<Order>,
    stop: Receiver<()>,
    session: Option<(Session, u64)>,
    reinitialized: Option<Instant>,
    // Since when the token is missed.
    missed: Option<Instant>,
    // In which epoch of the module it was looked at last.
    epoch: u64,
    back_off: Duration,
    // From an operator, for one login.
    supplied: Option<Zeroizing<String>>,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        slot: Arc<Slot>,
        orders: Receiver<Order>,
        stop: Receiver<()>,
    ) -> Self {
        let back_off = shared.settings.reinit_interval;
        Self {
            shared,
            slot,
            orders,
            stop,
            session: None,
            reinitialized: None,
            missed: None,
            epoch: 0,
            back_off,
            supplied: None,
        }
    }

    pub(super) fn run(mut self) {
        self.recover();
        loop {
            let tick = self.shared.settings.probe_interval;
            let order = crossbeam_channel::select! {
                recv(self.orders) -> order => order.map_err(|_| RecvTimeoutError::Disconnected),
                recv(self.stop) -> _ => break,
                default(tick) => Err(RecvTimeoutError::Timeout),
            };
            match order {
                Ok(Order::Heal) => self.recover(),
                Ok(Order::Unlock(pin, reply)) => {
                    self.supplied = Some(pin);
                    self.shared.set_standing(Standing::Healing);
                    self.recover();
                    self.supplied = None;
                    let outcome = match self.shared.standing().0 {
                        Standing::Down(cause) => Err(cause),
                        _ => Ok(()),
                    };
                    // The operator may have gone away.
                    let _ = reply.send(outcome);
                }
                Err(RecvTimeoutError::Timeout) => match self.shared.standing().0 {
                    Standing::Ready => self.probe(),
                    Standing::Starting | Standing::Healing | Standing::Down(_) => self.recover(),
                    Standing::Stuck | Standing::Stopped => {}
                },
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.close();
    }

    /// Has each key sign that has not for a while, through the workers, whose deadline is kept by the watch.
    fn probe(&mut self) {
        let mut faulty = false;
        let interval = self.shared.settings.probe_interval;
        let now = Instant::now();
        let keys = lock(&self.shared.keys).clone();
        for key in &keys {
            let last = key.last_good.load(Ordering::Relaxed);
            let fresh = last != 0 && now.saturating_duration_since(self.shared.moment(last)) < interval;
            if key.fault().is_some() {
                faulty = true;
            }
            if fresh || !matches!(key.kind, KeyKind::Signing(_)) {
                continue;
            }
            let work = Work::Sign { key: Arc::clone(key), message: probe_message() };
            let deadline = now + self.shared.settings.hang_limit;
            // A failure is reported by the worker that meets it, a full queue shows that the token is at work.
            let _ = self.shared.submit(work, key.purpose, deadline, Box::new(|_| {}));
        }
        if faulty {
            self.recover();
        }
    }

    /// Brings the token back if it can be brought back, and says how it stands.
    fn recover(&mut self) {
        let mut outcome = self.look();
        if outcome.as_ref().is_err_and(needs_reinitializing) && self.may_reinitialize() {
            outcome = self.reinitialize().and_then(|()| self.look());
            if outcome.is_err() {
                self.back_off = (self.back_off * 2).min(self.shared.settings.reinit_interval * BACK_OFF_MAX);
            }
        }
        match outcome {
            Ok(()) => {
                self.missed = None;
                self.back_off = self.shared.settings.reinit_interval;
                self.shared.set_standing(Standing::Ready);
            }
            Err(error) => {
                if let HsmError::Call(call) = &error {
                    self.shared.counters.note_error(call);
                }
                self.shared.set_standing(Standing::Down(Arc::new(error)));
            }
        }
        self.shared.wake_watch();
    }

    /// Whether the module is to be initialised anew for this token's sake, now.
    ///
    /// Where another token of the module works, that ends its sessions and its login, so it is not the first thing tried:
    /// the token is missed for as long as the back-off first. It cannot be left out altogether: SoftHSM 2.6.1 reads its
    /// token folder in `C_Initialize` only, and a token that was moved away and back was not seen again without. There
    /// `C_Finalize` and `C_Initialize` take 0.25 ms and `C_Login` 0.8 ms, and while it was done twice under load the other
    /// token's longest signature took 30 ms, on two busy cores; none failed. Where a login takes a person, nothing here
    /// is worth it.
    fn may_reinitialize(&mut self) -> bool {
        let missed = *self.missed.get_or_insert_with(Instant::now);
        let waited = |since: Option<Instant>| since.is_none_or(|since| since.elapsed() >= self.back_off);
        match self.shared.module.cost(&self.shared.tenant) {
            Cost::None | Cost::Idle => waited(self.reinitialized),
            Cost::Sessions => waited(self.reinitialized) && waited(Some(missed)),
            Cost::Login => false,
        }
    }

    fn reinitialize(&mut self) -> Result<(), HsmError> {
        self.reinitialized = Some(Instant::now());
        if self.session.take().is_some() {
            add(&self.shared.counters.sessions_closed);
        }
        let slot = Arc::clone(&self.slot);
        let _mark = slot.enter(&self.shared);
        self.shared.wake_watch();
        let deadline = Instant::now() + self.shared.settings.hang_limit;
        let outcome = self.shared.module.reinitialize(self.epoch, deadline);
        if !matches!(outcome, Ok(false) | Err(HsmError::ModuleBusy { .. })) {
            add(&self.shared.counters.reinitialized);
        }
        outcome.map(|_| ())
    }

    /// Finds the token, logs in if need be, and has every key sign.
    fn look(&mut self) -> Result<(), HsmError> {
        let shared = Arc::clone(&self.shared);
        let slot = Arc::clone(&self.slot);
        let _mark = slot.enter(&shared);
        // So that it sees the mark: nobody else would tell it if this hangs.
        shared.wake_watch();
        let deadline = Instant::now() + shared.settings.hang_limit;
        self.epoch = shared.module.epoch();
        shared.module.initialize(deadline)?;
        let inside = shared.module.enter(deadline)?;
        self.epoch = inside.epoch();
        let token = find_token(shared.module.context(&inside), &shared.settings.token)?;
        self.renew_session(&inside, &token)?;
        self.ensure_login(&inside, &token)?;
        *lock(&shared.token) = Some((token.clone(), inside.epoch()));
        let keys = lock(&shared.keys).clone();
        if keys.is_empty() {
            return Ok(());
        }
        let session =
            shared.module.context(&inside).open_ro_session_no_drop(token.slot).map_err(CallError::from)?;
        let outcomes: Vec<_> = keys.iter().map(|key| self.test(&inside, &session, key)).collect();
        give_back(session);
        settle_faults(&keys, outcomes)
    }

    /// Opens a new keeper session before the old one is closed: with the last session the login would end.
    fn renew_session(&mut self, inside: &Inside<'_>, token: &TokenSeen) -> Result<(), HsmError> {
        let context = self.shared.module.context(inside);
        let session = context.open_ro_session_no_drop(token.slot).map_err(CallError::from)?;
        add(&self.shared.counters.sessions_opened);
        if let Some((old, epoch)) = self.session.replace((session, inside.epoch())) {
            add(&self.shared.counters.sessions_closed);
            if epoch == inside.epoch() {
                give_back(old);
            }
        }
        Ok(())
    }

    fn ensure_login(&mut self, inside: &Inside<'_>, token: &TokenSeen) -> Result<(), HsmError> {
        let Some((session, _)) = &self.session else { return Err(HsmError::Stopped) };
        let state = session.get_session_info().map_err(CallError::from)?.session_state();
        if matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let context = self.shared.module.context(inside);
        let supplied = self.supplied.take();
        let login = log_in(Who::User, context, session, token, &self.shared.pin, supplied.as_ref())?;
        if login == Login::Made {
            add(&self.shared.counters.logins);
        }
        Ok(())
    }

    /// The key is there, is the one pinned, and signs.
    fn test(&self, inside: &Inside<'_>, session: &Session, key: &PinnedKey) -> Result<(), HsmError> {
        let rules = self.shared.settings.key_rules();
        let KeyKind::Signing(pinned) = &key.kind else {
            let handle = gcm::find_wrapping_key(session, &key.uri, rules)?;
            let (iv, sealed) = gcm::seal(session, handle, b"probe", b"probe")?;
            gcm::open(session, handle, iv, &sealed, b"probe")?;
            return Ok(());
        };
        let algorithm = pinned.key().algorithm();
        let found = find_signing_key(session, &key.uri, &[algorithm], rules)?;
        if found.public_key.is_some_and(|public_key| public_key != pinned.key()) {
            return Err(HsmError::KeyMismatch { key: Box::new(key.uri.clone()) });
        }
        key.purpose.check_label(found.label.as_deref(), &key.uri)?;
        let message = probe_message();
        let signature = self.shared.module.raw(inside).sign(session, algorithm, found.private, &message)?;
        if !verify(key, &message, &signature) {
            add(&self.shared.counters.signature_faults);
            return Err(HsmError::SignatureFault { purpose: key.purpose });
        }
        key.last_good.store(self.shared.clock(Instant::now()), Ordering::Relaxed);
        Ok(())
    }

    fn close(mut self) {
        if let Some((session, epoch)) = self.session.take()
            && let Ok(inside) = self.shared.module.enter(Instant::now() + self.shared.settings.hang_limit)
            && epoch == inside.epoch()
        {
            give_back(session);
        }
    }
}

/// One bad key is its own fault; when no key works it is the token's.
fn settle_faults(keys: &[Arc<PinnedKey>], mut outcomes: Vec<Result<(), HsmError>>) -> Result<(), HsmError> {
    if outcomes.iter().all(Result::is_err) {
        keys.iter().for_each(|key| key.set_fault(None));
        return outcomes.swap_remove(0);
    }
    for (key, outcome) in keys.iter().zip(outcomes) {
        key.set_fault(outcome.err().map(Arc::new));
    }
    Ok(())
}

fn needs_reinitializing(error: &HsmError) -> bool {
    match error.class() {
        Class::Device | Class::Login | Class::Session => !matches!(error, HsmError::ModuleBusy { .. }),
        Class::Busy | Class::Caller | Class::Config | Class::Pin | Class::Rejected => false,
    }
}

/// Something to sign that is neither a token's signing input (it has a NUL) nor a checkpoint (which begins with the
/// origin line of its log).
pub(crate) fn probe_message() -> Vec<u8> {
    let mut message = b"edgate-hsm probe\0".to_vec();
    let mut nonce = [0; 16];
    // Any content will do; without random bytes every probe is the same.
    let _ = getrandom::fill(&mut nonce);
    message.extend_from_slice(&nonce);
    message
}
