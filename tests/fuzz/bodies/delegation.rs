//! What a delegation says, once its signature is verified.

use ed25519_dalek::{Signer, SigningKey};
use edgate::base64url;
use edgate::token::{self, DELEGATION_LIFE_S_MAX, DELEGATION_TYP, Delegation, Scratch, VerifiedJws};
use edgate::verify::{Engine, Item, ItemKey, Verdict, Verifier};

/// One payload for each delegation, of whatever bytes its issuer signed: what is accepted says one thing, for an hour at most, and is read
/// back from what it is written as.
pub fn delegation(payload: &[u8]) {
    let Some(says) = read(&signed(payload)) else { return };
    assert!(says.expires_at > says.issued_at);
    assert!(says.expires_at.since(says.issued_at) <= DELEGATION_LIFE_S_MAX);
    let value: serde_json::Value = serde_json::from_slice(payload).expect("what is accepted is JSON");
    let members: Vec<_> = value.as_object().expect("and an object").keys().map(String::as_str).collect();
    assert_eq!(members.len(), 4, "a member that is not known was passed over: {members:?}");
    assert_eq!(value["cnf"]["jwk"]["x"], base64url::encode(&says.public_key));
    let written = says.signing_input("k");
    let signature = key().sign(written.as_bytes()).to_bytes();
    assert_eq!(read(&token::assemble(written, &signature)), Some(says));
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn signed(payload: &[u8]) -> String {
    let header = format!(r#"{{"alg":"Ed25519","typ":"{DELEGATION_TYP}","kid":"k"}}"#);
    let input = format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(payload));
    let signature = key().sign(input.as_bytes()).to_bytes();
    token::assemble(input, &signature)
}

fn read(text: &str) -> Option<Delegation> {
    let mut scratch = Scratch::default();
    let unverified = Delegation::parse(text, &mut scratch).ok()?;
    assert_eq!(unverified.kid, "k");
    let public_key = key().verifying_key().to_bytes();
    let jws = unverified.jws;
    let item = Item {
        key: ItemKey::Unregistered(&public_key),
        message: jws.signing_input(),
        signature: jws.signature(),
    };
    let mut verdicts = Vec::new();
    Verifier::new(Engine::Portable).verify(&[item], &mut verdicts);
    let Some(Verdict::Accepted(proof)) = verdicts.pop() else { panic!("our own signature is refused") };
    match Delegation::read(&VerifiedJws::new(jws, proof), &mut scratch) {
        Ok(says) => Some(says),
        Err(error) => {
            assert!(!error.to_string().contains(['\r', '\n']));
            None
        }
    }
}
