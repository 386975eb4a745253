//! TLS on the data listener (RFC 8446, RFC 5246): who this node is, the handshakes, and what a shard gets of them.
//!
//! ```text
//! accept ─ thread `tls` ─ bytes ─▶ threads `tls-handshake` ─▶ Ready ─▶ the inbox of one shard, which decrypts from then on
//!                                   │ the certificate's key signs: in a token, perhaps, and perhaps slowly
//! ```
//!
//! A signature by a token takes as long as it takes, and `rustls` waits for it where it asks; so what may sign happens neither on a
//! shard nor on the thread that accepts, and the key signs nowhere else. A client that sends nothing holds no thread, only a
//! place among [`HANDSHAKES_MAX`], until its time is up. A ticket that this process gave needs no signature, and does not wait
//! behind those that do.

mod acceptor;
mod certificate;
mod der;
mod hello;
mod identity;
mod inbox;
mod key;
mod metrics;

pub use acceptor::{Acceptor, HANDSHAKES_MAX, Settings};
pub use certificate::{CERTIFICATE_FILE_BYTES_MAX, Certificate, CertificateError};
pub use der::ecdsa_signature;
pub use identity::{Identity, IdentityError, Prepared};
pub use inbox::{Door, Inbox, Ready, inbox};
pub use key::{KEY_FILE_BYTES_MAX, KeyFileError, TlsKey, signing_until};
pub use metrics::TlsMetrics;
