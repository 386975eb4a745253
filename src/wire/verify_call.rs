//! `POST /v1/tokens/verify`: one token or many in, one result each out, in JSON.
//!
//! `{"token": "…"}` or `{"tokens": ["…", …]}`, with an optional `"audience"` (text), `"scope"` (text of names separated
//! by spaces, or an array of names) that must be covered, `"claims": true` to get the claims back, and `"receipt": true` to get a
//! receipt for the answer, or `null` where none can be given. The answer to one is an object, to many `{"decision_id": …, "results": […]}` in the same order. The status is 200 whenever every token was
//! decided, accepted or not; 503 if one could not be.

use std::borrow::Cow;
use std::ops::Range;

use crate::decision::Rejection;
use crate::json::{self, JsonError, Kind, Reader, write_text};

use super::Identity;
use super::refusal::refusal;
use super::reply::{Connection, EPOCH_HEADER, Reply, Terms, write_decimal, write_reply};

/// The most tokens of one call.
pub const TOKENS_PER_CALL_MAX: usize = 256;

/// The most scopes one call may demand.
pub const SCOPES_PER_CALL_MAX: usize = 64;

/// The longest audience a call may demand, in bytes.
const AUDIENCE_BYTES_MAX: usize = 1024;

/// The longest list of scopes a call may demand, in bytes.
const SCOPES_BYTES_MAX: usize = 4096;

const NO_STORE: &str = "Cache-Control: no-store\r\n";

/// A verify call, borrowing from the body and from the scratch.
#[derive(Debug, Default)]
pub struct VerifyCall<'a> {
    /// The tokens, in the order given; at least one.
    pub tokens: Vec<&'a str>,
    /// Whether they came as `tokens`: then so do the results.
    pub many: bool,
    /// The audience demanded.
    pub audience: Option<&'a str>,
    /// The scopes demanded, separated by spaces.
    pub scopes: String,
    /// Whether the claims are wanted.
    pub claims: bool,
    /// Whether a receipt is wanted.
    pub receipt: bool,
}

/// Why a verify call is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyCallError {
    /// The body is not strict JSON, or a member has the wrong kind.
    #[error("{0}")]
    Json(JsonError),
    /// Neither `token` nor `tokens`, both, or an empty array.
    #[error(
        "exactly one of token (text) and tokens (array of 1 to {TOKENS_PER_CALL_MAX} texts) must be given"
    )]
    Tokens,
    /// More than [`TOKENS_PER_CALL_MAX`] tokens.
    #[error("tokens names more than {TOKENS_PER_CALL_MAX}: split the call")]
    TooManyTokens,
    /// More than [`SCOPES_PER_CALL_MAX`] scopes, an empty one, or one with a space inside.
    #[error(
        "scope must be a text of names or an array of at most {SCOPES_PER_CALL_MAX} names without spaces"
    )]
    Scopes,
    /// An audience or scopes longer than any that is demanded: each token of the call is compared with them.
    #[error("audience may have {AUDIENCE_BYTES_MAX} bytes and scope {SCOPES_BYTES_MAX} in all")]
    DemandTooLong,
    /// A member that the call does not know.
    #[error("unknown member {0:?}: token, tokens, audience, scope, claims and receipt are known")]
    UnknownMember(String),
}

impl From<JsonError> for VerifyCallError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// Reads a verify call.
///
/// # Errors
/// [`VerifyCallError`]; nothing of the call is then decided.
pub fn parse_verify_call<'a>(
    body: &'a [u8],
    scratch: &'a mut json::Scratch,
) -> Result<VerifyCall<'a>, VerifyCallError> {
    let call = json::read(body, scratch, |reader| {
        let mut call = VerifyCall::default();
        reader.object(|reader, name| call.read_member(reader, name))?;
        Ok::<_, VerifyCallError>(call)
    })?;
    if call.tokens.is_empty() {
        return Err(VerifyCallError::Tokens);
    }
    Ok(call)
}

