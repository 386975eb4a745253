//! External and adversarial vectors: every verdict at every lane position and batch size, on every path.
//!
//! The vectors lie outside the project (`../shared/vectors`, their licences are their own); without that folder the
//! tests say that they are skipped.

use std::path::Path;

use serde_json::Value;

use super::*;

/// The folder of the vectors, or a visible word that it is absent.
fn vectors(file: &str) -> Option<String> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors"));
    let path = root.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            eprintln!("SKIPPED: cannot read {}: {error}", path.display());
            None
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd hex: {text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is a string in {value}"))
}

fn case(name: String, key: &str, message: &str, signature: &str, accepted: bool) -> Case {
    Case { name, key: unhex(key), message: unhex(message), signature: unhex(signature), accepted }
}

fn rfc8032() -> Vec<Case> {
    let Some(json) = vectors("rfc8032/ietf_test_vectors.hacspec.json") else { return Vec::new() };
    let vectors: Vec<Value> = serde_json::from_str(&json).unwrap();
    let name = |v: &Value| format!("RFC 8032 {}", text(v, "public_key"));
    let of = |v: &Value| case(name(v), text(v, "public_key"), text(v, "message"), text(v, "signature"), true);
    vectors.iter().map(of).collect()
}

fn sign_input() -> Vec<Case> {
    let Some(lines) = vectors("rfc8032/sign.input.dalek-TESTVECTORS.txt") else { return Vec::new() };
    let of = |(i, line): (usize, &str)| {
        let fields: Vec<&str> = line.split(':').collect();
        case(format!("sign.input {i}"), fields[1], fields[2], &fields[3][..128], true)
    };
    lines.lines().filter(|line| !line.is_empty()).enumerate().map(of).collect()
}

fn wycheproof() -> Vec<Case> {
    let Some(json) = vectors("wycheproof/ed25519_test.json") else { return Vec::new() };
    let file: Value = serde_json::from_str(&json).unwrap();
    let mut cases = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap() {
            let name = format!("wycheproof {}", test["tcId"]);
            let accepted = text(test, "result") == "valid";
            let key = text(&group["publicKey"], "pk");
            cases.push(case(name, key, text(test, "msg"), text(test, "sig"), accepted));
        }
    }
    assert_eq!(cases.len(), 151);
    cases
}

fn speccheck() -> Vec<Case> {
    let Some(json) = vectors("speccheck/cases.json") else { return Vec::new() };
    let vectors: Vec<Value> = serde_json::from_str(&json).unwrap();
    let of = |(i, v): (usize, &Value)| {
        // The exact rule accepts none of the twelve (tokens.md 1.4).
        case(format!("speccheck {i}"), text(v, "pub_key"), text(v, "message"), text(v, "signature"), false)
    };
    vectors.iter().enumerate().map(of).collect()
}

fn adversarial() -> Vec<Case> {
    let Some(json) = vectors("derived/ed25519_batch_adversarial.json") else { return Vec::new() };
    let file: Value = serde_json::from_str(&json).unwrap();
    let of = |v: &Value| {
        let accepted = v["expect"]["S1"].as_bool().unwrap();
        case(text(v, "id").to_string(), text(v, "pub"), text(v, "msg"), text(v, "sig"), accepted)
    };
    file["items"].as_array().unwrap().iter().map(of).collect()
}

fn assert_all(engine: Engine, route: Route, cases: &[&Case], verdicts: &[Verdict]) {
    for (position, (case, verdict)) in cases.iter().zip(verdicts).enumerate() {
        let size = cases.len();
        assert_eq!(
            verdict.is_accepted(),
            case.accepted,
            "{} at {position} of {size} on {engine:?}, {route:?}: {verdict:?}",
            case.name
        );
    }
}

#[test]
fn vectors_agree_with_the_oracle() {
    for case in [rfc8032(), sign_input(), wycheproof(), speccheck(), adversarial()].concat() {
        assert_eq!(oracle(&case.key, &case.message, &case.signature), case.accepted, "{}", case.name);
    }
}

#[test]
fn every_vector_gets_its_verdict_alone_and_in_one_big_batch() {
    let cases = [rfc8032(), sign_input(), wycheproof(), speccheck(), adversarial()].concat();
    let all: Vec<&Case> = cases.iter().collect();
    for engine in engines() {
        for route in ROUTES {
            let mut verifier = Verifier::new(engine);
            assert_all(engine, route, &all, &verdicts(&mut verifier, route, &all));
            for case in &all {
                assert_all(engine, route, &[case], &verdicts(&mut verifier, route, &[case]));
            }
        }
    }
}

#[test]
fn adversarial_vectors_keep_their_verdict_in_every_lane() {
    let (cases, fillers) = (adversarial(), honest(8));
    for engine in engines() {
        for route in ROUTES {
            let mut verifier = Verifier::new(engine);
            for case in &cases {
                for lane in 0..8 {
                    let mut batch: Vec<&Case> = fillers.iter().collect();
                    batch[lane] = case;
                    assert_all(engine, route, &batch, &verdicts(&mut verifier, route, &batch));
                }
            }
        }
    }
}

#[test]
fn adversarial_vectors_keep_their_verdict_at_every_batch_size() {
    let (cases, fillers) = (adversarial(), honest(32));
    let sizes = (1..=33).chain([63, 64, 65, 127, 128, 129, 255, 256, 257]);
    for size in sizes {
        for engine in engines() {
            for route in ROUTES {
                let mut verifier = Verifier::new(engine);
                // Every third item is adversarial, and each size starts elsewhere in the corpus.
                let mut pool = cases.iter().cycle().skip(size * 17);
                let batch: Vec<&Case> = (0..size)
                    .map(|i| {
                        if i % 3 == size % 3 { pool.next().unwrap_or(&fillers[0]) } else { &fillers[i % 32] }
                    })
                    .collect();
                assert_all(engine, route, &batch, &verdicts(&mut verifier, route, &batch));
            }
        }
    }
}
