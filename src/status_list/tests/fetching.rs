//! The fetcher and its cache, against a server of our own and files.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::base64url;
use crate::decision::UnixSeconds;
use crate::keys::{IssuerIndex, PublishedKey};
use crate::status_list::fetcher::is_under;
use crate::status_list::*;
use crate::verify::{Engine, Verifier, VerifyingKey};

const ISSUER: IssuerIndex = IssuerIndex(3);
const START: u64 = 1_800_000_000;

/// One list server on this machine: every request gets the answer of the moment.
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::new(AtomicUsize::new(0));
        let (shared, counted) = (Arc::clone(&answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                counted.fetch_add(1, Ordering::SeqCst);
                let bytes = shared.lock().unwrap().clone();
                let _ = stream.write_all(&bytes);
            }
        });
        Self { address, answer, requests }
    }

    fn prefix(&self) -> String {
        format!("http://{}/lists/", self.address)
    }

    fn uri(&self) -> String {
        format!("{}1", self.prefix())
    }

    fn answer(&self, head: &str, body: &str) {
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        *self.answer.lock().unwrap() = [head.as_bytes(), body.as_bytes()].concat();
    }

    fn serve(&self, token: &str) {
        self.answer("200 OK\r\nContent-Type: application/statuslist+jwt", token);
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    format!("{input}.{}", base64url::encode(&key.sign(input.as_bytes()).to_bytes()))
}

fn header() -> Value {
    json!({"alg": "Ed25519", "typ": "statuslist+jwt", "kid": "list-key"})
}

/// A list of two bits: token 1 is revoked, 2 suspended, 3 something of the issuer's own.
fn claims(uri: &str, iat: u64) -> Value {
    let mut list = StatusList::new(Bits::Two, 100).unwrap();
    for (index, status) in [(1, 1), (2, 2), (3, 3)] {
        list.set(index, Status(status)).unwrap();
    }
    json!({"sub": uri, "iat": iat, "exp": iat + 3600, "ttl": 60, "status_list": {"bits": 2, "lst": list.encode().unwrap()}})
}

fn source(prefix: &str) -> Source {
    let verifying_key = VerifyingKey::register(key().verifying_key().as_bytes()).unwrap();
    Source {
        issuer: ISSUER,
        name: "partner".into(),
        iss: "https://partner.test".into(),
        prefix: prefix.into(),
        keys: Arc::new(move || {
            vec![PublishedKey { kid: "list-key".into(), verifying_key: verifying_key.clone() }]
        }),
    }
}

fn start(source: Source, now: fn() -> UnixSeconds) -> (Cache, Fetcher) {
    let (cache, places) = places();
    let fetcher = Fetcher::start(vec![source], places, Verifier::new(Engine::Portable), now).unwrap();
    (cache, fetcher)
}

fn standing(cache: &Cache, uri: &str, index: u64, now: UnixSeconds) -> Standing {
    cache.standing(ISSUER, &Reference { index, uri }, now)
}

