//! The state database: what this node must remember across restarts, behind `control` and `revocation`.
//!
//! SQLite through sqlx, in WAL mode with full sync: when a write returns, it survives loss of power. Statements keep
//! to what PostgreSQL understands too (`$n` parameters, `ON CONFLICT`, row values), and every table has its tenant
//! column. The audit log is not here; it has its own files.

mod changes;
mod delegations;
mod error;
mod load;
mod nonces;
mod open;
mod purge;
mod seconds;
mod security_events;
mod shared;
mod signing_keys;
mod status_indexes;

pub use changes::{Cursor, ListFilter, Recorded, StoredChange};
pub use error::StoreError;
pub use load::LoadProgress;
pub use nonces::Listed;
pub use open::{OpenMode, Store};
pub use security_events::StoredEvent;
pub use signing_keys::KilledKey;
pub use status_indexes::{ListedToken, StatusListPlace};