impl<'a> VerifyCall<'a> {
    fn read_member(&mut self, reader: &mut Reader<'a>, name: &str) -> Result<(), VerifyCallError> {
        match name {
            "token" if self.tokens.is_empty() => self.tokens.push(reader.string()?),
            "tokens" if self.tokens.is_empty() => {
                self.many = true;
                reader.array(|reader| {
                    if self.tokens.len() == TOKENS_PER_CALL_MAX {
                        return Err(VerifyCallError::TooManyTokens);
                    }
                    self.tokens.push(reader.string()?);
                    Ok(())
                })?;
            }
            "token" | "tokens" => return Err(VerifyCallError::Tokens),
            "audience" => {
                let audience = reader.string()?;
                if audience.len() > AUDIENCE_BYTES_MAX {
                    return Err(VerifyCallError::DemandTooLong);
                }
                self.audience = Some(audience);
            }
            "scope" => self.read_scopes(reader)?,
            "claims" => self.claims = reader.boolean()?,
            "receipt" => self.receipt = reader.boolean()?,
            _ => return Err(VerifyCallError::UnknownMember(name.chars().take(64).collect())),
        }
        Ok(())
    }

    fn read_scopes(&mut self, reader: &mut Reader<'a>) -> Result<(), VerifyCallError> {
        if reader.kind()? == Kind::Array {
            reader.array(|reader| {
                let scope = reader.string()?;
                if scope.is_empty() || scope.contains(' ') {
                    return Err(VerifyCallError::Scopes);
                }
                if !self.scopes.is_empty() {
                    self.scopes.push(' ');
                }
                self.scopes.push_str(scope);
                Ok(())
            })?;
        } else {
            reader.string()?.clone_into(&mut self.scopes);
        }
        if self.scopes.len() > SCOPES_BYTES_MAX {
            return Err(VerifyCallError::DemandTooLong);
        }
        if self.scopes.split(' ').count() > SCOPES_PER_CALL_MAX {
            return Err(VerifyCallError::Scopes);
        }
        Ok(())
    }
}

/// Whether a `Content-Type` is JSON.
#[must_use]
pub fn is_json(content_type: &[u8]) -> bool {
    let media = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// `{"error": code, "error_description": message}`.
#[must_use]
pub fn error_json(code: &str, message: &str) -> String {
    let mut out = b"{\"error\":".to_vec();
    write_text(&mut out, code);
    out.extend_from_slice(b",\"error_description\":");
    write_text(&mut out, message);
    out.extend_from_slice(b"}\n");
    String::from_utf8(out).expect("JSON text is UTF-8")
}

/// Appends the answer to a call none of whose decisions could be recorded or made.
pub fn write_unavailable(out: &mut Vec<u8>, rejection: Rejection, connection: Connection) {
    let body = error_json(refusal(rejection).error.unwrap_or("temporarily_unavailable"), rejection.name());
    write_reply(
        out,
        &Reply {
            status: 503,
            headers: "Cache-Control: no-store\r\nRetry-After: 1\r\n",
            content_type: Some("application/json"),
            body: body.as_bytes(),
            head_only: false,
            connection,
        },
    );
}

/// Writes the results of one call, one after the other, and the reply around them after the last.
///
/// `body` is the connection's scratch: it holds the results of this call so far.
#[derive(Debug)]
pub struct AnswerWriter<'b> {
    out: &'b mut Vec<u8>,
    body: &'b mut Vec<u8>,
}

/// Where a result stands in its call.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// It is the first.
    pub first: bool,
    /// It is the last: the reply is complete with it.
    pub last: bool,
    /// The call asked with `tokens`.
    pub many: bool,
    /// The call asked for the claims.
    pub claims: bool,
    /// The call asked for a receipt.
    pub receipt: bool,
    /// What becomes of the connection.
    pub connection: Connection,
}

impl<'b> AnswerWriter<'b> {
    /// A writer into the connection's replies, `out`, and its scratch, `body`.
    pub fn new(out: &'b mut Vec<u8>, body: &'b mut Vec<u8>) -> Self {
        Self { out, body }
    }

