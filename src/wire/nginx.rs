//! Forward authentication as nginx's `auth_request` speaks it.
//!
//! The subrequest is a `GET` (HAProxy's Lua client sends `HEAD`) with the client's headers, often over HTTP/1.0. Only
//! the status and the headers of the answer count: 2xx allows, 401 and 403 are passed on, everything else becomes a
//! 500 at the client. A body would cost the connection, so there is none. Headers the location copies with
//! `auth_request_set` are always all present, empty where there is nothing to say, so that a client's own copy of one
//! can never slip through.

use std::borrow::Cow;

use crate::decision::Rejection;

use super::Identity;
use super::http::RequestHead;
use super::refusal::refusal;
use super::reply::{Connection, Terms, write_connection, write_decimal, write_status_line};

/// The identity headers of an allow answer, in the order sent.
pub const IDENTITY_HEADERS: &[&str] = &[
    "X-Auth-Subject",
    "X-Auth-Issuer",
    "X-Auth-Tenant",
    "X-Auth-Token-Id",
    "X-Auth-Scope",
    "X-Auth-Owner",
    "X-Auth-Task",
    "X-Auth-Expires",
    "X-Auth-Decision-Id",
];

/// The most scopes one location may demand.
pub const FORWARD_SCOPES_MAX: usize = 16;

/// What a forward-authentication request asks: the location's demands, set by the proxy's configuration in the query
/// (`/auth/nginx?audience=orders&scope=orders.read+orders.list`).
#[derive(Debug, Default)]
pub struct ForwardAuth<'a> {
    /// The audience the token must name.
    pub audience: Option<Cow<'a, str>>,
    /// The scopes the token must cover, separated by spaces.
    pub scopes: Cow<'a, str>,
}

impl<'a> ForwardAuth<'a> {
    /// Reads the demands from a query string.
    ///
    /// # Errors
    /// The parameter that is unknown, repeated, empty, too long, or a scope that no token can have (RFC 6749 §3.3): a
    /// mistake in the proxy's configuration.
    pub fn parse(query: &'a str) -> Result<Self, String> {
        let mut demands = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "audience" if demands.audience.is_none() && !value.is_empty() => {
                    demands.audience = Some(value);
                }
                // An empty demand is an unset variable in the proxy's configuration, not a wish to allow everything.
                "scope" if demands.scopes.is_empty() && !value.trim_matches(' ').is_empty() => {
                    if !value.bytes().all(|byte| matches!(byte, b' ' | 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
                        return Err(
                            "query parameter scope has a character that scopes cannot have".to_owned()
                        );
                    }
                    if value.split(' ').count() > FORWARD_SCOPES_MAX {
                        return Err(format!(
                            "query parameter scope names more than {FORWARD_SCOPES_MAX} scopes"
                        ));
                    }
                    demands.scopes = value;
                }
                "audience" | "scope" => return Err(format!("query parameter {name} is repeated or empty")),
                _ => return Err("unknown query parameter: only audience and scope are known".to_owned()),
            }
        }
        Ok(demands)
    }
}

/// The token a forward-authentication request carries.
///
/// # Errors
/// Why it carries none.
pub fn forward_token<'a>(head: &RequestHead<'a>) -> Result<&'a [u8], Rejection> {
    if head.authorization_repeated {
        return Err(Rejection::AuthorizationRepeated);
    }
    bearer_token(head.authorization.ok_or(Rejection::TokenMissing)?)
}

/// The token in the value of `Authorization`: `Bearer`, spaces, one token (RFC 6750 §2.1).
///
/// # Errors
/// [`Rejection::AuthorizationMalformed`] for another scheme or for no or several words after it.
fn bearer_token(authorization: &[u8]) -> Result<&[u8], Rejection> {
    let value = authorization.trim_ascii();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme[..6].eq_ignore_ascii_case(b"bearer") && scheme[6] == b' ' => {
            let token = token.trim_ascii_start();
            if token.is_empty() || token.contains(&b' ') || token.contains(&b'\t') {
                return Err(Rejection::AuthorizationMalformed);
            }
            Ok(token)
        }
        _ => Err(Rejection::AuthorizationMalformed),
    }
}

