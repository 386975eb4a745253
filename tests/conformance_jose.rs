//! Tokens and key sets against the vectors of others: every case, through the whole path, with its cause.
//!
//! The path is the shard's: parse, candidate keys, header, signature, issuer, claims. The vectors lie outside the
//! project (`../shared/vectors`; their licences are their own); without that folder the tests say that they are skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use edgate::base64url;
use edgate::decision::{Rejection, UnixSeconds};
use edgate::json;
use edgate::keys::{self, IssuerIndex, KeySet, jwks};
use edgate::token::{self, ClaimName, Demand, Padding, Profile, ProfileKind, Scratch, VerifiedJws};
use edgate::verify::{Engine, Item, ItemKey, SignatureVerified, Verdict, Verifier};
use serde_json::Value;

/// The private key of RFC 8037 A.1: `k1` of the derived cases.
const RFC8037_D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

#[test]
fn derived_jose_cases_get_their_verdict_and_their_cause() {
    let Some(corpus) = read_json("derived/jose_eddsa_cases.json") else { return };
    let node = Node::new(corpus["jwks"].to_string().as_bytes(), vec![]);
    let mut causes = BTreeMap::<&str, usize>::new();
    for case in corpus["cases"].as_array().unwrap() {
        let id = text(case, "id");
        let profile = profile(&corpus["profiles"]["jwt"], text(case, "profile"));
        let outcome = node.decide(text(case, "token").as_bytes(), &profile, UnixSeconds(1_700_000_000));
        match (text(case, "expect"), &outcome) {
            ("accept", Ok(_)) => {}
            ("reject", Err(rejection)) => {
                let expected = causes_of(text(case, "reason"));
                assert!(
                    expected.is_empty() || expected.contains(rejection),
                    "{id}: refused as {rejection}, expected one of {expected:?}",
                );
                *causes.entry(rejection.name()).or_default() += 1;
            }
            (expected, _) => panic!("{id}: expected {expected}, got {:?}", outcome.map(|_| "accepted")),
        }
        // The signature verdict agrees with the list of keys it is valid for: rejects come from the rule that is meant.
        if let Ok((jws, _)) =
            token::parse(text(case, "token").as_bytes(), Padding::Refused, &mut Scratch::default())
        {
            for key in node.keys.iter() {
                let valid = case["sig_valid_for"].as_array().unwrap().iter().any(|kid| kid == key.kid());
                assert_eq!(node.verify(&jws, key).is_ok(), valid, "{id}: signature under {}", key.kid());
            }
        }
    }
    eprintln!("causes: {causes:?}");
}

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
fn wycheproof_jws_are_all_refused() {
    let Some(file) = read_json("wycheproof/json_web_signature_test.json") else { return };
    let node = Node::rfc8037("kid-aes-sign");
    let mut refused = BTreeMap::<&str, usize>::new();
    for test in tests_of(&file) {
        let jws = text(&test, "jws");
        let mut scratch = Scratch::default();
        let outcome = token::parse(jws.as_bytes(), Padding::Refused, &mut scratch);
        let cause = outcome.expect_err("no vector of this file is EdDSA").rejection();
        assert_eq!(node.decide(jws.as_bytes(), &jwt_profile(), UnixSeconds(0)).map(drop), Err(cause));
        // 372 and 373 have a '?' in a segment and are labelled valid, for decoders that skip junk (vectors/README.md).
        if matches!(test["tcId"].as_u64(), Some(372 | 373)) {
            assert_eq!(cause, Rejection::TokenMalformed, "{}", test["tcId"]);
        }
        // The labels of 357, 367 and 370 contradict each other (C2SP/wycheproof#236); all are refused here.
        *refused.entry(cause.name()).or_default() += 1;
    }
    assert_eq!(refused.values().sum::<usize>(), 401);
    eprintln!("causes: {refused:?}");
}

