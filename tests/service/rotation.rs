//! Rotation under load: a key a second, while tokens are issued and verified as fast as the machine allows.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::signing_keys::{edit, states};
use crate::support::{Connection, Edgate, PATIENCE, edgate, post_request};

/// `EDGATE_ROTATION_MINUTE=1` for the whole minute.
fn rotations() -> usize {
    if std::env::var_os("EDGATE_ROTATION_MINUTE").is_some() { 60 } else { 10 }
}

const LIFE_S: u64 = 4;
const MAX_AGE: Duration = Duration::from_secs(1);

struct Token {
    text: String,
    expires_at: u64,
}

/// What is seen from outside.
#[derive(Default)]
struct Seen {
    tokens: Mutex<Vec<Token>>,
    /// When the answer was here, and the key that had signed before.
    signed: Mutex<Vec<(Instant, String)>>,
    /// When a JWKS was asked for, and what was in it.
    jwks: Mutex<Vec<(Instant, BTreeSet<String>)>>,
    accepted: AtomicUsize,
    over: AtomicBool,
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

fn ask(connection: &mut Connection, request: &str) -> crate::support::Response {
    connection.send(request.as_bytes());
    connection.receive().unwrap_or_else(|| panic!("no answer to {request}"))
}

/// Issues tokens, eight in each call.
fn issue(node: &Edgate, seen: &Seen) {
    let mut control = Connection::open(node.control);
    let one = json!({"agent_id": "agent-1", "scope": ["orders.read"]});
    let request = post_request("/v1/tokens", &json!({"tokens": vec![one; 8]}));
    while !seen.over.load(Ordering::Relaxed) {
        let answer = ask(&mut control, &request);
        assert_eq!(answer.status, 201, "{answer:?}");
        let answered = Instant::now();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for token in answer.json()["tokens"].as_array().unwrap() {
            seen.signed.lock().unwrap().push((answered, text(&token["kid"])));
            let token =
                Token { text: text(&token["token"]), expires_at: token["expires_at"].as_u64().unwrap() };
            seen.tokens.lock().unwrap().push(token);
        }
    }
}

/// Verifies tokens of all ages. None that is valid may be refused.
fn verify(node: &Edgate, seen: &Seen) {
    let mut data = Connection::open(node.data);
    let mut turn = 0_usize;
    while !seen.over.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(6_364_136_223).wrapping_add(1_442_695_041);
        let chosen = {
            let mut tokens = seen.tokens.lock().unwrap();
            let now = crate::support::now();
            if turn.is_multiple_of(64) {
                tokens.retain(|token| token.expires_at > now);
            }
            match tokens.len() {
                0 => continue,
                len => {
                    let token = &tokens[turn % len];
                    (token.text.clone(), token.expires_at)
                }
            }
        };
        let request =
            format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {}\r\n\r\n", chosen.0);
        let answer = ask(&mut data, &request);
        // Whether it had expired when it was judged nobody knows later.
        if now_ms() < u128::from(chosen.1) * 1_000 {
            assert_eq!(answer.status, 200, "a valid token was refused: {answer:?}");
            seen.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn fetch_jwks(node: &Edgate, seen: &Seen) {
    let mut data = Connection::open(node.data);
    while !seen.over.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = ask(&mut data, "GET /.well-known/jwks.json HTTP/1.1\r\nHost: t\r\n\r\n").json();
        let keys = answer["keys"].as_array().unwrap().iter();
        let kids = keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
        seen.jwks.lock().unwrap().push((asked, kids));
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A key that signed before every copy of the JWKS could have it would have its tokens refused by whoever keeps one as long as he may.
/// From outside: whatever was signed within the max-age of asking for a JWKS is signed by a key of it.
#[test]
fn a_key_a_second_under_load_refuses_no_valid_token_and_signs_with_no_unpublished_key() {
    let mut node = Edgate::start_edited(|text| {
        let signing = format!("rotate_every_s = 1\ndefault_ttl_s = {LIFE_S}\n");
        edit(&text, &signing, &format!("max_lifetime_s = {LIFE_S}\nleeway_s = 0\n"))
    });
    let (seen, wanted) = (Seen::default(), rotations());
    let over = || states(&node).iter().filter(|(_, state)| state != "draft").count() > wanted;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| issue(&node, &seen));
            scope.spawn(|| verify(&node, &seen));
        }
        scope.spawn(|| fetch_jwks(&node, &seen));
        // Whatever ends this thread ends the others.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&seen.over);
        let deadline = Instant::now() + PATIENCE + Duration::from_secs(2 * wanted as u64);
        while !over() {
            // The schedule makes the drafts. An operator who cannot wait gets none of them to sign a moment earlier.
            for (kid, _) in states(&node).iter().filter(|(_, state)| state == "draft") {
                let answer = node.post(node.control, &format!("/v1/keys/{kid}/activate"), &json!({}));
                assert!(matches!(answer.status, 200 | 409), "{answer:?}");
            }
            assert!(Instant::now() < deadline, "{wanted} rotations did not happen: {:?}", states(&node));
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });

    let signed = seen.signed.into_inner().unwrap();
    let used: BTreeSet<&String> = signed.iter().map(|(_, kid)| kid).collect();
    assert!(used.len() > wanted / 2, "{} keys signed {} tokens", used.len(), signed.len());
    assert!(seen.accepted.load(Ordering::Relaxed) > 100);
    let copies = seen.jwks.into_inner().unwrap();
    for (answered, kid) in &signed {
        // In the order of asking.
        let from = copies.partition_point(|(asked, _)| *asked + MAX_AGE < *answered);
        for (asked, keys) in copies[from..].iter().take_while(|(asked, _)| asked <= answered) {
            let age = answered.duration_since(*asked);
            assert!(keys.contains(kid), "{kid} signed {age:?} after a JWKS without it was asked for");
        }
    }
    let listed = node.control_get("/v1/keys").json();
    for key in listed["keys"].as_array().unwrap().iter().skip(1) {
        if let (Some(published), Some(activated)) =
            (key["published_ms"].as_u64(), key["activated_ms"].as_u64())
        {
            assert!(activated >= published + 1_000, "{key}");
        }
    }
    assert_eq!(node.terminate().code(), Some(0), "{}", node.said());
    let dir = node.audit_dir();
    let verified = edgate(&["audit", "verify", "--dir", dir.to_str().unwrap()], b"");
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
}
