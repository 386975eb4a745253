//! What a client of the control listener is told when something is wrong.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer other than the wanted one: which kind of mistake, in a stable word, and what to do about it.
///
/// `description` may repeat names the client sent, shortened, but never a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    pub(super) description: String,
    /// When to come again, where that is known.
    pub(super) after: Option<Duration>,
}

/// The kinds of mistakes, by status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorKind {
    /// The audit log takes nothing now, so nothing may be done.
    AuditUnavailable,
    /// The request names another site: an `Origin` that is not ours.
    ForeignOrigin,
    /// A member or parameter is wrong.
    InvalidRequest,
    /// The path is known, the method is not.
    MethodNotAllowed,
    /// It cannot be done as things are.
    Conflict,
    /// `Host` is not a name of this listener.
    Misdirected,
    /// There is nothing at this path.
    NotFound,
    /// The request is about a log that is not this node's.
    OtherLog,
    /// More is under way than is allowed.
    Overloaded,
    /// The body is longer than its limit.
    RequestTooLarge,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The signing key cannot be used now.
    SigningUnavailable,
    /// The other nodes cannot be told now.
    SharingUnavailable,
    /// The state database cannot be used now.
    StoreUnavailable,
    /// Look-ups of personal data come too often.
    TooManyLookups,
    /// The body is not declared as what is wanted here.
    UnsupportedMediaType,
    /// No witness cosigned the record of it in time.
    WitnessUnavailable,
    /// The token is of a kind that cannot be revoked by itself (RFC 7009 §2.2.1).
    UnsupportedTokenType,
}

impl ErrorKind {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::UnsupportedTokenType => StatusCode::BAD_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::OtherLog => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyLookups => StatusCode::TOO_MANY_REQUESTS,
            Self::AuditUnavailable
            | Self::Overloaded
            | Self::SharingUnavailable
            | Self::SigningUnavailable
            | Self::StoreUnavailable
            | Self::WitnessUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable word in `"error"`.
    fn name(self) -> &'static str {
        match self {
            Self::AuditUnavailable => "audit_unavailable",
            Self::Conflict => "conflict",
            Self::ForeignOrigin => "foreign_origin",
            Self::InvalidRequest => "invalid_request",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Misdirected => "misdirected_request",
            Self::NotFound => "not_found",
            Self::OtherLog => "other_log",
            Self::Overloaded => "overloaded",
            Self::RequestTimeout => "request_timeout",
            Self::RequestTooLarge => "request_too_large",
            Self::SigningUnavailable => "signing_unavailable",
            Self::SharingUnavailable => "sharing_unavailable",
            Self::StoreUnavailable => "store_unavailable",
            Self::TooManyLookups => "too_many_lookups",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::WitnessUnavailable => "witness_unavailable",
            Self::UnsupportedTokenType => "unsupported_token_type",
        }
    }
}

impl ApiError {
    pub(super) fn new(kind: ErrorKind, description: impl Into<String>) -> Self {
        Self { kind, description: description.into(), after: None }
    }

    /// As [`Self::new`], for what will be possible again after `wait`.
    pub(super) fn later(kind: ErrorKind, wait: Duration, description: impl Into<String>) -> Self {
        Self { after: Some(wait), ..Self::new(kind, description) }
    }

    pub(super) fn invalid(description: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, description)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    error_description: &'a str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.kind.name(), error_description: &self.description };
        let mut response = (self.kind.status(), Json(body)).into_response();
        let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
        let after = self.after.or(unavailable.then_some(Duration::from_secs(1)));
        if let Some(after) = after {
            let seconds = after.as_millis().div_ceil(1000);
            let seconds = HeaderValue::from_str(&seconds.to_string()).expect("digits");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// `text` for an error message: cut to a readable length, control characters made visible.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}
