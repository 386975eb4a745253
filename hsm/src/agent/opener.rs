//! Keys that are asked for, by the names clients have for them, and the thread that opens those not seen before.
//!
//! Opening takes the token's time: the key is found, its label is asked what it is for, and it must sign. It is done away from the
//! connections, whose known keys go on signing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::frame::{Errand, NamedKey};
use super::names::parse_uri;
use super::outbox::Outbox;
use super::server::Served;
use crate::pool::{KeyKind, Output, PinnedKey, Work, lock};
use crate::{Class, HsmError, Purpose};

/// Keys kept open. More than a service has.
const KEYS_MAX: usize = 256;

/// A key that nobody asked for this long is let go, so that it is tested no more; clients test theirs more often.
const IDLE_MAX: Duration = Duration::from_secs(900);

/// How often it is looked for such keys.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Requests that wait for the opener. A service has few keys, and asks for each once.
pub(super) const OPENINGS_MAX: usize = 1024;

/// A request whose key is to be opened first.
pub(super) struct Opening {
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    pub(super) deadline: Instant,
    pub(super) errand: Errand,
    pub(super) outbox: Arc<Outbox>,
}

/// Open keys.
#[derive(Default)]
pub(super) struct Keys(Mutex<HashMap<(Purpose, NamedKey), Open>>);

struct Open {
    key: Arc<PinnedKey>,
    asked: Instant,
}

impl Keys {
    pub(super) fn find(&self, purpose: Purpose, named: &NamedKey) -> Option<Arc<PinnedKey>> {
        let mut keys = lock(&self.0);
        // Of a map whose key is a pair no half can be asked; a name is short.
        let open = keys.get_mut(&(purpose, named.clone()))?;
        open.asked = Instant::now();
        Some(Arc::clone(&open.key))
    }

    fn keep(&self, purpose: Purpose, named: NamedKey, key: Arc<PinnedKey>) {
        let mut keys = lock(&self.0);
        if keys.len() >= KEYS_MAX {
            // They are opened again as they are asked for.
            keys.clear();
        }
        keys.insert((purpose, named), Open { key, asked: Instant::now() });
    }

    fn let_go(&self, unwanted: impl Fn(&(Purpose, NamedKey), &Open) -> bool) {
        lock(&self.0).retain(|name, open| !unwanted(name, open));
    }
}

/// Opens keys until `stopped`.
pub(super) fn run(served: &Arc<Served>, openings: &Receiver<Opening>, stopped: &Receiver<()>) {
    loop {
        let opening = select! {
            recv(stopped) -> _ => return,
            recv(openings) -> opening => opening.map_err(|_| RecvTimeoutError::Disconnected),
            default(SWEEP_INTERVAL) => Err(RecvTimeoutError::Timeout),
        };
        match opening {
            Ok(opening) => open(served, opening),
            Err(RecvTimeoutError::Timeout) => {
                served.keys.let_go(|_, open| open.asked.elapsed() >= IDLE_MAX);
                served.pool.forget_unused();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn open(served: &Arc<Served>, opening: Opening) {
    let Opening { id, purpose, deadline, errand, outbox } = opening;
    let work = match errand {
        Errand::Destroy { uri, public_key } => may_destroy(served, purpose, &uri, deadline).map(|()| {
            served.keys.let_go(|(_, named), _| named.public_key == Some(public_key));
            served.pool.forget_public(public_key);
            Work::Destroy { uri, public_key }
        }),
        Errand::Sign { key, message } => {
            key_of(served, purpose, key, deadline).map(|key| Work::Sign { key, message })
        }
        Errand::Seal { key, data, associated } => {
            key_of(served, purpose, key, deadline).map(|key| Work::Seal { key, data, associated })
        }
        Errand::Open { key, iv, data, associated } => {
            key_of(served, purpose, key, deadline).map(|key| Work::Open { key, iv, data, associated })
        }
        // Those need no key, and do not come here.
        Errand::FindSigning { .. } | Errand::FindWrapping { .. } | Errand::Make { .. } => {
            Err(HsmError::Stopped)
        }
    };
    served.submit(id, purpose, deadline, work, &outbox);
}

/// The key, opened if it is not. It is used only for what its label says it is for, and is never taken unseen.
fn key_of(
    served: &Served,
    purpose: Purpose,
    named: NamedKey,
    deadline: Instant,
) -> Result<Arc<PinnedKey>, HsmError> {
    if let Some(key) = served.keys.find(purpose, &named) {
        return Ok(key);
    }
    let malformed =
        |_| HsmError::AgentSays { class: Class::Caller, text: "the key's name is none".to_owned() };
    let uri = parse_uri(&named.uri).map_err(malformed)?;
    let key = match named.public_key {
        Some(public_key) => served.pool.open_key_if(&uri, purpose, Some(public_key), false, deadline)?.0,
        None => wrapping_key(served, &uri, deadline)?,
    };
    served.keys.keep(purpose, named, Arc::clone(&key));
    Ok(key)
}

/// An AES key that is there, and is labelled for wrapping: a token may have others' master keys.
fn wrapping_key(
    served: &Served,
    uri: &crate::Pkcs11Uri,
    deadline: Instant,
) -> Result<Arc<PinnedKey>, HsmError> {
    let uri = served.pool.object_uri(uri)?;
    let found = served.pool.run(Work::FindWrapping { uri: uri.clone() }, Purpose::Wrapping, deadline)?;
    match found {
        Output::Found { label: Some(label), .. } if Purpose::of_label(&label) == Some(Purpose::Wrapping) => {
            served.pool.adopt(uri, Purpose::Wrapping, KeyKind::Wrapping)
        }
        _ => Err(HsmError::KeyAttribute {
            key: Box::new(uri),
            problem: "an agent wraps with keys whose label is edgate/wrapping/NAME, and with no others",
        }),
    }
}

/// A client destroys keys that are labelled for the purpose it asks for, and no others.
fn may_destroy(
    served: &Served,
    purpose: Purpose,
    uri: &crate::Pkcs11Uri,
    deadline: Instant,
) -> Result<(), HsmError> {
    let uri = served.pool.object_uri(uri)?;
    let work = Work::FindSigning { uri: uri.clone(), allowed: purpose.algorithms() };
    let label = match served.pool.run(work, purpose, deadline) {
        Ok(Output::Found { label, .. }) => label,
        Ok(_) => None,
        // One that is gone is no error to whoever destroys it.
        Err(HsmError::Object { matches: 0, .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    purpose.check_label(label.as_deref(), &uri)?;
    match label.as_deref().and_then(Purpose::of_label) {
        Some(_) => Ok(()),
        None => Err(HsmError::KeyAttribute {
            key: Box::new(uri),
            problem: "an agent destroys keys whose label is edgate/PURPOSE/NAME, and no others",
        }),
    }
}
