//! The control plane: issue, revoke, verify the chain, metrics. Low-rate, on its own listener and its own thread.
//!
//! It uses tokio and axum, which the data plane does not; the two share the revocation view and nothing else. What
//! changes the world (issue, revoke) follows one order: an INTENT record is durable in the audit log, then the effect,
//! then its outcome is durable, then the answer. A client that hangs up does not stop that sequence half-way.
//!
//! The listener has no callers' authentication of its own yet, so it belongs on loopback. Against a browser on the
//! same machine it checks `Host` (DNS rebinding), `Origin`, `Sec-Fetch-Site` and the content type (cross-site requests).

mod actions;
mod allowance;
mod body;
mod changing;
mod checkpoint_key;
mod erasures;
mod error;
mod events;
mod evidence;
mod exports;
mod feed;
mod guard;
mod issue;
mod issuing;
mod lookups;
mod oauth;
mod observe;
mod reports;
mod retention;
mod revocations;
mod revoke;
mod sealed;
mod server;
mod signing_keys;
mod state;
mod status_lists;
mod tag_keys;
mod tls;
mod unlock;
mod verify_runs;
mod view_feed;

#[cfg(test)]
mod tests;

pub use checkpoint_key::{KeyChange, NextKey};
pub use feed::{Announce, announce};
pub use issue::IssuePolicy;
pub use retention::{Custody, Retire, RetireOrder};
pub use server::{ControlError, serve};
pub use signing_keys::{
    DestroyKey, Holders, KeyPlaces, MadeKey, MakeInMemory, OpenKey, OwnKeys, Publish, SigningKeys,
};
pub use state::{
    ChainBreak, ChainReport, Dependency, Hearing, Issuing, Judge, Judged, JudgedToken, Sharing, State,
    Unlock, Witnessing,
};
pub use status_lists::{STATUS_LIST_LIFE_S, StatusListPolicy};
pub use tls::{InUse, NextCertificate, Reload, Tls};
pub use verify_runs::OwnLog;
pub use view_feed::fill_view;
