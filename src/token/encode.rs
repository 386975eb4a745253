//! Writing an Agent Task Token: the signing input, and the token once it is signed.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::base64url;
use crate::decision::UnixSeconds;
use crate::json::{self, JsonError, Kind, Reader};
use crate::token::claims::is_scope_byte;
use crate::token::{
    AGENT_TASK_TYP, Algorithm, HEADER_BYTES_MAX, KID_BYTES_MAX, SIGNATURE_CHARS, TOKEN_BYTES_MAX,
};

/// The claims of an Agent Task Token to be issued.
#[derive(Debug, Clone, Copy)]
pub struct AgentTask<'a> {
    /// Issuer.
    pub iss: &'a str,
    /// The agent.
    pub sub: &'a str,
    /// Audiences; one is written as a string, several as an array.
    pub aud: &'a [&'a str],
    /// When it is issued.
    pub iat: UnixSeconds,
    /// Start of validity.
    pub nbf: UnixSeconds,
    /// Expiry.
    pub exp: UnixSeconds,
    /// The token's own name.
    pub jti: &'a str,
    /// Dotted scope names.
    pub scope: &'a [&'a str],
    /// The task.
    pub task: &'a str,
    /// Constraints: the JSON text of an object.
    pub cns: &'a str,
    /// The human principal.
    pub own: &'a str,
    /// Who acts for the agent (RFC 8693 §4.1): the JSON text of an object.
    pub act: Option<&'a str>,
    /// Its place in a status list (draft-ietf-oauth-status-list §6.1).
    pub status: Option<StatusPlace<'a>>,
}

/// A token's place in a status list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StatusPlace<'a> {
    /// The place.
    pub idx: u32,
    /// The list.
    pub uri: &'a str,
}

/// The name of the key that signs, and what makes it one of the issuer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedBy<'a> {
    /// Its `kid`.
    pub kid: &'a str,
    /// The text of its [`Delegation`](crate::token::Delegation); none for the issuer's own key.
    pub delegation: Option<&'a str>,
}

/// The encoded header of tokens that this key signs.
///
/// # Errors
/// [`EncodeError::Kid`].
pub fn header_part(key: SignedBy<'_>) -> Result<String, EncodeError> {
    let SignedBy { kid, delegation } = key;
    if kid.is_empty() || kid.len() > KID_BYTES_MAX {
        return Err(EncodeError::Kid);
    }
    let header = HeaderText::new(AGENT_TASK_TYP, kid, delegation);
    let header = serde_json::to_vec(&header).map_err(|_| EncodeError::Unwritable)?;
    if header.len() > HEADER_BYTES_MAX {
        return Err(EncodeError::Kid);
    }
    Ok(base64url::encode(&header))
}

/// The encoded claims, which go behind a header of `header_chars` characters at most.
///
/// # Errors
/// What our own verification of the token would later refuse.
pub fn payload_part(header_chars: usize, task: &AgentTask<'_>) -> Result<String, EncodeError> {
    if task.jti.is_empty() || task.sub.is_empty() || task.iss.is_empty() {
        return Err(EncodeError::NameEmpty);
    }
    if task.aud.is_empty() {
        return Err(EncodeError::AudienceMissing);
    }
    if task.exp <= task.nbf || task.exp <= task.iat || task.exp.0 >= 1 << 53 {
        return Err(EncodeError::Times);
    }
    if !task.scope.iter().all(|scope| !scope.is_empty() && scope.bytes().all(is_scope_byte)) {
        return Err(EncodeError::Scope);
    }
    let claims = ClaimsText {
        iss: task.iss,
        sub: task.sub,
        aud: match task.aud {
            [one] => AudienceText::One(one),
            many => AudienceText::Many(many),
        },
        iat: task.iat.0,
        nbf: task.nbf.0,
        exp: task.exp.0,
        jti: task.jti,
        scope: task.scope,
        task: task.task,
        cns: object(task.cns, "cns")?,
        own: task.own,
        act: task.act.map(|act| object(act, "act")).transpose()?,
        status: task.status.map(|status_list| StatusText { status_list }),
    };
    let text = json_part(&claims).map_err(|_| EncodeError::Unwritable)?;
    // Two dots, and the signature.
    if header_chars + text.len() + 2 + SIGNATURE_CHARS > TOKEN_BYTES_MAX {
        return Err(EncodeError::TooLong);
    }
    Ok(text)
}

