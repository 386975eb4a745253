//! The compact JWS.

use edgate::token::{
    Algorithm, DELEGATION_MEMBER, HEADER_BYTES_MAX, KID_BYTES_MAX, Padding, ParseError, Scratch,
    TOKEN_BYTES_MAX, inspect, parse,
};
use edgate::{base64url, wire};
use serde_json::Value;

/// One text for each token: what is accepted is exactly what encoding its parts again gives, and its header says what
/// a JSON library reads in it.
pub fn compact_jws(text: &[u8]) {
    let (mut strict, mut lax) = (Scratch::default(), Scratch::default());
    let refused = parse(text, Padding::Refused, &mut strict);
    let tolerated = parse(text, Padding::Tolerated, &mut lax);
    let unverified = inspect(text);
    if text.len() > TOKEN_BYTES_MAX {
        assert_eq!(tolerated.as_ref().map(drop), Err(&ParseError::TokenTooLong));
    }
    let (jws, header) = match (&refused, &tolerated) {
        (Ok((jws, header)), Ok((again, same))) => {
            assert_eq!((jws.signing_input(), jws.signature()), (again.signing_input(), again.signature()));
            assert!(header == same && !header.padded);
            (jws, header)
        }
        // Only padding makes the difference, and it is remembered.
        (Err(_), Ok((jws, header))) => {
            assert!(header.padded && text.contains(&b'='));
            (jws, header)
        }
        (Err(error), Err(_)) => {
            assert!(!error.to_string().contains(['\r', '\n']) && !error.rejection().name().is_empty());
            return;
        }
        (Ok(_), Err(error)) => panic!("tolerating padding refuses: {error}"),
    };

    let unverified = unverified.expect("what parses can be shown");
    assert!(unverified.header.len() <= HEADER_BYTES_MAX && unverified.signature_bytes == 64);
    let parts = [&unverified.header, &unverified.payload, &jws.signature().to_vec()];
    let encoded = parts.map(|part| base64url::encode(part)).join(".");
    let unpadded: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'=').collect();
    assert_eq!(encoded.as_bytes(), unpadded, "two texts for one token");
    assert!(text.starts_with(jws.signing_input()) && text[jws.signing_input().len()] == b'.');

    let value: Value = serde_json::from_slice(&unverified.header).expect("an accepted header is JSON");
    assert_eq!(value["alg"], header.algorithm.name());
    assert_eq!(Algorithm::from_name(header.algorithm.name()), Some(header.algorithm));
    assert_eq!(value.get("kid").and_then(Value::as_str), header.kid);
    assert_eq!(value.get("typ").and_then(Value::as_str), header.typ);
    assert_eq!(value.get(DELEGATION_MEMBER).and_then(Value::as_str), header.delegation);
    assert!(header.kid.is_none_or(|kid| kid.len() <= KID_BYTES_MAX));
    let object = value.as_object().expect("an accepted header is an object");
    for member in ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"] {
        assert!(!object.contains_key(member), "{member} was accepted");
    }
}

/// The headers of one reply with this status, whole and followed by nothing.
pub(super) fn reply_headers(reply: &[u8], status: u16) -> Vec<(String, String)> {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut lines);
    let parsed = response.parse(reply).unwrap_or_else(|error| panic!("{error}: {}", reply.escape_ascii()));
    let httparse::Status::Complete(head_bytes) = parsed else {
        panic!("a reply was cut: {}", reply.escape_ascii())
    };
    assert_eq!((response.code, head_bytes), (Some(status), reply.len()), "{}", reply.escape_ascii());
    let text = |header: &httparse::Header<'_>| {
        let value = std::str::from_utf8(header.value).expect("our headers are ASCII");
        assert!(value.is_ascii(), "{value:?}");
        (header.name.to_owned(), value.to_owned())
    };
    let headers: Vec<_> = response.headers.iter().map(text).collect();
    for name in wire::IDENTITY_HEADERS {
        assert!(headers.iter().filter(|(found, _)| found == name).count() <= 1, "{name} twice");
    }
    headers
}
