use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;

use super::*;
use crate::base64url;
use crate::decision::{Rejection, UnixSeconds};
use crate::verify::{Engine, Item, ItemKey, Verdict, Verifier, VerifyingKey};

const HEADER: &str = r#"{"alg":"Ed25519","typ":"JWT","kid":"k1"}"#;
const CLAIMS: &str = r#"{"iss":"i","aud":"a","exp":2000,"scope":"read write","n":"\u00e9"}"#;

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

fn encode(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", base64url::encode(header), base64url::encode(payload))
}

fn token(header: &str, claims: &str) -> String {
    let input = encode(header.as_bytes(), claims.as_bytes());
    let signature = signing_key().sign(input.as_bytes()).to_bytes();
    assemble(input, &signature)
}

fn verified(text: &str) -> VerifiedJws<'_> {
    let mut scratch = Scratch::default();
    let (jws, _) = parse(text.as_bytes(), Padding::Refused, &mut scratch).unwrap();
    let key = VerifyingKey::register(signing_key().verifying_key().as_bytes()).unwrap();
    let item =
        Item { key: ItemKey::Registered(&key), message: jws.signing_input(), signature: jws.signature() };
    let mut verdicts = Vec::new();
    Verifier::new(Engine::Auto).verify(&[item], &mut verdicts);
    match verdicts.pop().unwrap() {
        Verdict::Accepted(proof) => VerifiedJws::new(jws, proof),
        Verdict::Rejected(rejection) => panic!("{rejection}"),
    }
}

fn profile(kind: ProfileKind) -> Profile {
    Profile::new(kind, "name".into(), "tenant".into(), "i".into(), vec!["a".into()])
}

fn parse_error(text: impl AsRef<[u8]>) -> ParseError {
    parse(text.as_ref(), Padding::Refused, &mut Scratch::default()).map(drop).unwrap_err()
}

/// The error, if any, of a token with this header.
fn header_error(header: &str) -> Option<ParseError> {
    let text = format!("{}.{}", encode(header.as_bytes(), b"{}"), "A".repeat(SIGNATURE_CHARS));
    parse(text.as_bytes(), Padding::Refused, &mut Scratch::default()).err()
}

/// The issuer's own key of this name.
fn own(kid: &str) -> SignedBy<'_> {
    SignedBy { kid, delegation: None }
}

#[test]
fn a_good_token_is_split_and_its_header_read() {
    let text = token(HEADER, CLAIMS);
    let mut scratch = Scratch::default();
    let (jws, header) = parse(text.as_bytes(), Padding::Refused, &mut scratch).unwrap();
    let expected = Header {
        algorithm: Algorithm::Ed25519,
        kid: Some("k1"),
        typ: Some("JWT"),
        delegation: None,
        padded: false,
    };
    assert_eq!(header, expected);
    assert_eq!(jws.signing_input(), &text.as_bytes()[..text.rfind('.').unwrap()]);
    assert_eq!(base64url::encode(jws.signature()), text[text.rfind('.').unwrap() + 1..]);
}

#[test]
fn malformed_tokens_are_refused_for_their_first_fault() {
    let good = token(HEADER, CLAIMS);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three segments")
    };
    for (text, error) in [
        (String::new(), ParseError::Segments),
        (header.to_owned(), ParseError::Segments),
        (format!("{header}.{payload}"), ParseError::Segments),
        (format!(".{payload}.{signature}"), ParseError::Segments),
        (format!("{header}.{payload}.{signature}.{signature}"), ParseError::Segments),
        (format!("{header}.a.b.{payload}.{signature}"), ParseError::Segments),
        (format!("..{signature}"), ParseError::Segments),
        (format!("{header}.{payload}."), ParseError::SignatureLength),
        (format!("{header}.{payload}.{}", &signature[..84]), ParseError::SignatureLength),
        (format!("{header}.{payload}.{signature}A"), ParseError::SignatureLength),
        (format!("{header}.{payload}.{signature}AA"), ParseError::SignatureLength),
        (format!("{good}\n"), ParseError::Encoding),
        (format!(" {good}"), ParseError::Encoding),
        (format!("{good}~"), ParseError::Encoding),
        (format!("{header}.{payload}=.{signature}"), ParseError::Encoding),
        (format!("{header}.{payload}.{}é", &signature[..84]), ParseError::Encoding),
        (good.replace('.', ".\0"), ParseError::Encoding),
    ] {
        assert_eq!(parse_error(&text), error, "{text}");
    }
}