    /// Appends one result; with the last one the reply is written to `out`, with the epoch of its terms; no verdict of
    /// a call is ever kept.
    ///
    /// Of a reply that is to have a receipt of `receipt_len` characters, it answers where in `out` [`write_receipt`] puts it;
    /// until then the reply says that there is none.
    pub fn write(
        &mut self,
        outcome: &Result<Identity<'_>, Rejection>,
        decision_id: &str,
        terms: Terms,
        place: Place,
        receipt_len: Option<usize>,
    ) -> Option<Range<usize>> {
        if place.first {
            self.body.clear();
            // The first byte remembers whether any token could not be decided.
            self.body.push(0);
            if place.many {
                self.body.extend_from_slice(b"{\"decision_id\":");
                write_text(self.body, decision_id);
                self.body.extend_from_slice(b",\"results\":[");
            }
        } else {
            self.body.push(b',');
        }
        match outcome {
            Ok(identity) => self.write_accepted(identity, place.claims),
            Err(rejection) => {
                let refusal = refusal(*rejection);
                self.body[0] |= u8::from(refusal.status == 503);
                self.body.extend_from_slice(b"{\"valid\":false,\"error\":");
                write_text(self.body, refusal.error.unwrap_or("invalid_request"));
            }
        }
        if !place.many {
            self.body.extend_from_slice(b",\"decision_id\":");
            write_text(self.body, decision_id);
        }
        self.body.push(b'}');
        if !place.last {
            return None;
        }
        if place.many {
            self.body.extend_from_slice(b"]}");
        }
        let blank = place.receipt.then(|| self.leave_room(receipt_len));
        self.body.push(b'\n');
        let status = if self.body[0] == 0 { 200 } else { 503 };
        let headers = match terms.epoch {
            None => Cow::Borrowed(NO_STORE),
            Some(epoch) => Cow::Owned(format!("{NO_STORE}{EPOCH_HEADER}: {epoch}\r\n")),
        };
        let reply = Reply {
            status,
            headers: &headers,
            content_type: Some("application/json"),
            body: &self.body[1..],
            head_only: false,
            connection: place.connection,
        };
        write_reply(self.out, &reply);
        receipt_len?;
        let begin = self.out.len() - (self.body.len() - blank?);
        Some(begin..self.out.len() - RECEIPT_TAIL.len())
    }

    /// Puts the member for a receipt before the end of the object; answers where its value begins in the body.
    fn leave_room(&mut self, receipt_len: Option<usize>) -> usize {
        self.body.pop();
        self.body.extend_from_slice(b",\"receipt\":");
        let begin = self.body.len();
        self.body.extend_from_slice(b"null");
        // What will be a text in quotes.
        let len = receipt_len.map_or(0, |len| len + 2);
        self.body.resize(self.body.len().max(begin + len), b' ');
        self.body.push(b'}');
        begin
    }

    fn write_accepted(&mut self, identity: &Identity<'_>, claims: bool) {
        self.body.extend_from_slice(b"{\"valid\":true,\"agent\":");
        write_text(self.body, identity.subject);
        self.body.extend_from_slice(b",\"issuer\":");
        write_text(self.body, identity.issuer);
        self.body.extend_from_slice(b",\"scope\":[");
        for (i, scope) in identity.scopes.iter().enumerate() {
            if i > 0 {
                self.body.push(b',');
            }
            write_text(self.body, scope);
        }
        self.body.extend_from_slice(b"],\"remaining_ttl\":");
        write_decimal(self.body, identity.remaining_ttl);
        if claims {
            // Received as strict JSON and passed on as received.
            self.body.extend_from_slice(b",\"claims\":");
            self.body.extend_from_slice(identity.claims_json);
        }
    }
}

/// Puts a receipt where [`AnswerWriter::write`] left room for it: quotes, and between them what `write` writes.
pub fn write_receipt(room: &mut [u8], write: impl FnOnce(&mut [u8])) {
    if let [first, receipt @ .., last] = room {
        (*first, *last) = (b'"', b'"');
        write(receipt);
    }
}

/// Takes back a receipt: its record is not known to be stored.
pub fn withhold_receipt(room: &mut [u8]) {
    room.fill(b' ');
    if let Some(value) = room.first_chunk_mut() {
        *value = *b"null";
    }
}

