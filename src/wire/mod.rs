//! Bytes to requests, replies to bytes; pure.
//!
//! Every surface of the data listener has its contract here: HTTP/1.x framing (`http`, `body`), forward
//! authentication for nginx (`nginx`), the verify call (`verify_call`). Nothing here reads a socket, a clock or a key.
//! The one place where a [`Rejection`](crate::decision::Rejection) becomes what a client may see is `refusal`.

mod body;
mod http;
mod nginx;
mod refusal;
mod reply;
mod verify_call;

pub use body::{Body, BodyReader};
pub use http::{Framing, HEAD_BYTES_MAX, HEADERS_MAX, HttpError, Method, RequestHead, Version, parse_head};
pub use nginx::{FORWARD_SCOPES_MAX, ForwardAuth, IDENTITY_HEADERS, forward_token, write_forward_reply};
pub use refusal::{Refusal, refusal};
pub use reply::{Connection, EPOCH_HEADER, Reply, Terms, write_reply};
pub use verify_call::{
    AnswerWriter, Place, SCOPES_PER_CALL_MAX, TOKENS_PER_CALL_MAX, VerifyCall, VerifyCallError, error_json,
    is_json, parse_verify_call, withhold_receipt, write_receipt, write_unavailable,
};

/// What a reply may say about an accepted token. Borrowed from its verified claims.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// `sub`: the agent.
    pub subject: &'a str,
    /// `iss`.
    pub issuer: &'a str,
    /// The tenant the issuer belongs to.
    pub tenant: &'a str,
    /// `jti`, empty if the token has none.
    pub token_id: &'a str,
    /// `own`: the human principal, empty if the token names none.
    pub owner: &'a str,
    /// `task`, empty if the token names none.
    pub task: &'a str,
    /// `scope`: dotted names.
    pub scopes: &'a [&'a str],
    /// `exp`, in seconds since 1970.
    pub expires_at: u64,
    /// Seconds until `exp`, without the leeway; 0 inside the leeway.
    pub remaining_ttl: u64,
    /// The whole claims object as received: strict JSON.
    pub claims_json: &'a [u8],
}