/// Appends the answer to a forward-authentication request.
///
/// `outcome` is the identity of an accepted token, or why it was refused; `scopes` are the demanded ones, named to
/// the client when they are missing; `terms` say how long it holds.
pub fn write_forward_reply(
    out: &mut Vec<u8>,
    outcome: &Result<Identity<'_>, Rejection>,
    scopes: &str,
    decision_id: &str,
    terms: Terms,
    connection: Connection,
) {
    match outcome {
        Ok(identity) => {
            write_status_line(out, 200);
            write_field(out, "X-Auth-Subject: ", identity.subject);
            write_field(out, "X-Auth-Issuer: ", identity.issuer);
            write_field(out, "X-Auth-Tenant: ", identity.tenant);
            write_field(out, "X-Auth-Token-Id: ", identity.token_id);
            out.extend_from_slice(b"X-Auth-Scope: ");
            for (i, scope) in identity.scopes.iter().enumerate() {
                if i > 0 {
                    out.push(b' ');
                }
                write_escaped(out, scope);
            }
            out.extend_from_slice(b"\r\n");
            write_field(out, "X-Auth-Owner: ", identity.owner);
            write_field(out, "X-Auth-Task: ", identity.task);
            out.extend_from_slice(b"X-Auth-Expires: ");
            write_decimal(out, identity.expires_at);
            out.extend_from_slice(b"\r\n");
        }
        Err(rejection) => {
            let refusal = refusal(*rejection);
            write_status_line(out, refusal.status);
            if refusal.status != 503 {
                out.extend_from_slice(b"WWW-Authenticate: Bearer realm=\"edgate\"");
                if let Some(error) = refusal.error {
                    out.extend_from_slice(b", error=\"");
                    out.extend_from_slice(error.as_bytes());
                    out.push(b'"');
                }
                if *rejection == Rejection::ScopeMissing {
                    out.extend_from_slice(b", scope=\"");
                    write_escaped(out, scopes);
                    out.push(b'"');
                }
                out.extend_from_slice(b"\r\n");
            } else {
                out.extend_from_slice(b"Retry-After: 1\r\n");
            }
        }
    }
    write_field(out, "X-Auth-Decision-Id: ", decision_id);
    terms.write(out);
    out.extend_from_slice(b"Content-Length: 0\r\n");
    write_connection(out, connection);
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name_and_colon: &str, value: &str) {
    out.extend_from_slice(name_and_colon.as_bytes());
    write_escaped(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a claim as a header value: visible ASCII and inner spaces as they are, every other byte, `%` and `"` as
/// `%XX`. A claim is the token holder's text; unescaped it could end the line and begin another.
fn write_escaped(out: &mut Vec<u8>, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'%' && byte != b'"';
    let outer_space = value.starts_with(' ') || value.ends_with(' ');
    if value.bytes().all(plain) && !outer_space {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    for byte in value.bytes() {
        if plain(byte) && !(outer_space && byte == b' ') {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: &Result<Identity<'_>, Rejection>) -> String {
        let mut out = Vec::new();
        write_forward_reply(&mut out, outcome, "a b", "id", Terms::default(), Connection::KeepAlive);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_allow_answer_has_every_identity_header_and_no_body() {
        let identity = Identity {
            subject: "agent\r\nX-Evil: 1",
            issuer: "https://i",
            tenant: "t",
            token_id: "",
            owner: "J\u{e9}r\u{f4}me 100%",
            task: " padded ",
            scopes: &["a.b", "c"],
            expires_at: 12,
            remaining_ttl: 3,
            claims_json: b"{}",
        };
        let text = reply(&Ok(identity));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"));
        for header in IDENTITY_HEADERS {
            assert!(text.contains(&format!("\r\n{header}: ")), "{header} is missing in {text}");
        }
        assert!(text.contains("X-Auth-Subject: agent%0D%0AX-Evil: 1\r\n"));
        assert!(text.contains("X-Auth-Owner: J%C3%A9r%C3%B4me 100%25\r\n"));
        assert!(text.contains("X-Auth-Task: %20padded%20\r\n"));
        assert!(text.contains("X-Auth-Scope: a.b c\r\n"));
        assert!(text.ends_with("Content-Length: 0\r\n\r\n"));
    }

    #[test]
    fn an_answer_says_how_long_it_holds_and_under_which_epoch_only_when_asked() {
        let with = |terms| {
            let mut out = Vec::new();
            let refused = Err(Rejection::Revoked);
            write_forward_reply(&mut out, &refused, "", "id", terms, Connection::KeepAlive);
            String::from_utf8(out).unwrap()
        };
        let silent = with(Terms::default());
        assert!(!silent.contains("Cache-Control") && !silent.contains("Epoch"), "{silent}");
        let told = with(Terms { epoch: Some(7), max_age_s: Some(3) });
        assert!(told.contains("\r\nCache-Control: private, max-age=3\r\nX-Edgate-Epoch: 7\r\n"), "{told}");
        let never = with(Terms { epoch: None, max_age_s: Some(0) });
        assert!(never.contains("\r\nCache-Control: no-store\r\n"), "{never}");
    }

    #[test]
    fn a_refusal_carries_its_challenge() {
        assert!(
            reply(&Err(Rejection::TokenMissing))
                .contains("\r\nWWW-Authenticate: Bearer realm=\"edgate\"\r\n")
        );
        let expired = reply(&Err(Rejection::Expired));
        assert!(expired.starts_with("HTTP/1.1 401 "));
        assert!(expired.contains("error=\"invalid_token\"\r\n"));
        let scope = reply(&Err(Rejection::ScopeMissing));
        assert!(scope.starts_with("HTTP/1.1 403 "));
        assert!(scope.contains("error=\"insufficient_scope\", scope=\"a b\"\r\n"));
        assert!(reply(&Err(Rejection::AuditUnavailable)).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn only_one_bearer_token_is_taken() {
        assert_eq!(bearer_token(b"Bearer abc"), Ok(b"abc".as_slice()));
        assert_eq!(bearer_token(b"bEaReR   abc "), Ok(b"abc".as_slice()));
        for value in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a b", "Bearerabc", "Bearer\tabc"] {
            assert_eq!(bearer_token(value.as_bytes()), Err(Rejection::AuthorizationMalformed), "{value:?}");
        }
    }

    /// Found by the fuzz body `forward_auth`: `?scope=$scope` with the variable unset demanded nothing, so that every
    /// token passed; `?scope=&scope=a` was two scopes; and a backslash ended the challenge's quoted-string late. The
    /// tests had an empty audience only.
    #[test]
    fn a_scope_that_demands_nothing_or_cannot_be_met_is_a_mistake() {
        for query in [
            "scope=",
            "scope=+",
            "scope",
            "scope=&scope=a",
            "scope=a%5C",
            "scope=%22",
            "scope=a%0D%0Ab",
            "scope=%C3%A9",
        ] {
            assert!(ForwardAuth::parse(query).is_err(), "{query}");
        }
        assert_eq!(ForwardAuth::parse("scope=a++b").unwrap().scopes, "a  b");
    }

    #[test]
    fn demands_come_from_the_query() {
        let demands = ForwardAuth::parse("audience=orders%2Fv1&scope=a.b+c").unwrap();
        assert_eq!(demands.audience.as_deref(), Some("orders/v1"));
        assert_eq!(demands.scopes, "a.b c");
        for query in ["scop=a", "scope=a&scope=b", "audience=", "audience=a&audience=b"] {
            assert!(ForwardAuth::parse(query).is_err(), "{query}");
        }
    }
}