/// What stands behind a receipt in its reply.
const RECEIPT_TAIL: &[u8] = b"}\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn with_call<T>(text: &str, f: impl FnOnce(VerifyCall<'_>) -> T) -> Result<T, VerifyCallError> {
        let mut scratch = json::Scratch::default();
        parse_verify_call(text.as_bytes(), &mut scratch).map(f)
    }

    #[test]
    fn a_call_names_one_token_or_many() {
        with_call(r#"{"token":"a.b.c"}"#, |call| {
            assert_eq!((call.tokens.as_slice(), call.many), (["a.b.c"].as_slice(), false));
            assert_eq!((call.audience, call.scopes.as_str(), call.claims), (None, "", false));
        })
        .unwrap();
        with_call(r#"{"tokens":["a","b"],"audience":"x","scope":["r.w","q"],"claims":true}"#, |call| {
            assert_eq!((call.tokens.as_slice(), call.many), (["a", "b"].as_slice(), true));
            assert_eq!((call.audience, call.scopes.as_str(), call.claims), (Some("x"), "r.w q", true));
        })
        .unwrap();
        let scopes = with_call(r#"{"token":"a","scope":"r w"}"#, |call| call.scopes);
        assert_eq!(scopes.unwrap(), "r w");
    }

    #[test]
    fn a_call_that_is_not_understood_is_refused_whole() {
        let too_many = format!("{{\"tokens\":[{}]}}", vec!["\"a\""; TOKENS_PER_CALL_MAX + 1].join(","));
        for text in [
            "",
            "[]",
            "{}",
            r#"{"tokens":[]}"#,
            r#"{"token":"a","tokens":["b"]}"#,
            r#"{"token":"a","token":"b"}"#,
            r#"{"token":1}"#,
            r#"{"tokens":"a"}"#,
            r#"{"tokens":["a",null]}"#,
            r#"{"token":"a","audience":["x"]}"#,
            r#"{"token":"a","scope":["x y"]}"#,
            r#"{"token":"a","claims":"yes"}"#,
            r#"{"token":"a","leeway":900}"#,
            r#"{"token":"a"} "#.trim_end_matches(' ').trim_end_matches('}'),
            too_many.as_str(),
        ] {
            assert!(with_call(text, |_| ()).is_err(), "{text}");
        }
    }

    fn place(first: bool, last: bool, many: bool) -> Place {
        Place { first, last, many, claims: true, receipt: false, connection: Connection::KeepAlive }
    }

    #[test]
    fn results_stand_in_order_in_one_reply() {
        let identity = Identity {
            subject: "a\"b",
            issuer: "i",
            tenant: "t",
            token_id: "j",
            owner: "",
            task: "",
            scopes: &["r.w", "q"],
            expires_at: 9,
            remaining_ttl: 7,
            claims_json: b"{\"sub\":\"x\"}",
        };
        let (mut out, mut body) = (Vec::new(), Vec::new());
        let mut writer = AnswerWriter::new(&mut out, &mut body);
        writer.write(&Ok(identity), "1", Terms::default(), place(true, false, true), None);
        writer.write(&Err(Rejection::Expired), "1", Terms::default(), place(false, true, true), None);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"decision_id": "1", "results": [
                {"valid": true, "agent": "a\"b", "issuer": "i", "scope": ["r.w", "q"], "remaining_ttl": 7,
                 "claims": {"sub": "x"}},
                {"valid": false, "error": "invalid_token"},
            ]})
        );
    }

    #[test]
    fn one_token_that_could_not_be_decided_makes_the_call_unavailable() {
        let (mut out, mut body) = (Vec::new(), Vec::new());
        let mut writer = AnswerWriter::new(&mut out, &mut body);
        writer.write(&Err(Rejection::Expired), "1", Terms::default(), place(true, false, true), None);
        writer.write(
            &Err(Rejection::RevocationUnknown),
            "1",
            Terms::default(),
            place(false, true, true),
            None,
        );
        assert!(out.starts_with(b"HTTP/1.1 503 "));
    }
}
