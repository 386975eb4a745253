//! Tokens and key sets against the vectors of others: every case, through the whole path, with its cause.
//!
//! The vectors lie outside the project (`../shared/vectors`; their licences are their own); without that folder the
//! tests say that they are skipped. `node.rs` is the path, `rules.rs` the boundaries the vectors leave open.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod node;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edgate::decision::{Rejection, UnixSeconds};
use edgate::json;
use edgate::keys::{self, jwks};
use edgate::token::{self, ClaimName, Padding, Profile, ProfileKind, Scratch, VerifiedJws};
use serde_json::Value;

use node::{Node, jwt_profile};

#[test]
fn derived_jose_cases_get_their_verdict_and_their_cause() {
    let Some(corpus) = read_json("derived/jose_eddsa_cases.json") else { return };
    let node = Node::new(&[&corpus["jwks"].to_string()]);
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
    let node = Node::new(&[&set]);
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
                        assert!(!path.ends_with("curve25519/jws.json") || form != "compact", "{path:?}");
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