/// Waits until the cache has the list.
fn wait_for(cache: &Cache, uri: &str, now: UnixSeconds) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while standing(cache, uri, 0, now) == Standing::Unknown {
        assert!(Instant::now() < deadline, "{uri} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn fixed() -> UnixSeconds {
    UnixSeconds(START)
}

#[test]
fn a_list_is_fetched_when_a_token_asks_and_then_says_how_each_stands() {
    let server = Server::start();
    let uri = server.uri();
    server.serve(&signed(&key(), &header(), &claims(&uri, START)));
    let (cache, fetcher) = start(source(&server.prefix()), fixed);
    let now = fixed();
    assert_eq!(server.requests(), 0, "nothing is fetched that nobody asks about");
    assert_eq!(standing(&cache, &uri, 0, now), Standing::Unknown, "until it is there nobody passes");
    wait_for(&cache, &uri, now);
    for (index, expected) in [
        (0, Standing::Valid),
        (1, Standing::Invalid),
        (2, Standing::Suspended),
        (3, Standing::Invalid),
        (99, Standing::Valid),
        (100, Standing::OutOfRange),
        (u64::MAX, Standing::OutOfRange),
    ] {
        assert_eq!(standing(&cache, &uri, index, now), expected, "{index}");
    }
    let reference = Reference { index: 0, uri: &uri };
    assert_eq!(cache.standing(IssuerIndex(4), &reference, now), Standing::Unknown, "another issuer's list");
    let allocated = allocation_counter::measure(|| {
        assert_eq!(cache.standing(ISSUER, &reference, now), Standing::Valid);
    });
    assert_eq!(allocated.count_total, 0, "looking allocates nothing");
    assert_eq!(server.requests(), 1);
    fetcher.stop();
    // 60 s of ttl and 30 s of grace after it was fetched.
    assert_eq!(standing(&cache, &uri, 0, UnixSeconds(START + 89)), Standing::Valid);
    assert_eq!(
        standing(&cache, &uri, 0, UnixSeconds(START + 90)),
        Standing::Unknown,
        "too old to say anything"
    );
}

#[test]
fn what_is_not_the_issuers_list_is_not_taken() {
    let server = Server::start();
    let uri = server.uri();
    let good = claims(&uri, START);
    let with = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        signed(&key(), &header(), &claims)
    };
    let header_with = |name: &str, value: &str| {
        let mut header = header();
        header[name] = json!(value);
        signed(&key(), &header, &good)
    };
    let kind = "Content-Type: application/statuslist+jwt";
    let token = signed(&key(), &header(), &good);
    let ok = format!("200 OK\r\n{kind}");
    let cases: Vec<(&str, String, String)> = vec![
        ("another key", ok.clone(), signed(&SigningKey::from_bytes(&[6; 32]), &header(), &good)),
        ("another typ", ok.clone(), header_with("typ", "JWT")),
        ("unknown kid", ok.clone(), header_with("kid", "other")),
        ("alg none", ok.clone(), header_with("alg", "none")),
        ("another sub", ok.clone(), with("sub", json!(format!("{uri}0")))),
        ("another issuer", ok.clone(), with("iss", json!("https://other.test"))),
        ("from the future", ok.clone(), with("iat", json!(START + 61))),
        ("expired", ok.clone(), with("exp", json!(START))),
        ("bits", ok.clone(), with("status_list", json!({"bits": 5, "lst": "eNrbuRgAAhcBXQ"}))),
        ("no list", ok.clone(), with("status_list", Value::Null)),
        ("not a token", ok.clone(), "<html>".into()),
        ("too long", ok, "x".repeat(DOCUMENT_BYTES_MAX + 1)),
        ("another type", "200 OK\r\nContent-Type: text/html".into(), token.clone()),
        ("no type", "200 OK".into(), token.clone()),
        ("an error", format!("500 Oops\r\n{kind}"), token.clone()),
        ("a redirect", format!("302 Found\r\n{kind}\r\nLocation: {uri}2"), token),
    ];
    for (what, head, body) in cases {
        server.answer(&head, &body);
        let before = server.requests();
        let (cache, fetcher) = start(source(&server.prefix()), fixed);
        assert_eq!(standing(&cache, &uri, 0, fixed()), Standing::Unknown, "{what}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.requests() == before {
            assert!(Instant::now() < deadline, "{what}: not asked for");
            std::thread::sleep(Duration::from_millis(2));
        }
        // When it has stopped the fetch is over.
        fetcher.stop();
        assert_eq!(standing(&cache, &uri, 0, fixed()), Standing::Unknown, "{what}");
        assert_eq!(server.requests(), before + 1, "{what}: once, and nowhere else");
    }
    server.serve(&with("iss", json!("https://partner.test")));
    let (cache, fetcher) = start(source(&server.prefix()), fixed);
    wait_for(&cache, &uri, fixed());
    fetcher.stop();
}

/// The time of the next test, which moves it.
static MOVING: AtomicU64 = AtomicU64::new(START);

fn moving() -> UnixSeconds {
    UnixSeconds(MOVING.load(Ordering::SeqCst))
}

