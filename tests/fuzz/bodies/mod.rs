//! What must hold for any bytes, one function per parser.
//!
//! A body takes bytes from outside, gives them to one parser and panics where a promise of that parser does not hold.
//! Not to panic by itself, to end, and to take bounded memory are promises of all of them. The same functions run under
//! libFuzzer (`fuzz_targets/`) and, bounded, in every test run (`tests/fuzz_bounded.rs`).

mod agent;
mod archives;
mod audit;
mod backup;
mod bundle;
mod calls;
mod claims;
mod copies;
mod delegation;
mod documents;
mod edits;
mod events;
mod http;
mod log;
mod proof;
mod token;
mod uri;
mod witness;

pub use agent::agent_frame;
pub use archives::{audit_archive, write_archives};
pub use audit::{audit_body, audit_note, audit_record, audit_sealed_key, audit_tree, record_id};
pub use backup::hsm_backup;
pub use bundle::{audit_bundle, write_bundles};
pub use calls::{forward_auth, verify_call};
pub use claims::claims;
pub use copies::{audit_copy, write_copies};
pub use delegation::delegation;
pub use documents::{config, json, jwks};
pub use events::{security_event, status_list};
pub use http::{request_body, request_head};
pub use log::{audit_log, audit_recovery, write_sample};
pub use proof::{audit_proof, write_proofs};
pub use token::compact_jws;
pub use uri::pkcs11_uri;
pub use witness::{witness_request, write_requests};

/// A body under its name, which is also that of its program and of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every body.
pub const TARGETS: &[Target] = &[
    ("agent_frame", agent_frame),
    ("audit_archive", audit_archive),
    ("audit_body", audit_body),
    ("audit_bundle", audit_bundle),
    ("audit_copy", audit_copy),
    ("audit_log", audit_log),
    ("audit_note", audit_note),
    ("audit_proof", audit_proof),
    ("audit_record", audit_record),
    ("audit_recovery", audit_recovery),
    ("audit_sealed_key", audit_sealed_key),
    ("audit_tree", audit_tree),
    ("claims", claims),
    ("compact_jws", compact_jws),
    ("config", config),
    ("delegation", delegation),
    ("forward_auth", forward_auth),
    ("hsm_backup", hsm_backup),
    ("json", json),
    ("jwks", jwks),
    ("pkcs11_uri", pkcs11_uri),
    ("record_id", record_id),
    ("request_body", request_body),
    ("request_head", request_head),
    ("security_event", security_event),
    ("status_list", status_list),
    ("verify_call", verify_call),
    ("witness_request", witness_request),
];