#[test]
fn limits_hold_at_their_boundaries() {
    let header = |bytes: usize| {
        let start = r#"{"alg":"EdDSA","x":""#;
        format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2))
    };
    assert_eq!(header_error(&header(HEADER_BYTES_MAX)), None);
    assert_eq!(header_error(&header(HEADER_BYTES_MAX + 1)), Some(ParseError::HeaderTooLong));
    assert_eq!(header_error(&header(HEADER_BYTES_MAX + 9)), Some(ParseError::HeaderTooLong));
    let kid = |bytes: usize| format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "k".repeat(bytes));
    assert_eq!(header_error(&kid(KID_BYTES_MAX)), None);
    assert_eq!(header_error(&kid(KID_BYTES_MAX + 1)), Some(ParseError::KidTooLong));
    let sized = |bytes: usize| {
        let header = base64url::encode(HEADER.as_bytes());
        format!(
            "{header}.{}.{}",
            "A".repeat(bytes - header.len() - 2 - SIGNATURE_CHARS),
            "A".repeat(SIGNATURE_CHARS)
        )
    };
    assert!(parse(sized(TOKEN_BYTES_MAX).as_bytes(), Padding::Refused, &mut Scratch::default()).is_ok());
    assert_eq!(parse_error(sized(TOKEN_BYTES_MAX + 1)), ParseError::TokenTooLong);
}

