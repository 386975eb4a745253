//! What a pool works with, and how its token stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::AgentAddress;
use crate::pkcs11::{KeyRules, PinPolicy};
use crate::{HsmError, Pkcs11Uri, ReleaseChecks};

/// What a pool works with.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Who has the module.
    pub access: Access,
    /// The token, by label and serial.
    pub token: Pkcs11Uri,
    /// Threads and sessions for work; fewer if the token admits fewer. More than two rarely help SoftHSM; a network HSM
    /// wants as many as it has engines.
    pub workers: usize,
    /// Jobs that wait in each lane before more are refused.
    pub queue_len_max: usize,
    /// How long a call into the module may take before its worker is written off.
    pub hang_limit: Duration,
    /// How often an idle key is tested, and an unusable token looked at.
    pub probe_interval: Duration,
    /// The least time between re-initialisations of the module; grows tenfold while they fail.
    pub reinit_interval: Duration,
    /// How long [`Pool::start`](crate::Pool::start) waits for the first login.
    pub start_timeout: Duration,
    /// Use keys that can be read out of the token.
    pub allow_extractable: bool,
    /// Use keys that can leave the token wrapped under a trusted key, and in no other way ([`crate::KeyName::wrappable`]).
    pub allow_wrapped_export: bool,
    /// What each signature must pass before it leaves.
    pub checks: ReleaseChecks,
}

/// Who calls the token's module.
#[derive(Debug, Clone)]
pub enum Access {
    /// Another process ([`Agent`](crate::Agent)), which has the PIN too. Of the settings, `workers`, `reinit_interval` and
    /// `allow_extractable` are the agent's own then, and `queue_len_max` bounds what it has not answered.
    Agent(AgentAddress),
    /// This process.
    Module {
        /// The PKCS#11 library, by absolute path.
        path: PathBuf,
        /// Where the PIN comes from.
        pin: PinPolicy,
    },
}

/// Whether a token can be used, for people and scrapers.
#[derive(Debug, Clone)]
pub enum TokenStanding {
    /// The keeper looks into a fault; jobs wait.
    Healing,
    /// Every key has signed.
    Ready,
    /// The pool is closed.
    Stopped,
    /// Calls do not return. If they never do, only a restart of the process helps.
    Stuck,
    /// It cannot be used; see [`HsmError::needs_operator`].
    Unavailable(Arc<HsmError>),
}

impl PoolSettings {
    /// Settings with the usual times for `token` in `module`.
    #[must_use]
    pub fn new(module: PathBuf, token: Pkcs11Uri, pin: PinPolicy) -> Self {
        Self::reached(Access::Module { path: module, pin }, token)
    }

    /// Settings with the usual times for `token`, which an agent serves.
    #[must_use]
    pub fn at_agent(address: AgentAddress, token: Pkcs11Uri) -> Self {
        Self::reached(Access::Agent(address), token)
    }

    fn reached(access: Access, token: Pkcs11Uri) -> Self {
        Self {
            access,
            token,
            workers: 4,
            queue_len_max: 1024,
            hang_limit: Duration::from_secs(5),
            // Below the 15 s after which a YubiHSM drops an idle session.
            probe_interval: Duration::from_secs(10),
            reinit_interval: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            allow_extractable: false,
            allow_wrapped_export: false,
            checks: ReleaseChecks::strict(),
        }
    }

    pub(super) fn key_rules(&self) -> KeyRules {
        KeyRules {
            allow_extractable: self.allow_extractable,
            allow_wrapped_export: self.allow_wrapped_export,
        }
    }
}
