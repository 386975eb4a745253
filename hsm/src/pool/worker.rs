//! A worker: one thread, one session, the handles found in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use cryptoki::context::Function;
use cryptoki::error::RvError;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::desk::{Standing, lock};
use super::gcm;
use super::job::{KeyKind, Output, PinnedKey, Ticket, Work};
use super::making;
use super::metrics::add;
use super::shared::{Shared, Slot, give_back};
use crate::pkcs11::{CallError, Class, Inside, KeyRules, find_one, find_signing_key, key_type};
use crate::{HsmError, Pkcs11Uri};

/// A job is tried as it is, in a new session, and after the keeper has put things right.
const ATTEMPTS: u32 = 3;

/// How long a worker without a session waits before it asks for one again.
const SESSION_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    pub(super) stop: Receiver<()>,
    session: Option<Opened>,
    // Set when there was no session to be had.
    pause: bool,
}

/// A session and what was found in it. Both are dead in another epoch of the module.
struct Opened {
    session: Session,
    epoch: u64,
    handles: HashMap<u64, ObjectHandle>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>, stop: Receiver<()>) -> Self {
        Self { shared, slot, stop, session: None, pause: false }
    }

    /// Works until the pool is closed or the watch has written this worker off.
    pub(super) fn run(mut self) {
        let mut turn = 0;
        while !self.slot.lost.load(Ordering::SeqCst) {
            // A worker that gets no session leaves the jobs to the others.
            if std::mem::take(&mut self.pause) || !self.is_provided() {
                match self.stop.recv_timeout(SESSION_PAUSE) {
                    Err(RecvTimeoutError::Timeout) => continue,
                    _ => break,
                }
            }
            let Some(ticket) = self.shared.lanes.take(&mut turn, &self.stop) else { break };
            if ticket.is_settled() {
                // Nobody's turn was used up by it.
                turn = turn.wrapping_sub(1);
                continue;
            }
            self.shared.counters.wait.note(ticket.queued.elapsed());
            match self.work(&ticket) {
                // Another worker may have a session; this one asks for one before it takes the next job.
                Err(error) if error.class() == Class::Busy && !ticket.is_settled() => {
                    if !self.shared.lanes.push(Arc::clone(&ticket)) {
                        self.shared.settle(&ticket, Err(error));
                    }
                    self.pause = true;
                }
                outcome => self.shared.settle(&ticket, outcome),
            }
        }
        self.close_session();
        let mut slots = lock(&self.shared.slots);
        slots.live.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        slots.lost.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        drop(slots);
        // Fewer lost workers may mean that the token answers again.
        self.shared.wake_watch();
    }

    /// Whether there is a session, or no use in trying to open one now.
    fn is_provided(&mut self) -> bool {
        let ready = matches!(self.shared.standing().0, Standing::Ready);
        if self.session.is_some() || !ready {
            return true;
        }
        let deadline = Instant::now() + self.shared.settings.hang_limit;
        let shared = Arc::clone(&self.shared);
        let Ok(inside) = shared.module.enter(deadline) else { return true };
        let slot = Arc::clone(&self.slot);
        let mark = slot.enter(&shared);
        let outcome = self.opened(&inside).map(|_| ());
        drop(mark);
        // Any other fault is better met with a job in hand: that decides what it means.
        !matches!(outcome, Err(error) if error.class() == Class::Busy)
    }

    fn work(&mut self, ticket: &Ticket) -> Result<Output, HsmError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let generation = self.shared.wait_ready(ticket.purpose, ticket.deadline)?;
            self.shared.key_refusal(&ticket.work)?;
            if self.slot.lost.load(Ordering::SeqCst)
                || ticket.is_settled()
                || Instant::now() >= ticket.deadline
            {
                return Err(HsmError::DeadlinePassed { purpose: ticket.purpose });
            }
            let error = match self.attempt(ticket) {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            if let HsmError::Call(call) = &error {
                self.shared.counters.note_error(call);
            }
            let last = attempt >= ATTEMPTS;
            match error.class() {
                // Nothing was tried. It is when the keeper has logged in again, for as long as the job has time.
                Class::Device if matches!(error, HsmError::ModuleRenewed { .. }) => {
                    self.shared.report(generation);
                    attempt -= 1;
                }
                Class::Caller | Class::Rejected | Class::Config | Class::Pin | Class::Busy => {
                    return Err(error);
                }
                Class::Session if last => return Err(error),
                Class::Session => {}
                // A stale handle is found again in a new session; if that does not help it is the keeper's.
                Class::Login if attempt == 1 => {}
                Class::Login | Class::Device => {
                    self.shared.report(generation);
                    if last {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn attempt(&mut self, ticket: &Ticket) -> Result<Output, HsmError> {
        let shared = Arc::clone(&self.shared);
        let inside = shared.module.enter(ticket.deadline)?;
        let slot = Arc::clone(&self.slot);
        let mark = slot.enter(&shared);
        let started = Instant::now();
        let outcome = self.call(&inside, &ticket.work);
        if outcome.is_err() {
            // The session may be left in the middle of an operation, for ever.
            self.discard_session(&inside);
        }
        drop(mark);
        drop(inside);
        shared.counters.call.note(started.elapsed());
        let output = outcome?;
        if let (Work::Sign { key, message }, Output::Signature(signature)) = (&ticket.work, &output) {
            let started = Instant::now();
            let verified = verify(key, message, signature);
            shared.counters.verify.note(started.elapsed());
            if !verified {
                add(&shared.counters.signature_faults);
                self.close_session();
                return Err(HsmError::SignatureFault { purpose: key.purpose });
            }
            add(&shared.counters.signed);
            key.last_good.store(shared.clock(Instant::now()), Ordering::Relaxed);
        }
        Ok(output)
    }

    fn call(&mut self, inside: &Inside<'_>, work: &Work) -> Result<Output, HsmError> {
        let shared = Arc::clone(&self.shared);
        let raw = self.shared.module.raw(inside);
        let rules = self.shared.settings.key_rules();
        let opened = self.opened(inside)?;
        match work {
            Work::Sign { key, message } => {
                let handle = opened.handle(key, rules)?;
                let KeyKind::Signing(pinned) = &key.kind else {
                    return Err(HsmError::SignatureFault { purpose: key.purpose });
                };
                let algorithm = pinned.key().algorithm();
                Ok(Output::Signature(raw.sign(&opened.session, algorithm, handle, message)?))
            }
            Work::FindSigning { uri, allowed } => {
                let found = find_signing_key(&opened.session, uri, allowed, rules)?;
                let id = read_id(&opened.session, found.private)?;
                Ok(Output::Found { public_key: found.public_key, label: found.label, id })
            }
            Work::FindWrapping { uri } => {
                let handle = gcm::find_wrapping_key(&opened.session, uri, rules)?;
                let id = read_id(&opened.session, handle)?;
                Ok(Output::Found { public_key: None, label: read_label(&opened.session, handle)?, id })
            }
            Work::Seal { key, data, associated } => {
                let handle = opened.handle(key, rules)?;
                let (iv, data) = gcm::seal(&opened.session, handle, data, associated)?;
                Ok(Output::Sealed { iv, data })
            }
            Work::Open { key, iv, data, associated } => {
                let handle = opened.handle(key, rules)?;
                gcm::open(&opened.session, handle, *iv, data, associated).map(Output::Opened)
            }
            Work::Destroy { uri, public_key } => making::destroy(&shared, inside, uri, *public_key),
            Work::Make { name } => making::make(&shared, inside, name),
        }
    }

    /// The session of this epoch, opened if need be.
    fn opened(&mut self, inside: &Inside<'_>) -> Result<&mut Opened, HsmError> {
        // A session of another epoch is not closed: its number may be somebody else's now.
        let opened = match self.session.take() {
            Some(opened) if opened.epoch == inside.epoch() => opened,
            stale => {
                if stale.is_some() {
                    add(&self.shared.counters.sessions_closed);
                }
                let token = self.shared.token_in(inside.epoch())?;
                // Two are left to the keeper, which opens before it closes.
                let allowed = token.sessions_max.map_or(u64::MAX, |max| max.saturating_sub(2).max(2));
                if self.shared.counters.sessions() >= allowed {
                    return Err(CallError::new(RvError::SessionCount, Function::OpenSession).into());
                }
                let context = self.shared.module.context(inside);
                let session = context.open_ro_session_no_drop(token.slot).map_err(CallError::from)?;
                add(&self.shared.counters.sessions_opened);
                Opened { session, epoch: inside.epoch(), handles: HashMap::new() }
            }
        };
        Ok(self.session.insert(opened))
    }

    fn discard_session(&mut self, inside: &Inside<'_>) {
        if let Some(opened) = self.session.take() {
            add(&self.shared.counters.sessions_closed);
            if opened.epoch == inside.epoch() {
                give_back(opened.session);
            }
        }
    }

    fn close_session(&mut self) {
        let shared = Arc::clone(&self.shared);
        if self.session.is_some()
            && let Ok(inside) = shared.module.enter(Instant::now() + shared.settings.hang_limit)
        {
            let slot = Arc::clone(&self.slot);
            let _mark = slot.enter(&shared);
            self.discard_session(&inside);
        }
    }
}

impl Opened {
    fn handle(&mut self, key: &PinnedKey, rules: KeyRules) -> Result<ObjectHandle, HsmError> {
        if let Some(handle) = self.handles.get(&key.number) {
            return Ok(*handle);
        }
        let handle = find_private(&self.session, &key.uri, &key.kind, rules)?;
        self.handles.insert(key.number, handle);
        Ok(handle)
    }
}

fn find_private(
    session: &Session,
    uri: &Pkcs11Uri,
    kind: &KeyKind,
    rules: KeyRules,
) -> Result<ObjectHandle, HsmError> {
    match kind {
        KeyKind::Signing(pinned) => {
            find_one(session, uri, ObjectClass::PRIVATE_KEY, key_type(pinned.key().algorithm()))
        }
        KeyKind::Wrapping => gcm::find_wrapping_key(session, uri, rules),
    }
}

/// `CKA_LABEL`; `None` if it has none that is text.
fn read_label(session: &Session, handle: ObjectHandle) -> Result<Option<String>, CallError> {
    let attributes = session.get_attributes(handle, &[AttributeType::Label])?;
    Ok(attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::Label(label) => String::from_utf8(label).ok(),
        _ => None,
    }))
}

/// `CKA_ID`, which names the key for good; empty if it has none.
fn read_id(session: &Session, handle: ObjectHandle) -> Result<Vec<u8>, CallError> {
    let attributes = session.get_attributes(handle, &[AttributeType::Id])?;
    let id = attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::Id(id) => Some(id),
        _ => None,
    });
    Ok(id.unwrap_or_default())
}

/// The only way out for a signature made in a token.
pub(super) fn verify(key: &PinnedKey, message: &[u8], signature: &[u8; 64]) -> bool {
    match &key.kind {
        KeyKind::Signing(pinned) => pinned.verifies(message, signature),
        KeyKind::Wrapping => false,
    }
}