#[test]
fn header_members_are_judged_by_name_and_type() {
    let with = |member: &str| header_error(&format!(r#"{{"alg":"Ed25519",{member}}}"#));
    for member in ["b64", "enc", "jku", "jwk", "x5c", "x5u", "zip"] {
        for value in ["null", "true", "{}", r#""DEF""#] {
            assert_eq!(with(&format!(r#""{member}":{value}"#)), Some(ParseError::ForbiddenMember(member)));
        }
    }
    for crit in ["[]", r#"["exp"]"#, "null", r#"["b64"]"#, "7"] {
        assert_eq!(with(&format!(r#""crit":{crit}"#)), Some(ParseError::Critical));
    }
    for ignored in [
        r#""x5t":"a""#,
        r##""x5t#S256":7"##,
        r#""JWK":{}"#,
        r#""url":"u","nonce":[{"a":1}]"#,
        r#""cty":"json""#,
    ] {
        assert_eq!(with(ignored), None, "{ignored}");
    }
    for nested in ["JWT", "jwt", "application/jwt"] {
        assert_eq!(with(&format!(r#""cty":"{nested}""#)), Some(ParseError::ForbiddenMember("cty")));
    }
    assert_eq!(with(r#""cty":1"#), Some(ParseError::CtyNotString));
    assert_eq!(with(r#""typ":null"#), Some(ParseError::TypNotString));
    assert_eq!(with(r#""kid":null"#), Some(ParseError::KidNotString));
    for alg in [
        r#""none""#,
        r#""eddsa""#,
        r#""ED25519""#,
        r#""Ed25519 ""#,
        r#""Ed25519ph""#,
        r#""Ed448""#,
        "null",
        r#"["EdDSA"]"#,
    ] {
        assert_eq!(header_error(&format!(r#"{{"alg":{alg}}}"#)), Some(ParseError::AlgorithmUnknown), "{alg}");
    }
    assert_eq!(header_error("{}"), Some(ParseError::AlgorithmUnknown));
    // JSON is judged before members are.
    assert!(matches!(header_error(r#"{"alg":"none","jwk":{},"jwk":{}}"#), Some(ParseError::HeaderJson(_))));
    assert!(matches!(header_error(r#"{"alg":"Ed25519"}{}"#), Some(ParseError::HeaderJson(_))));
}

#[test]
fn typ_is_compared_as_a_media_type() {
    let admits = |types: &TypeSet, typ: Option<&str>| {
        let header =
            Header { algorithm: Algorithm::Ed25519, kid: None, typ, delegation: None, padded: false };
        let profile = Profile { types: types.clone(), ..profile(ProfileKind::Jwt) };
        profile.check_header(&header) == Ok(())
    };
    let jwt = ProfileKind::Jwt.types();
    for typ in [None, Some("JWT"), Some("jwt"), Some("application/JWT"), Some("Application/jwt")] {
        assert!(admits(&jwt, typ), "{typ:?}");
    }
    for typ in [
        "",
        "at+jwt",
        "JWT ",
        "application/",
        "text/jwt",
        "application/application/jwt",
        "jwt;a=b",
        "dpop+jwt",
    ] {
        assert!(!admits(&jwt, Some(typ)), "{typ}");
    }
    let access = ProfileKind::AccessToken.types();
    assert!(admits(&access, Some("application/AT+jwt")) && admits(&access, Some("at+jwt")));
    assert!(!admits(&access, None) && !admits(&access, Some("JWT")));
    let listed = TypeSet::listed(["application/Secevent+JWT".into(), "x".into()], false);
    assert!(admits(&listed, Some("secevent+jwt")) && admits(&listed, Some("application/X")));
    assert!(!admits(&listed, None) && !admits(&listed, Some("jwt")));
}

#[test]
fn algorithms_are_the_profiles_choice() {
    let header = |algorithm| Header { algorithm, kid: None, typ: None, delegation: None, padded: false };
    let strict = Profile { algorithms: AlgorithmSet::ED25519, ..profile(ProfileKind::Jwt) };
    assert_eq!(strict.check_header(&header(Algorithm::Ed25519)), Ok(()));
    assert_eq!(strict.check_header(&header(Algorithm::EdDsa)), Err(Rejection::AlgorithmNotAllowed));
    assert_eq!(AlgorithmSet::from_iter([Algorithm::EdDsa]), AlgorithmSet::EDDSA);
    assert_eq!(AlgorithmSet::from_iter([Algorithm::EdDsa, Algorithm::Ed25519]), AlgorithmSet::BOTH);
}

#[test]
fn an_agent_task_token_is_read_back_as_it_was_issued() {
    let task = AgentTask {
        iss: "i",
        sub: "agent-7",
        aud: &["a", "b"],
        iat: UnixSeconds(1000),
        nbf: UnixSeconds(1000),
        exp: UnixSeconds(1600),
        jti: "j\"1",
        scope: &["mail.read", "mail.send"],
        task: "send the report",
        cns: r#"{"max_calls": 3}"#,
        own: "ann@example.com",
        act: Some(r#"{"sub":"orchestrator"}"#),
        status: None,
    };
    let input = signing_input(own("k1"), &task).unwrap();
    let signature = signing_key().sign(input.as_bytes()).to_bytes();
    let text = assemble(input, &signature);
    let mut scratch = Scratch::default();
    let (_, header) = parse(text.as_bytes(), Padding::Refused, &mut scratch).unwrap();
    let profile = profile(ProfileKind::AgentTask);
    profile.check_header(&header).unwrap();
    let jws = verified(&text);
    let claims = jws.claims(&mut scratch).unwrap();
    profile
        .check_claims(&claims, UnixSeconds(1200), &Demand { audience: Some("b"), scopes: &["mail.send"] })
        .unwrap();
    assert_eq!((claims.sub, claims.jti), (Some(task.sub), Some(Jti(task.jti))));
    assert_eq!((claims.cns, claims.act), (Some(task.cns), task.act));
    assert_eq!((claims.scope.as_slice(), claims.aud.as_slice()), (task.scope, task.aud));
    assert_eq!((claims.task, claims.own, claims.exp), (Some(task.task), Some(task.own), Some(task.exp)));
}

#[test]
fn what_verification_would_refuse_is_not_issued() {
    let good = AgentTask {
        iss: "i",
        sub: "s",
        aud: &["a"],
        iat: UnixSeconds(1),
        nbf: UnixSeconds(1),
        exp: UnixSeconds(2),
        jti: "j",
        scope: &[],
        task: "t",
        cns: "{}",
        own: "o",
        act: None,
        status: None,
    };
    assert!(signing_input(own("k"), &good).is_ok());
    let long = "x".repeat(TOKEN_BYTES_MAX);
    for (task, error) in [
        (AgentTask { aud: &[], ..good }, EncodeError::AudienceMissing),
        (AgentTask { jti: "", ..good }, EncodeError::NameEmpty),
        (AgentTask { exp: UnixSeconds(1), ..good }, EncodeError::Times),
        (AgentTask { exp: UnixSeconds(1 << 53), ..good }, EncodeError::Times),
        (AgentTask { scope: &["a b"], ..good }, EncodeError::Scope),
        (AgentTask { task: &long, ..good }, EncodeError::TooLong),
    ] {
        assert_eq!(signing_input(own("k"), &task).unwrap_err(), error);
    }
    for cns in ["", "[]", "{", r#"{"a":1,"a":2}"#, r#"{"a":"\ud800"}"#, "{}{}"] {
        let error = signing_input(own("k"), &AgentTask { cns, ..good }).unwrap_err();
        assert!(matches!(error, EncodeError::NotObject("cns", _)), "{cns}");
    }
    assert_eq!(signing_input(own(""), &good).unwrap_err(), EncodeError::Kid);
    assert_eq!(signing_input(own(&"\u{1}".repeat(KID_BYTES_MAX)), &good).unwrap_err(), EncodeError::Kid);
}

#[test]
fn private_claims_of_other_issuers_matter_only_in_agent_task_tokens() {
    let claims = r#"{"iss":"i","aud":"a","exp":2000,"task":5,"cns":"x","own":{}}"#;
    let text = token(HEADER, claims);
    let jws = verified(&text);
    let mut scratch = Scratch::default();
    let claims = jws.claims(&mut scratch).unwrap();
    let check = |kind| profile(kind).check_claims(&claims, UnixSeconds(1000), &Demand::default());
    assert_eq!(check(ProfileKind::Jwt), Ok(()));
    assert_eq!(check(ProfileKind::AgentTask), Err(Rejection::ClaimsMalformed));
    assert_eq!((claims.task, claims.cns, claims.own), (None, None, None));
}

#[test]
fn claims_of_the_wrong_type_are_never_taken_for_absent() {
    let read = |claims: &str| {
        let mut scratch = crate::json::Scratch::default();
        Claims::read(claims.as_bytes(), &mut scratch).map(drop)
    };
    for name in ["iss", "sub", "jti", "client_id", "sid", "nonce", "scope", "aud", "exp", "nbf", "iat", "act"]
    {
        for value in ["null", "true", "[7]", "{\"a\":1}", "\"x\"", "7"] {
            let outcome = read(&format!(r#"{{"{name}":{value}}}"#));
            let fits = match name {
                "exp" | "nbf" | "iat" => value == "7",
                "act" => value.starts_with('{'),
                _ => value == "\"x\"",
            };
            assert_eq!(outcome.is_ok(), fits, "{name}: {value}");
        }
    }
}

#[test]
fn names_that_say_nothing_are_missing() {
    for claims in [
        r#"{"iss":"i","aud":"a","exp":2000,"jti":""}"#,
        r#"{"iss":"i","aud":"a","exp":2000,"sub":""}"#,
        r#"{"iss":"i","aud":"a"}"#,
        r#"{"aud":"a","exp":2000}"#,
        "{}",
    ] {
        let text = token(HEADER, claims);
        let jws = verified(&text);
        let mut scratch = Scratch::default();
        let claims = jws.claims(&mut scratch).unwrap();
        let outcome = profile(ProfileKind::Jwt).check_claims(&claims, UnixSeconds(1000), &Demand::default());
        assert_eq!(outcome, Err(Rejection::ClaimMissing));
    }
}

#[test]
fn without_audiences_of_its_own_a_profile_needs_a_demand() {
    let open = Profile { audiences: Vec::new(), ..profile(ProfileKind::Jwt) };
    let text = token(HEADER, CLAIMS);
    let jws = verified(&text);
    let mut scratch = Scratch::default();
    let claims = jws.claims(&mut scratch).unwrap();
    let check = |audience| open.check_claims(&claims, UnixSeconds(1000), &Demand { audience, scopes: &[] });
    assert_eq!(check(Some("a")), Ok(()));
    assert_eq!(check(Some("b")), Err(Rejection::AudienceMismatch));
    assert_eq!(check(None), Err(Rejection::AudienceMismatch));
}

#[test]
fn nothing_of_a_token_shows_when_printed() {
    let text = token(
        HEADER,
        r#"{"iss":"i","aud":"a","exp":2000,"sub":"secret-subject","jti":"secret-jti","scope":"secret"}"#,
    );
    let jws = verified(&text);
    let mut scratch = Scratch::default();
    let shown = format!("{jws:?} {:?} {:?}", inspect(text.as_bytes()), Scratch::default());
    let claims = jws.claims(&mut scratch).unwrap();
    let shown = format!("{shown} {claims:?} {:?}", claims.jti);
    assert!(!shown.contains("secret") && !shown.contains(&text[..20]), "{shown}");
    assert!(shown.contains("jti"));
}

#[test]
fn inspection_decodes_what_parsing_refuses() {
    let text = format!("{}.", encode(br#"{"alg":"none"}"#, b"[1]"));
    let seen = inspect(text.as_bytes()).unwrap();
    assert_eq!((seen.header.as_slice(), seen.payload.as_slice()), (&br#"{"alg":"none"}"#[..], &b"[1]"[..]));
    assert_eq!(seen.signature_bytes, 0);
    assert!(inspect(b"no token").is_err());
}

#[test]
fn every_other_spelling_of_a_token_is_another_token() {
    let good = token(HEADER, CLAIMS);
    let mut scratch = Scratch::default();
    let (jws, _) = parse(good.as_bytes(), Padding::Refused, &mut scratch).unwrap();
    for place in 0..good.len() {
        for byte in 0..=u8::MAX {
            let mut text = good.clone().into_bytes();
            text[place] = byte;
            let mut scratch = Scratch::default();
            let Ok((other, _)) = parse(&text, Padding::Refused, &mut scratch) else { continue };
            let same = other.signing_input() == jws.signing_input() && other.signature() == jws.signature();
            assert_eq!(same, text == good.as_bytes(), "byte {byte} at {place}");
        }
    }
}

/// What was parsed, written again; the same text if parsing is strict.
fn spelled_again(text: &[u8]) -> Option<String> {
    let mut scratch = Scratch::default();
    let (jws, _) = parse(text, Padding::Refused, &mut scratch).ok()?;
    let seen = inspect(text).unwrap();
    Some(assemble(encode(&seen.header, &seen.payload), jws.signature()))
}

proptest! {
    #[test]
    fn a_token_has_exactly_one_spelling(
        members in r#"(,"[a-z]{1,3}":("[a-z]{0,3}"|\[1,2\]|null)){0,3}"#,
        payload in prop::collection::vec(any::<u8>(), 0..60),
        signature in prop::array::uniform32(any::<u8>()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[A-Za-z0-9_.=-]"), 0..3),
    ) {
        let signature: [u8; 64] = std::array::from_fn(|i| signature[i % 32]);
        let header = format!(r#"{{"alg":"EdDSA"{members}}}"#);
        let mut text = assemble(encode(header.as_bytes(), &payload), &signature).into_bytes();
        for (index, character) in edits {
            let index = index.index(text.len());
            text[index] = character.as_bytes()[0];
        }
        if let Some(again) = spelled_again(&text) {
            prop_assert_eq!(again.as_bytes(), &text);
        }
    }

    #[test]
    fn mutated_tokens_and_claims_do_not_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let edit = |text: &str| {
            let mut text = text.as_bytes().to_vec();
            for (index, byte, how) in &edits {
                let index = index.index(text.len().max(1));
                match how {
                    0 if index < text.len() => text[index] = *byte,
                    1 if index < text.len() => drop(text.remove(index)),
                    _ => text.insert(index.min(text.len()), *byte),
                }
            }
            text
        };
        let mut scratch = Scratch::default();
        let text = edit(&token(HEADER, CLAIMS));
        for padding in [Padding::Refused, Padding::Tolerated] {
            let _ = parse(&text, padding, &mut scratch);
            let _ = parse(&text[..cut.index(text.len().max(1)).min(text.len())], padding, &mut scratch);
        }
        let _ = inspect(&text);
        let header = edit(HEADER);
        let _ = parse(assemble(encode(&header, b""), &[0; 64]).as_bytes(), Padding::Refused, &mut scratch);
        let claims = edit(CLAIMS);
        if let Ok(claims) = Claims::read(&claims, &mut scratch.json) {
            for kind in [ProfileKind::Jwt, ProfileKind::AccessToken, ProfileKind::AgentTask] {
                let _ = profile(kind).check_claims(&claims, UnixSeconds(1000), &Demand::default());
            }
        }
    }
}
