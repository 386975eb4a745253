//! Documents that others sign: security events and status lists.

use std::cell::RefCell;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::base64url;
use edgate::decision::UnixSeconds;
use edgate::json;
use edgate::keys::PublishedKey;
use edgate::secevent::{LEEWAY_S, Receiver, Target, Transmitter};
use edgate::status_list::{Bits, Document, LIST_BYTES_MAX, Reference, StatusList};
use edgate::verify::{Engine, Verifier, VerifyingKey};
use serde_json::Value;

const NOW: u64 = 1_700_000_000;

/// A receiver with one transmitter, kept between runs: a node keeps its own too.
struct Desk {
    signing_key: SigningKey,
    receiver: Receiver,
}

impl Desk {
    fn new() -> Self {
        let signing_key = SigningKey::from_bytes(&[1; 32]);
        let verifying_key =
            VerifyingKey::register(signing_key.verifying_key().as_bytes()).expect("a genuine key");
        let transmitter = Transmitter {
            name: "idp".to_owned(),
            issuer: "https://idp.example".to_owned(),
            audience: "edgate".to_owned(),
            speaks_of: "https://as.example".to_owned(),
        };
        let keys = vec![PublishedKey { kid: "k".to_owned(), verifying_key }];
        let receiver =
            Receiver::new(vec![(transmitter, keys)], Verifier::new(Engine::Auto)).expect("one key");
        Self { signing_key, receiver }
    }
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk::new());
}

/// The bytes are signed by a transmitter. What is accepted names its issuer, us, and somebody, at a possible time; the same
/// token with one bit changed is not accepted.
pub fn security_event(payload: &[u8]) {
    DESK.with_borrow_mut(|desk| {
        let header = base64url::encode(br#"{"typ":"secevent+jwt","alg":"Ed25519","kid":"k"}"#);
        let input = format!("{header}.{}", base64url::encode(payload));
        let signature = desk.signing_key.sign(input.as_bytes()).to_bytes();
        let token = format!("{input}.{}", base64url::encode(&signature));
        match desk.receiver.read(token.as_bytes(), UnixSeconds(NOW)) {
            Err(error) => assert!(!error.to_string().is_empty() && !error.code().is_empty()),
            Ok(received) => {
                let claims: Value = serde_json::from_slice(payload).expect("what was accepted is JSON");
                assert_eq!(claims["iss"], "https://idp.example");
                let audience = &claims["aud"];
                let named = |one: &Value| *one == "edgate";
                assert!(named(audience) || audience.as_array().is_some_and(|all| all.iter().any(named)));
                assert_eq!(claims["jti"], received.jti.as_str());
                let events = claims["events"].as_object().expect("events").len();
                assert!(received.statements.len() + received.ignored.len() <= events);
                for statement in &received.statements {
                    let (Target::Session(name) | Target::Subject(name) | Target::Token(name)) =
                        &statement.target;
                    assert!(!name.is_empty());
                    assert!(statement.at.0 <= NOW + LEEWAY_S);
                }
            }
        }
        let mut forged = token.into_bytes();
        let bit = payload.iter().fold(forged.len(), |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
        let at = bit / 8 % forged.len();
        forged[at] ^= 1 << (bit % 8);
        let forged = desk.receiver.read(&forged, UnixSeconds(NOW));
        assert!(forged.is_err(), "bit {} of byte {at} changed", bit % 8);
    });
}

/// Taken as a list's claims, as a compressed list and as a token's claims: what is read can be written and is the same again,
/// no list is longer than its limit, and no place outside it says anything.
pub fn status_list(input: &[u8]) {
    // Compressing at the highest level is the slow part, and not the one that reads what others wrote.
    const WRITTEN_BYTES_MAX: usize = 64 * 1024;
    let is_short =
        |list: &StatusList| list.len() * usize::from(list.bits().number()) <= 8 * WRITTEN_BYTES_MAX;
    if let Ok(document) = Document::read(input)
        && is_short(&document.list)
    {
        let text = document.signing_input("k").expect("what was read can be written");
        let payload = text.split_once('.').expect("two parts").1;
        let mut buffer = vec![0; payload.len()];
        let payload = base64url::decode(payload.as_bytes(), &mut buffer).expect("written by us");
        assert_eq!(Document::read(payload).as_ref(), Ok(&document));
    }
    for bits in [Bits::One, Bits::Eight] {
        let Ok(list) = StatusList::decode(bits, &base64url::encode(input)) else { continue };
        let count = list.len() as u64;
        assert!(list.len() * usize::from(bits.number()) <= LIST_BYTES_MAX * 8);
        for index in [count, count + 7, u64::MAX] {
            assert!(list.status(index).is_err());
        }
        if count > 0 {
            list.status(count - 1).expect("the last place");
        }
        if !is_short(&list) {
            continue;
        }
        let written = list.encode().expect("what was read can be written");
        assert_eq!(StatusList::decode(bits, &written).as_ref(), Ok(&list));
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(Some(reference)) = Reference::read(text, &mut json::Scratch::default())
    {
        let claims: Value = serde_json::from_str(text).expect("what was read is JSON");
        let place = &claims["status"]["status_list"];
        assert_eq!(
            (place["idx"].as_u64(), place["uri"].as_str()),
            (Some(reference.index), Some(reference.uri))
        );
    }
}