#[test]
fn wycheproof_key_sets_yield_no_key_and_ambiguous_ones_are_refused() {
    let Some(file) = read_json("wycheproof/json_web_key_test.json") else { return };
    for group in file["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap() {
            let set = if group["public"].is_null() { &group["private"] } else { &group["public"] };
            let outcome = jwks::parse(set.to_string().as_bytes());
            match test["tcId"].as_u64().unwrap() {
                1 => assert_eq!(outcome.unwrap_err(), jwks::JwksError::MixedSymmetry),
                4 => assert!(matches!(outcome.unwrap_err(), jwks::JwksError::KidRepeated { .. })),
                id => {
                    let set = outcome.unwrap();
                    assert!(set.keys.is_empty(), "{id}");
                    assert!(!set.skipped.is_empty(), "{id}");
                }
            }
        }
    }
}

#[test]
fn rfc_8037_key_signature_and_thumbprint_are_reproduced() {
    let Some(rfc) = read_json("jws-rfc8037/rfc8037_appendix_a.json") else { return };
    let set = format!(r#"{{"keys":[{}]}}"#, rfc["public_jwk"]);
    let parsed = jwks::parse(set.as_bytes()).unwrap();
    let thumbprint = text(&rfc, "thumbprint_sha256_b64url");
    assert_eq!(keys::thumbprint(parsed.keys[0].verifying_key.as_bytes()), thumbprint);
    assert_eq!(parsed.keys[0].kid, thumbprint, "a key without kid is named by its thumbprint");

    // A.4 has no kid: the only key there is, is the candidate. Its payload is not JSON, so it has no claims.
    let node = Node::new(set.as_bytes(), vec![]);
    let mut scratch = Scratch::default();
    let (jws, header) =
        token::parse(text(&rfc, "jws_compact").as_bytes(), Padding::Refused, &mut scratch).unwrap();
    let [key] = node.keys.candidates(header.kid) else { panic!("one candidate") };
    let verified = VerifiedJws::new(jws.clone(), node.verify(&jws, key).unwrap());
    assert_eq!(verified.payload(&mut scratch).unwrap(), text(&rfc, "payload_utf8").as_bytes());
    assert_eq!(verified.claims(&mut scratch).unwrap_err().rejection(), Rejection::ClaimsMalformed);

    let private = jwks::parse(format!(r#"{{"keys":[{}]}}"#, rfc["private_jwk"]).as_bytes()).unwrap();
    assert!(private.keys.is_empty());
    assert_eq!(private.skipped[0].reason, jwks::SkipReason::PrivateKey);
}

#[test]
fn jose_cookbook_is_refused_but_for_the_compact_ed25519_signature() {
    let Some(root) = vectors() else { return };
    let node = Node::rfc8037("k1");
    let mut accepted = 0;
    for folder in ["jose-cookbook", "jose-cookbook/curve25519", "jose-cookbook/jws", "jose-cookbook/rfc7797"]
    {
        for path in json_files(&root.join(folder)) {
            let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for form in ["compact", "json", "json_flat"] {
                let output = &file["output"][form];
                if output.is_null() {
                    continue;
                }
                let text = output.as_str().map_or_else(|| output.to_string(), str::to_owned);
                let mut scratch = Scratch::default();
                match token::parse(text.as_bytes(), Padding::Refused, &mut scratch) {
                    Ok((jws, header)) => {
                        assert!(
                            path.ends_with("curve25519/jws.json") && form == "compact",
                            "{path:?} {form}"
                        );
                        let [key] = node.keys.candidates(header.kid) else { panic!("one candidate") };
                        assert!(node.verify(&jws, key).is_ok());
                        accepted += 1;
                    }
                    Err(_) => {
                        assert!(!path.ends_with("curve25519/jws.json") || form != "compact", "{path:?}")
                    }
                }
            }
        }
    }
    assert_eq!(accepted, 1);
}

/// What implementations may differ in (`i_`), and the two `y_` files that repeat a member name: what happens here.
const JSON_SUITE_DECISIONS: &[(&str, bool, &str)] = &[
    ("i_number_double_huge_neg_exp.json", true, "underflows to zero, which is finite"),
    ("i_number_huge_exp.json", false, "not finite"),
    ("i_number_neg_int_huge_exp.json", false, "not finite"),
    ("i_number_pos_double_huge_exp.json", false, "not finite"),
    ("i_number_real_neg_overflow.json", false, "not finite"),
    ("i_number_real_pos_overflow.json", false, "not finite"),
    ("i_number_real_underflow.json", true, "underflows to zero, which is finite"),
    ("i_number_too_big_neg_int.json", true, "finite as a double"),
    ("i_number_too_big_pos_int.json", true, "finite as a double"),
    ("i_number_very_big_negative_int.json", true, "finite as a double"),
    ("i_object_key_lone_2nd_surrogate.json", false, "lone surrogate"),
    ("i_string_1st_surrogate_but_2nd_missing.json", false, "lone surrogate"),
    ("i_string_1st_valid_surrogate_2nd_invalid.json", false, "lone surrogate"),
    ("i_string_UTF-16LE_with_BOM.json", false, "not UTF-8"),
    ("i_string_UTF-8_invalid_sequence.json", false, "not UTF-8"),
    ("i_string_UTF8_surrogate_U+D800.json", false, "not UTF-8"),
    ("i_string_incomplete_surrogate_and_escape_valid.json", false, "lone surrogate"),
    ("i_string_incomplete_surrogate_pair.json", false, "lone surrogate"),
    ("i_string_incomplete_surrogates_escape_valid.json", false, "lone surrogate"),
    ("i_string_invalid_lonely_surrogate.json", false, "lone surrogate"),
    ("i_string_invalid_surrogate.json", false, "lone surrogate"),
    ("i_string_invalid_utf-8.json", false, "not UTF-8"),
    ("i_string_inverted_surrogates_U+1D11E.json", false, "lone surrogate"),
    ("i_string_iso_latin_1.json", false, "not UTF-8"),
    ("i_string_lone_second_surrogate.json", false, "lone surrogate"),
    ("i_string_lone_utf8_continuation_byte.json", false, "not UTF-8"),
    ("i_string_not_in_unicode_range.json", false, "not UTF-8"),
    ("i_string_overlong_sequence_2_bytes.json", false, "not UTF-8"),
    ("i_string_overlong_sequence_6_bytes.json", false, "not UTF-8"),
    ("i_string_overlong_sequence_6_bytes_null.json", false, "not UTF-8"),
    ("i_string_truncated-utf-8.json", false, "not UTF-8"),
    ("i_string_utf16BE_no_BOM.json", false, "not UTF-8"),
    ("i_string_utf16LE_no_BOM.json", false, "not UTF-8"),
    ("i_structure_500_nested_arrays.json", false, "deeper than 64"),
    ("i_structure_UTF-8_BOM_empty_object.json", false, "byte order mark"),
    ("y_object_duplicated_key.json", false, "repeated member name (RFC 7515 §4)"),
    ("y_object_duplicated_key_and_value.json", false, "repeated member name (RFC 7515 §4)"),
];

#[test]
fn json_test_suite_holds_for_values_headers_and_claims() {
    let Some(root) = vectors() else { return };
    let node = Node::rfc8037("k1");
    let profile = jwt_profile();
    let files = json_files(&root.join("json-testsuite/test_parsing"));
    assert_eq!(files.len(), 318);
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let value = std::fs::read(&path).unwrap();
        let accept = match JSON_SUITE_DECISIONS.iter().find(|(file, ..)| *file == name) {
            Some((_, accept, _)) => *accept,
            None if name.starts_with("y_") => true,
            None if name.starts_with("n_") => false,
            None => panic!("{name}: decide what happens"),
        };
        let mut scratch = json::Scratch::default();
        let outcome = json::read(&value, &mut scratch, |reader| reader.skip());
        assert_eq!(outcome.is_ok(), accept, "{name} as a value: {outcome:?}");

        // As one member of a header and of claims that are otherwise good.
        let member = |head: &str| [head.as_bytes(), br#","extra":"#, value.as_slice(), b"}"].concat();
        let header = member(r#"{"alg":"Ed25519","kid":"k1""#);
        let claims = member(r#"{"iss":"https://as.example","aud":"https://rs.example","exp":1700000300"#);
        let decide = |header: &[u8], claims: &[u8]| {
            let token = node.sign_bytes(header, claims);
            node.decide(token.as_bytes(), &profile, UnixSeconds(1_700_000_000)).map(drop)
        };
        let plain_header = br#"{"alg":"Ed25519","kid":"k1"}"#;
        let plain_claims = br#"{"iss":"https://as.example","aud":"https://rs.example","exp":1700000300}"#;
        // Twenty of the files are longer than tokens may be.
        let too_long = |text: &[u8], max: usize| text.len() > max;
        match decide(&header, plain_claims) {
            Ok(()) => assert!(accept, "{name} in a header"),
            Err(Rejection::HeaderMalformed) => assert!(!accept, "{name} in a header"),
            Err(other) => assert!(too_long(&header, 1000), "{name} in a header: {other}"),
        }
        match decide(plain_header, &claims) {
            Ok(()) => assert!(accept, "{name} in claims"),
            Err(Rejection::ClaimsMalformed) => assert!(!accept, "{name} in claims"),
            Err(other) => assert!(too_long(&claims, 4000), "{name} in claims: {other}"),
        }
        // As the whole header and the whole claims: nothing there is a token's.
        decide(&value, plain_claims).unwrap_err();
        decide(plain_header, &value).unwrap_err();
    }
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
    let node = Node::new(rfc8037_set("k1").as_bytes(), vec![second]);
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

/// A small node: the keys of issuer 0 and of further issuers, and the RFC 8037 key to sign with.
struct Node {
    keys: KeySet,
    signing_key: SigningKey,
}

impl Node {
    fn new(set: &[u8], further: Vec<String>) -> Self {
        let mut issuers = vec![(IssuerIndex(0), jwks::parse(set).unwrap().keys)];
        for (set, index) in further.iter().zip(1..) {
            issuers.push((IssuerIndex(index), jwks::parse(set.as_bytes()).unwrap().keys));
        }
        let d = base64url::decode_array::<32>(RFC8037_D.as_bytes()).unwrap();
        Self { keys: KeySet::new(issuers).unwrap(), signing_key: SigningKey::from_bytes(&d) }
    }

    fn rfc8037(kid: &str) -> Self {
        Self::new(rfc8037_set(kid).as_bytes(), vec![])
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_bytes(header.as_bytes(), claims.as_bytes())
    }

    fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        sign(&self.signing_key, header, claims)
    }

    fn decide(&self, token: &[u8], profile: &Profile, now: UnixSeconds) -> Result<String, Rejection> {
        self.decide_with(token, profile, now, &Demand::default())
    }

    fn decide_with(
        &self,
        token: &[u8],
        profile: &Profile,
        now: UnixSeconds,
        demand: &Demand<'_>,
    ) -> Result<String, Rejection> {
        self.decide_padded(token, profile, now, demand, Padding::Refused)
    }

    /// `profile` is that of issuer 0; further issuers have the same with another `iss`. Returns the claims.
    fn decide_padded(
        &self,
        token: &[u8],
        profile: &Profile,
        now: UnixSeconds,
        demand: &Demand<'_>,
        padding: Padding,
    ) -> Result<String, Rejection> {
        let mut scratch = Scratch::default();
        let (jws, header) =
            token::parse(token, padding, &mut scratch).map_err(token::ParseError::rejection)?;
        let candidates = self.keys.candidates(header.kid);
        let mut outcome = Err(Rejection::KeyUnknown);
        let mut admitted = Vec::new();
        for key in candidates {
            let profile = match key.issuer() {
                IssuerIndex(0) => profile.clone(),
                IssuerIndex(n) => Profile { issuer: format!("https://as{n}.example"), ..profile.clone() },
            };
            match profile.check_header(&header) {
                Ok(()) => admitted.push((key, profile)),
                Err(rejection) => outcome = Err(rejection),
            }
        }
        for (key, profile) in admitted {
            let proof = match self.verify(&jws, key) {
                Ok(proof) => proof,
                Err(rejection) => {
                    outcome = Err(rejection);
                    continue;
                }
            };
            let verified = VerifiedJws::new(jws, proof);
            let claims = verified.claims(&mut scratch).map_err(token::ClaimsError::rejection)?;
            profile.check_claims(&claims, now, demand)?;
            return Ok(claims.json.to_owned());
        }
        outcome
    }

    fn verify(
        &self,
        jws: &token::CompactJws<'_>,
        key: &keys::RegisteredKey,
    ) -> Result<SignatureVerified, Rejection> {
        let item = Item {
            key: ItemKey::Registered(key.verifying_key()),
            message: jws.signing_input(),
            signature: jws.signature(),
        };
        let mut verdicts = Vec::new();
        Verifier::new(Engine::Auto).verify(&[item], &mut verdicts);
        match verdicts.pop().unwrap() {
            Verdict::Accepted(proof) => Ok(proof),
            Verdict::Rejected(rejection) => Err(rejection.into()),
        }
    }
}

fn sign(signing_key: &SigningKey, header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", base64url::encode(header), base64url::encode(claims));
    let signature = signing_key.sign(input.as_bytes()).to_bytes();
    token::assemble(input, &signature)
}

fn rfc8037_set(kid: &str) -> String {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}]}}"#)
}

fn jwt_profile() -> Profile {
    Profile::new(
        ProfileKind::Jwt,
        "as".into(),
        "t".into(),
        "https://as.example".into(),
        vec!["https://rs.example".into()],
    )
}

/// The profile named in the derived cases, with the parameters of its `jwt` entry.
fn profile(parameters: &Value, name: &str) -> Profile {
    let kind = match name {
        "jwt" => ProfileKind::Jwt,
        "at+jwt" => ProfileKind::AccessToken,
        other => panic!("unknown profile {other}"),
    };
    let audiences = vec![text(parameters, "aud").to_owned()];
    let mut profile =
        Profile::new(kind, name.into(), "t".into(), text(parameters, "iss").to_owned(), audiences);
    profile.leeway_s = parameters["leeway"].as_u64().unwrap();
    profile.max_lifetime_s = parameters["max_lifetime"].as_u64();
    if parameters["require_jti"] == true {
        profile.required.insert(ClaimName::Jti);
    }
    profile
}

/// The causes that a reason of the derived cases may turn into; none for a reason that is not known here.
fn causes_of(reason: &str) -> Vec<Rejection> {
    use Rejection::*;
    let first = reason.split([';', '/', '(']).next().unwrap_or_default().trim();
    match first {
        "malformed" => vec![TokenMalformed, SignatureMalformed],
        "signature length" => vec![SignatureMalformed],
        "token too long" | "header too long" | "kid too long" => vec![TokenTooLong],
        "header not an object" | "header json" | "header utf-8" | "header depth" | "kid type" => {
            vec![HeaderMalformed]
        }
        "duplicate member" => vec![HeaderMalformed, ClaimsMalformed],
        "alg missing" | "alg not allowed" => vec![AlgorithmNotAllowed],
        "unknown key" | "key not for signatures" => vec![KeyUnknown],
        "forbidden header" | "b64 without crit" => vec![HeaderMemberForbidden],
        "critical header not understood" | "crit malformed" => vec![CriticalHeader, HeaderMemberForbidden],
        "typ" => vec![TypeNotAllowed],
        "signature" => vec![SignatureMismatch],
        "signature S>=L" => vec![ScalarOutOfRange],
        "claims not an object" | "claims json" | "claims depth" => vec![ClaimsMalformed],
        "exp type" | "exp range" | "nbf type" | "iat type" | "iss type" | "aud type" => vec![ClaimsMalformed],
        "expired" => vec![Expired],
        "iss" => vec![IssuerMismatch, ClaimMissing],
        "aud" => vec![AudienceMismatch, ClaimMissing],
        "RFC 9068 required claim missing" => vec![ClaimMissing],
        _ => {
            eprintln!("reason {reason:?} has no cause here: only the verdict is compared");
            vec![]
        }
    }
}

fn tests_of(file: &Value) -> Vec<Value> {
    let groups = file["testGroups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["tests"].as_array().unwrap().clone()).collect()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is a string in {value}"))
}

/// The folder of the vectors, or a visible word that it is absent.
fn vectors() -> Option<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors"));
    if !root.is_dir() {
        eprintln!("SKIPPED: no folder {}", root.display());
        return None;
    }
    Some(root.to_owned())
}

fn read_json(file: &str) -> Option<Value> {
    let path = vectors()?.join(file);
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ext| ext == "json")).collect();
    files.sort();
    files
}