#[test]
fn a_list_is_fetched_again_after_its_ttl_and_never_an_older_one() {
    let server = Server::start();
    let uri = server.uri();
    server.serve(&signed(&key(), &header(), &claims(&uri, START)));
    let (cache, fetcher) = start(source(&server.prefix()), moving);
    let _ = standing(&cache, &uri, 0, moving());
    wait_for(&cache, &uri, moving());
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // A newer list, in which 5 is revoked, after the ttl of the first.
    let mut newer = claims(&uri, START + 60);
    let mut list = StatusList::new(Bits::One, 8).unwrap();
    list.set(5, Status::INVALID).unwrap();
    newer["status_list"] = json!({"bits": 1, "lst": list.encode().unwrap()});
    server.serve(&signed(&key(), &header(), &newer));
    assert_eq!(standing(&cache, &uri, 5, moving()), Standing::Valid);
    MOVING.store(START + 60, Ordering::SeqCst);
    wait("the newer list", &|| standing(&cache, &uri, 5, moving()) == Standing::Invalid);

    // Somebody brings the first one back.
    server.serve(&signed(&key(), &header(), &claims(&uri, START)));
    let before = server.requests();
    MOVING.store(START + 120, Ordering::SeqCst);
    wait("the third fetch", &|| server.requests() > before);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(standing(&cache, &uri, 5, moving()), Standing::Invalid, "what is held stays for a while");
    assert_eq!(standing(&cache, &uri, 5, UnixSeconds(START + 150)), Standing::Unknown, "and not longer");
    fetcher.stop();
}

#[test]
fn a_list_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = format!("file://{}/", dir.path().display());
    // The folder's name begins with a dot, which is in the prefix and so the operator's word.
    let uri = format!("{prefix}list-1");
    std::fs::write(
        dir.path().join("list-1"),
        format!("{}\n", signed(&key(), &header(), &claims(&uri, START))),
    )
    .unwrap();
    let (cache, fetcher) = start(source(&prefix), fixed);
    wait_for(&cache, &uri, fixed());
    assert_eq!(standing(&cache, &uri, 1, fixed()), Standing::Invalid);
    fetcher.stop();
}

#[test]
fn a_token_names_a_list_and_never_a_host() {
    let prefix = "https://issuer.test/lists/";
    for uri in [
        "https://issuer.test/lists/1",
        "https://issuer.test/lists/2026/a-b_c.jwt",
        "https://issuer.test/lists/~x",
    ] {
        assert!(is_under(prefix, uri), "{uri}");
    }
    let long = format!("{prefix}{}", "x".repeat(URI_BYTES_MAX));
    for uri in [
        "https://issuer.test/lists/",
        "https://issuer.test/lists/../admin",
        "https://issuer.test/lists/./1",
        "https://issuer.test/lists/a//b",
        "https://issuer.test/lists/a/",
        "https://issuer.test/lists/%2e%2e/admin",
        "https://issuer.test/lists/1?next=http://10.0.0.1",
        "https://issuer.test/lists/1#x",
        "https://issuer.test/lists/a\\b",
        "https://issuer.test/lists/a@b",
        "https://issuer.test/lists/a b",
        "https://issuer.test.evil.test/lists/1",
        "https://user@issuer.test/lists/1",
        "HTTPS://issuer.test/lists/1",
        "http://issuer.test/lists/1",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "",
        long.as_str(),
    ] {
        assert!(!is_under(prefix, uri), "{uri}");
    }
    let server = Server::start();
    let (cache, fetcher) = start(source("https://issuer.test/lists/"), fixed);
    assert_eq!(standing(&cache, &server.uri(), 0, fixed()), Standing::Unknown);
    std::thread::sleep(Duration::from_millis(100));
    fetcher.stop();
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_prefix_is_a_folder_of_one_host() {
    for prefix in [
        "https://issuer.test/",
        "https://issuer.test:8443/lists/",
        "http://127.0.0.1:80/",
        "http://localhost/lists/",
        "http://[::1]:8080/a/",
        "file:///etc/edgate/lists/",
    ] {
        assert!(is_usable_prefix(prefix), "{prefix}");
    }
    for prefix in [
        "",
        "https://",
        "https:///",
        "https://issuer.test",
        "https://issuer.test/lists",
        "https://user@issuer.test/",
        "https://issuer.test/a/../",
        "https://issuer.test/%2e%2e/",
        "https://issuer.test/?a=/",
        "https://issuer.test/#/",
        "http://issuer.test/",
        "http://127.0.0.1.evil.test/",
        "http://localhost:evil/",
        "file://etc/",
        "ftp://issuer.test/",
        "/lists/",
    ] {
        assert!(!is_usable_prefix(prefix), "{prefix}");
        let (_cache, places) = places();
        let verifier = Verifier::new(Engine::Portable);
        assert!(Fetcher::start(vec![source(prefix)], places, verifier, fixed).is_err());
    }
}
