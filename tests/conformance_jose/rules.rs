//! Boundaries of the rules that no vector pins.

use ed25519_dalek::{Signer, SigningKey};
use edgate::base64url;
use edgate::decision::{Rejection, UnixSeconds};
use edgate::token::{ClaimName, Demand, Padding, Profile};

use crate::node::{Node, jwt_profile, rfc8037_set, sign};

#[test]
fn time_rules_hold_at_their_boundaries() {
    let node = Node::rfc8037("k1");
    let profile = jwt_profile();
    let at = |claims: &str, now: u64| {
        let token = node.sign(r#"{"alg":"Ed25519","kid":"k1"}"#, claims);
        node.decide(token.as_bytes(), &profile, UnixSeconds(now)).map(drop)
    };
    let claims =
        |times: &str| format!(r#"{{"iss":"https://as.example","aud":"https://rs.example",{times}}}"#);
    // Leeway 30, lifetime 86,400.
    assert_eq!(at(&claims(r#""exp":1000"#), 1029), Ok(()));
    assert_eq!(at(&claims(r#""exp":1000"#), 1030), Err(Rejection::Expired));
    assert_eq!(at(&claims(r#""exp":1000.9"#), 1030), Err(Rejection::Expired));
    assert_eq!(at(&claims(r#""exp":2000,"nbf":1000"#), 970), Ok(()));
    assert_eq!(at(&claims(r#""exp":2000,"nbf":1000"#), 969), Err(Rejection::NotYetValid));
    assert_eq!(at(&claims(r#""exp":2000,"nbf":1000.1"#), 970), Err(Rejection::NotYetValid));
    assert_eq!(at(&claims(r#""exp":2000,"iat":1000"#), 970), Ok(()));
    assert_eq!(at(&claims(r#""exp":2000,"iat":1000"#), 969), Err(Rejection::IssuedInFuture));
    assert_eq!(at(&claims(r#""exp":87400,"iat":1000"#), 1000), Ok(()));
    assert_eq!(at(&claims(r#""exp":87401,"iat":1000"#), 1000), Err(Rejection::LifetimeTooLong));
    assert_eq!(at(&claims(r#""exp":87431"#), 1000), Err(Rejection::LifetimeTooLong));
    for exp in [
        "-1",
        "9007199254740992",
        "1e309",
        "\"1000\"",
        "null",
        "true",
        "[1000]",
        "-1e-3",
        "9007199254740991.9",
    ] {
        assert_eq!(
            at(&claims(&format!(r#""exp":{exp}"#)), 1000),
            Err(Rejection::ClaimsMalformed),
            "exp {exp}"
        );
    }
    assert_eq!(at(&claims(r#""exp":9007199254740991"#), 1000), Err(Rejection::LifetimeTooLong));
    assert_eq!(at(&claims(r#""exp":1.0e3"#), 1000), Ok(()));
    assert_eq!(at(&claims(r#""exp":-0"#), 1000), Err(Rejection::Expired));
}

#[test]
fn audiences_scopes_and_required_claims_are_matched_exactly() {
    let node = Node::rfc8037("k1");
    let mut profile = jwt_profile();
    profile.required.insert(ClaimName::Jti);
    let decide = |claims: &str, demand: &Demand<'_>| {
        let claims = format!(r#"{{"iss":"https://as.example","exp":1100,"jti":"j",{claims}}}"#);
        let token = node.sign(r#"{"alg":"EdDSA"}"#, &claims);
        node.decide_with(token.as_bytes(), &profile, UnixSeconds(1000), demand).map(drop)
    };
    let ours = r#""aud":["https://other.example","https:\/\/rs.example"]"#;
    assert_eq!(decide(ours, &Demand::default()), Ok(()));
    for aud in [r#""""#, r#""https://rs.example/""#, r#"["https://rs.exampl"]"#, "[]"] {
        assert_eq!(
            decide(&format!(r#""aud":{aud}"#), &Demand::default()),
            Err(Rejection::AudienceMismatch),
            "{aud}"
        );
    }
    for aud in ["null", "1", "{}", r#"["https://rs.example",1]"#, r#"[["https://rs.example"]]"#] {
        assert_eq!(
            decide(&format!(r#""aud":{aud}"#), &Demand::default()),
            Err(Rejection::ClaimsMalformed),
            "{aud}"
        );
    }
    assert_eq!(decide(r#""sub":"s""#, &Demand::default()), Err(Rejection::ClaimMissing));
    let demand = |audience: &'static str| Demand { audience: Some(audience), scopes: &[] };
    assert_eq!(decide(ours, &demand("https://other.example")), Ok(()));
    assert_eq!(decide(ours, &demand("https://third.example")), Err(Rejection::AudienceMismatch));
    // A demanded audience does not widen the profile's.
    let theirs = r#""aud":"https://other.example""#;
    assert_eq!(decide(theirs, &demand("https://other.example")), Err(Rejection::AudienceMismatch));

    let scopes = Demand { audience: None, scopes: &["a.read", "b.write"] };
    for (scope, outcome) in [
        (r#""a.read b.write c""#, Ok(())),
        (r#"["b.write","a.read"]"#, Ok(())),
        (r#""a.read b.writer""#, Err(Rejection::ScopeMissing)),
        (r#"["a.read"]"#, Err(Rejection::ScopeMissing)),
        (r#""""#, Err(Rejection::ScopeMissing)),
        (r#"["a.read b.write"]"#, Err(Rejection::ClaimsMalformed)),
        (r#"["a.read",""]"#, Err(Rejection::ClaimsMalformed)),
        (r#""a.read\tb.write""#, Err(Rejection::ClaimsMalformed)),
        ("7", Err(Rejection::ClaimsMalformed)),
    ] {
        assert_eq!(decide(&format!(r#"{ours},"scope":{scope}"#), &scopes), outcome, "{scope}");
    }
}

#[test]
fn a_shared_kid_is_settled_by_the_issuer_of_the_key_that_verified() {
    let other = SigningKey::from_bytes(&[7; 32]);
    let x = base64url::encode(other.verifying_key().as_bytes());
    let second = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"{x}"}}]}}"#);
    let node = Node::new(&[&rfc8037_set("k1"), &second]);
    assert_eq!(node.keys.candidates(Some("k1")).len(), 2);
    let claims = r#"{"iss":"https://as.example","aud":"https://rs.example","exp":1100}"#;
    let genuine = node.sign(r#"{"alg":"Ed25519","kid":"k1"}"#, claims);
    assert!(node.decide(genuine.as_bytes(), &jwt_profile(), UnixSeconds(1000)).is_ok());
    // The other issuer signs claims that name the first one: its own profile refuses them.
    let forged = sign(&other, br#"{"alg":"Ed25519","kid":"k1"}"#, claims.as_bytes());
    assert_eq!(
        node.decide(forged.as_bytes(), &jwt_profile(), UnixSeconds(1000)).map(drop),
        Err(Rejection::IssuerMismatch)
    );
}

#[test]
fn padded_tokens_are_accepted_only_where_the_issuer_opted_in() {
    let node = Node::rfc8037("k1");
    let (header, claims) = (
        r#"{"alg":"Ed25519","kid":"k1","x":1}"#,
        r#"{"iss":"https://as.example","aud":"https://rs.example","exp":1100,"n":12}"#,
    );
    let pad = |text: String| format!("{text}{}", "=".repeat(text.len().wrapping_neg() % 4));
    let input = format!(
        "{}.{}",
        pad(base64url::encode(header.as_bytes())),
        pad(base64url::encode(claims.as_bytes()))
    );
    let signature = node.signing_key.sign(input.as_bytes()).to_bytes();
    let padded = format!("{input}.{}", pad(base64url::encode(&signature)));
    assert!(padded.matches('=').count() >= 3, "{padded}");
    let strict = jwt_profile();
    let tolerant = Profile { padded: true, ..jwt_profile() };
    let decide = |profile: &Profile, padding, token: &str| {
        node.decide_padded(token.as_bytes(), profile, UnixSeconds(1000), &Demand::default(), padding)
            .map(drop)
    };
    assert_eq!(decide(&tolerant, Padding::Tolerated, &padded), Ok(()));
    assert_eq!(decide(&tolerant, Padding::Refused, &padded), Err(Rejection::TokenMalformed));
    assert_eq!(decide(&strict, Padding::Tolerated, &padded), Err(Rejection::TokenMalformed));
    assert_eq!(decide(&tolerant, Padding::Tolerated, &format!("{padded}=")), Err(Rejection::TokenMalformed));
    let unpadded = node.sign(header, claims);
    assert_eq!(decide(&strict, Padding::Tolerated, &unpadded), Ok(()));
}
