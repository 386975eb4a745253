//! A token costs no allocation once the scratch has grown: counted, not assumed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ed25519_dalek::{Signer, SigningKey};
use edgate::decision::UnixSeconds;
use edgate::keys::{IssuerIndex, KeySet, PublishedKey};
use edgate::token::{self, Demand, Padding, Profile, ProfileKind, Scratch, VerifiedJws};
use edgate::verify::{Engine, Item, ItemKey, Verdict, Verifier, VerifyingKey};
use edgate::{base64url, json};

const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// Allocations of reading header and claims of a token with these claims, the second time.
fn allocations(claims: &str) -> u64 {
    let signing_key = SigningKey::from_bytes(&[1; 32]);
    let verifying_key = VerifyingKey::register(signing_key.verifying_key().as_bytes()).unwrap();
    let kids =
        ["k0", "k1", "k2"].map(|kid| PublishedKey { kid: kid.into(), verifying_key: verifying_key.clone() });
    let keys = KeySet::new(vec![(IssuerIndex(0), kids.to_vec())]).unwrap();
    let issuer = "https://as.example".to_owned();
    let profile =
        Profile::new(ProfileKind::Jwt, "as".into(), "t".into(), issuer, vec!["https://rs.example".into()]);

    let header = r#"{"alg":"Ed25519","typ":"JWT","kid":"k\u0031","x":[{"y":1}]}"#;
    let input = format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(claims.as_bytes()));
    let signature = signing_key.sign(input.as_bytes()).to_bytes();
    let text = token::assemble(input, &signature);

    let mut scratch = Scratch::default();
    let (jws, _) = token::parse(text.as_bytes(), Padding::Refused, &mut scratch).unwrap();
    let item = Item {
        key: ItemKey::Registered(&verifying_key),
        message: jws.signing_input(),
        signature: jws.signature(),
    };
    let mut verdicts = Vec::new();
    Verifier::new(Engine::Auto).verify(&[item], &mut verdicts);
    let Some(Verdict::Accepted(proof)) = verdicts.pop() else { panic!("genuine") };
    let verified = VerifiedJws::new(jws, proof);
    let demand = Demand { audience: None, scopes: &["mail.read"] };
    let mut once = || {
        let (_, header) = token::parse(text.as_bytes(), Padding::Refused, &mut scratch).unwrap();
        assert_eq!(keys.candidates(header.kid).len(), 1);
        profile.check_header(&header).unwrap();
        let claims = verified.claims(&mut scratch).unwrap();
        profile.check_claims(&claims, NOW, &demand).unwrap();
    };
    once();
    allocation_counter::measure(once).count_total
}

#[test]
fn an_ordinary_token_is_read_without_allocating() {
    let claims = r#"{"iss":"https://as.example","aud":"https://rs.example","sub":"agent-7","exp":1700000300,
        "iat":1699999990,"nbf":1699999990,"jti":"j-1","scope":["mail.read","mail.send"],"task":"t",
        "cns":{"max":[1,2,{"a":null}]},"own":"ann","act":{"sub":"o"},"roles":["x","y"],"n":1.5e3}"#;
    assert_eq!(allocations(claims), 0);
}

#[test]
fn escapes_are_resolved_without_allocating() {
    let claims = r#"{"iss":"https:\/\/as.example","aud":["https:\/\/rs.example"],"exp":1700000300,
        "name":"J\u00fcrgen \"\ud83d\ude00\"","scope":"mail.read mail.send"}"#;
    assert_eq!(allocations(claims), 0);
}

#[test]
fn the_counter_counts() {
    let many: String = (0..40).map(|i| format!(r#","claim{i}":{i}"#)).collect();
    let claims = format!(
        r#"{{"iss":"https://as.example","aud":"https://rs.example","exp":1700000300,"scope":"mail.read"{many}}}"#
    );
    // More names than are held in place: the one case that spills, and proof that the test can fail.
    assert_eq!(allocations(&claims), 1);
}

#[test]
fn a_body_is_read_without_allocating() {
    let body = br#"{"token":"a.b.c","audience":"https:\/\/rs.example","scope":"mail.read"}"#;
    let mut scratch = json::Scratch::default();
    let mut once = || {
        let mut token = None;
        json::read(body, &mut scratch, |reader| {
            reader.object(|reader, name| {
                match name {
                    "token" => token = Some(reader.string()?),
                    _ => reader.skip()?,
                }
                Ok::<_, json::JsonError>(())
            })
        })
        .unwrap();
        assert_eq!(token, Some("a.b.c"));
    };
    once();
    assert_eq!(allocation_counter::measure(once).count_total, 0);
}
