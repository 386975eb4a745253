//! `POST /v1/tokens`: issue an Agent Task Token.

use super::body::{self, BodyError};
use super::error::{ApiError, ErrorKind, shortened};
use crate::decision::UnixSeconds;
use crate::json;
use crate::token::{AgentTask, EncodeError, StatusPlace};

/// Longest agent name: SPIFFE ids and mail addresses fit, headers stay small.
const AGENT_ID_BYTES_MAX: usize = 256;
/// Most scopes in one token.
const SCOPES_MAX: usize = 64;
/// Longest scope name.
const SCOPE_BYTES_MAX: usize = 128;
/// Most audiences in one token.
const AUDIENCES_MAX: usize = 8;
/// Longest audience.
const AUDIENCE_BYTES_MAX: usize = 256;
/// Longest task description.
const TASK_BYTES_MAX: usize = 1024;
/// Longest name of a human principal.
const OWN_BYTES_MAX: usize = 256;
/// Longest constraints object, as text.
const CONSTRAINTS_BYTES_MAX: usize = 2048;
/// Longest `act` object, as text.
const ACT_BYTES_MAX: usize = 1024;

const MEMBERS: &str = "agent_id, scope, audience, task, constraints, own, act, ttl";

/// A request to issue, checked member by member. Borrows from the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IssueRequest<'a> {
    pub(super) agent_id: &'a str,
    pub(super) scope: Vec<&'a str>,
    /// Empty: the policy's default.
    pub(super) audience: Vec<&'a str>,
    pub(super) task: &'a str,
    /// JSON text of an object; empty: none.
    pub(super) constraints: &'a str,
    pub(super) own: &'a str,
    pub(super) act: Option<&'a str>,
    /// Seconds; `None`: the policy's default.
    pub(super) ttl_s: Option<u64>,
}

impl<'a> IssueRequest<'a> {
    /// Reads a body. Every mistake is the client's: 400 with the member and the rule.
    pub(super) fn parse(bytes: &'a [u8], scratch: &'a mut json::Scratch) -> Result<Self, ApiError> {
        let mut request = Self::default();
        body::read_object(bytes, scratch, MEMBERS, |reader, name| {
            match name {
                "agent_id" => {
                    request.agent_id = body::text(reader, name, AGENT_ID_BYTES_MAX)?;
                    check_agent_id(request.agent_id).map_err(BodyError::Rule)?;
                }
                "scope" => request.scope = body::names(reader, name, SCOPES_MAX, false, check_scope)?,
                "audience" => {
                    request.audience = body::names(reader, name, AUDIENCES_MAX, true, check_audience)?;
                }
                "task" => request.task = body::text(reader, name, TASK_BYTES_MAX)?,
                "constraints" => request.constraints = body::object(reader, name, CONSTRAINTS_BYTES_MAX)?,
                "own" => request.own = body::text(reader, name, OWN_BYTES_MAX)?,
                "act" => request.act = Some(body::object(reader, name, ACT_BYTES_MAX)?),
                "ttl" => request.ttl_s = Some(body::seconds(reader, name)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if request.agent_id.is_empty() {
            return Err(ApiError::invalid("\"agent_id\" is missing: which agent is the token for?"));
        }
        if request.scope.is_empty() {
            return Err(ApiError::invalid(
                "\"scope\" is missing: what may the agent do, such as [\"orders.create\"]?",
            ));
        }
        Ok(request)
    }
}

/// How this node issues tokens.
#[derive(Debug, Clone)]
pub struct IssuePolicy {
    /// Audiences of a token whose request names none. If empty, each request must name one.
    pub default_audiences: Vec<String>,
    /// Lifetime of a token whose request names none, in seconds.
    pub default_ttl_s: u64,
    /// Longest lifetime, in seconds; not above the own profile's `max_lifetime_s`, or we would refuse our own tokens.
    pub max_ttl_s: u64,
}

/// A token ready to be signed, all but its `jti` decided.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) request: IssueRequest<'a>,
    pub(super) audiences: Vec<&'a str>,
    pub(super) issued_at: UnixSeconds,
    pub(super) expires_at: UnixSeconds,
}

impl<'a> Draft<'a> {
    /// Applies the policy to a request.
    pub(super) fn new(
        request: IssueRequest<'a>,
        policy: &'a IssuePolicy,
        now: UnixSeconds,
    ) -> Result<Self, ApiError> {
        let ttl_s = request.ttl_s.unwrap_or(policy.default_ttl_s);
        if ttl_s == 0 || ttl_s > policy.max_ttl_s {
            let max = policy.max_ttl_s;
            return Err(ApiError::invalid(format!("\"ttl\" is {ttl_s} seconds; it must be 1 to {max}")));
        }
        let audiences = if request.audience.is_empty() {
            policy.default_audiences.iter().map(String::as_str).collect()
        } else {
            request.audience.clone()
        };
        if audiences.is_empty() {
            let description =
                "\"audience\" is missing and no default is configured: who will verify the token?";
            return Err(ApiError::invalid(description));
        }
        Ok(Self { request, audiences, issued_at: now, expires_at: now.saturating_add(ttl_s) })
    }

    /// The claims, as the token room wants them.
    pub(super) fn claims<'s>(
        &'s self,
        issuer: &'s str,
        jti: &'s str,
        status: Option<StatusPlace<'s>>,
    ) -> AgentTask<'s> {
        let request = &self.request;
        AgentTask {
            iss: issuer,
            sub: request.agent_id,
            aud: &self.audiences,
            iat: self.issued_at,
            nbf: self.issued_at,
            exp: self.expires_at,
            jti,
            scope: &request.scope,
            task: request.task,
            cns: if request.constraints.is_empty() { "{}" } else { request.constraints },
            own: request.own,
            act: request.act,
            status,
        }
    }
}

/// What the encoder refuses after our own checks is still the client's doing, except where it cannot be.
pub(super) fn encode_error(error: EncodeError) -> ApiError {
    match error {
        EncodeError::TooLong
        | EncodeError::NotObject(..)
        | EncodeError::Scope
        | EncodeError::Times
        | EncodeError::NameEmpty
        | EncodeError::AudienceMissing => ApiError::invalid(format!("the token cannot be built: {error}")),
        EncodeError::Kid | EncodeError::Unwritable => {
            ApiError::new(ErrorKind::SigningUnavailable, format!("the token cannot be built: {error}"))
        }
    }
}

/// The agent's name travels in HTTP headers: visible ASCII that needs no quoting.
fn check_agent_id(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@/+=~#".contains(&byte);
    if !name.is_empty() && name.bytes().all(good) {
        return Ok(());
    }
    Err(format!("\"agent_id\" \"{}\" must be letters, digits and . _ - : @ / + = ~ # only", shortened(name)))
}

/// `orders.create`: names of letters, digits, `_`, `-` and `:`, joined by dots.
fn check_scope(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte);
    let well_formed = name.split('.').all(|part| !part.is_empty() && part.bytes().all(good));
    if well_formed && name.len() <= SCOPE_BYTES_MAX {
        return Ok(());
    }
    let name = shortened(name);
    Err(format!(
        "scope \"{name}\" must be dotted names of letters, digits, _, - and :, such as orders.create, of at most \
         {SCOPE_BYTES_MAX} bytes"
    ))
}

fn check_audience(name: &str) -> Result<(), String> {
    let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && !name.is_empty() && name.len() <= AUDIENCE_BYTES_MAX {
        return Ok(());
    }
    let name = shortened(name);
    Err(format!(
        "audience \"{name}\" must be 1 to {AUDIENCE_BYTES_MAX} visible ASCII characters without spaces"
    ))
}
