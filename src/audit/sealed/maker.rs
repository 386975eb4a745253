//! Makes the keys of a day before it begins, and changes to them at midnight (UTC).
//!
//! A thread of its own, since a key is used only once its wrapped form is durable. Where one could not be made, records of its
//! tenant carry their tags and a word that the values are missing: a value is never stored another way.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use jiff::civil::Date;
use zeroize::Zeroizing;

use super::{
    Sealing, day_of, folder,
    ring::SealRing,
    second_of,
    wrapped::{KeyOf, WrappedKey},
};
use crate::audit::{appender::Shared, error::AuditError, settings::Settings};

/// What keys are made of.
pub(super) struct Making {
    pub(super) dir: PathBuf,
    pub(super) origin: String,
    pub(super) log_id: [u8; 16],
    pub(super) boot: u64,
    pub(super) sealing: Sealing,
}

/// The thread that makes them.
pub(in crate::audit) struct KeyMaker {
    pub(super) making: Making,
    pub(super) shared: Arc<Shared>,
    // Whose keys are in use.
    pub(super) today: Option<Date>,
    // Made ahead.
    pub(super) next: Option<SealRing>,
}

impl KeyMaker {
    /// Makes the keys of today, before anything is recorded; `None` where nothing is sealed.
    pub(in crate::audit) fn begin(
        settings: &Settings,
        log_id: [u8; 16],
        shared: &Arc<Shared>,
    ) -> Result<Option<Self>, AuditError> {
        let Some(sealing) = &settings.sealing else { return Ok(None) };
        let making = Making {
            dir: settings.dir.clone(),
            origin: settings.origin.clone(),
            log_id,
            boot: shared.boot,
            sealing: sealing.clone(),
        };
        let today = day_of(now());
        shared.sealing.use_ring(making.ring(today)?);
        Ok(Some(Self { making, shared: Arc::clone(shared), today: Some(today), next: None }))
    }

    /// Runs until the other end is dropped; then the keys are forgotten.
    pub(in crate::audit) fn run(mut self, stop: &Receiver<()>) {
        loop {
            // A clock that is set is noticed within a pause.
            let pause = self.turn(now()).min(PAUSE_MAX);
            if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        let none = SealRing::new(&self.making.sealing.fields, day_of(now()));
        self.shared.sealing.use_ring(none);
    }

    /// Does what is due at this second, and says how long there is nothing to do.
    pub(super) fn turn(&mut self, second: u64) -> Duration {
        let today = day_of(second);
        if self.today != Some(today) {
            let ready = self.next.take().filter(|ring| ring.day == today);
            self.today = ready.is_some().then_some(today);
            // Yesterday's keys go at midnight, whether or not there are others.
            let ring = ready.unwrap_or_else(|| SealRing::new(&self.making.sealing.fields, today));
            self.shared.sealing.use_ring(ring);
        }
        if self.today.is_none() {
            let Some(ring) = self.try_make(today) else { return RETRY };
            self.shared.sealing.use_ring(ring);
            self.today = Some(today);
        }
        let Ok(tomorrow) = today.tomorrow() else { return PAUSE_MAX };
        let left = second_of(tomorrow).saturating_sub(second);
        if self.next.is_none() && left <= AHEAD.as_secs() {
            self.next = self.try_make(tomorrow);
            if self.next.is_none() {
                return RETRY;
            }
        }
        let begins = if self.next.is_some() { left } else { left - AHEAD.as_secs() };
        Duration::from_secs(begins.max(1))
    }

    fn try_make(&self, day: Date) -> Option<SealRing> {
        let made = self.making.ring(day);
        self.shared.sealing.tell(made.as_ref().err().map(ToString::to_string));
        made.ok()
    }
}

impl Making {
    /// Random keys for all tenants, each durable in its wrapped form.
    pub(super) fn ring(&self, day: Date) -> Result<SealRing, AuditError> {
        let io = |source| AuditError::io("make a sealed key in", &self.dir, source);
        let mut ring = SealRing::new(&self.sealing.fields, day);
        let mut tenants: Vec<&str> = self.sealing.tenants.iter().map(String::as_str).collect();
        // What is of no tenant: a token that nobody's key signed, the address of a call about many.
        tenants.push("");
        tenants.sort_unstable();
        tenants.dedup();
        for tenant in tenants {
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(key.as_mut()).map_err(|error| io(std::io::Error::other(error)))?;
            let of = KeyOf {
                origin: self.origin.clone(),
                log_id: self.log_id,
                boot: self.boot,
                tenant: tenant.to_owned(),
                day,
            };
            let wrapped = WrappedKey::wrap(of, &self.sealing.openers, &key).ok_or_else(|| {
                AuditError::Settings("audit.sealed.openers: nothing can be sealed to one of them".to_owned())
            })?;
            folder::store(&self.dir, &wrapped).map_err(io)?;
            ring.add(tenant, wrapped.id(), &key);
        }
        Ok(ring)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long before midnight the keys of the next day are made.
const AHEAD: Duration = Duration::from_secs(600);

/// How soon it is tried again to make keys.
const RETRY: Duration = Duration::from_secs(5);

const PAUSE_MAX: Duration = Duration::from_secs(60);