/// The `header.payload` to be signed with this key.
///
/// # Errors
/// As of [`header_part`] and [`payload_part`].
pub fn signing_input(key: SignedBy<'_>, task: &AgentTask<'_>) -> Result<String, EncodeError> {
    let header = header_part(key)?;
    let payload = payload_part(header.len(), task)?;
    Ok(format!("{header}.{payload}"))
}

/// The token: `signing_input` and the signature over it.
#[must_use]
pub fn assemble(mut signing_input: String, signature: &[u8; 64]) -> String {
    signing_input.push('.');
    signing_input.push_str(&base64url::encode(signature));
    signing_input
}

/// A part of a compact JWS: its JSON, encoded (RFC 7515 §3.1).
pub(crate) fn json_part(part: &impl Serialize) -> serde_json::Result<String> {
    Ok(base64url::encode(&serde_json::to_vec(part)?))
}

/// Reads `text` as strictly as a verifier would and lends it to the writer as it is.
fn object<'a>(text: &'a str, claim: &'static str) -> Result<&'a RawValue, EncodeError> {
    json::read(text.as_bytes(), &mut json::Scratch::default(), |reader: &mut Reader<'_>| {
        reader.object(|reader, _| reader.skip())
    })
    .map_err(|error| EncodeError::NotObject(claim, error))?;
    serde_json::from_str(text).map_err(|_| {
        EncodeError::NotObject(
            claim,
            JsonError { cause: json::Cause::WrongKind { expected: Kind::Object }, offset: 0 },
        )
    })
}

/// The header of whatever we sign. Member order is the order on the wire.
#[derive(Serialize)]
pub(crate) struct HeaderText<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
    /// [`DELEGATION_MEMBER`](crate::token::DELEGATION_MEMBER).
    #[serde(skip_serializing_if = "Option::is_none")]
    edgate_delegation: Option<&'a str>,
}

impl<'a> HeaderText<'a> {
    /// Of a JWS of this media type, by the key named `kid`, and by this delegation if it is a delegated one.
    pub(crate) fn new(typ: &'a str, kid: &'a str, delegation: Option<&'a str>) -> Self {
        Self { alg: Algorithm::Ed25519.name(), typ, kid, edgate_delegation: delegation }
    }
}

#[derive(Serialize)]
struct ClaimsText<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: AudienceText<'a>,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    scope: &'a [&'a str],
    task: &'a str,
    cns: &'a RawValue,
    own: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<StatusText<'a>>,
}

#[derive(Serialize)]
struct StatusText<'a> {
    status_list: StatusPlace<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AudienceText<'a> {
    One(&'a str),
    Many(&'a [&'a str]),
}

/// Why a token cannot be issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A token without audience is refused everywhere.
    #[error("aud is empty")]
    AudienceMissing,
    /// The key's name is empty or too long, or its delegation is too long.
    #[error("kid is empty, or it and the delegation make a header longer than {HEADER_BYTES_MAX} bytes")]
    Kid,
    /// A name that must say something is empty.
    #[error("iss, sub or jti is empty")]
    NameEmpty,
    /// A claim that must be a JSON object is none.
    #[error("{0} is not a JSON object: {1}")]
    NotObject(&'static str, JsonError),
    /// A scope is empty or has a byte that RFC 6749 §3.3 excludes.
    #[error("a scope is empty or has a character that scopes cannot have")]
    Scope,
    /// It would never be valid.
    #[error("exp is not after nbf and iat, or out of range")]
    Times,
    /// The claims make it too long.
    #[error("token would be longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// The JSON writer failed, which no input is known to cause.
    #[error("claims cannot be written")]
    Unwritable,
}
