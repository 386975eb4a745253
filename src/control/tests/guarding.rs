//! What is refused before a handler sees it, and the headers on every answer.

use super::*;

#[test]
fn a_foreign_host_is_refused_and_our_own_names_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let ask = |host: &str| node.send(&format!("GET /livez HTTP/1.1\r\n{host}Connection: close\r\n\r\n"));
    for host in
        ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.0.0.9:80", "[::1]:8081", "control.internal:1"]
    {
        assert_eq!(ask(&format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    for host in
        ["evil.example", "localhost.evil.example", "192.0.2.7", "", "control.internal.", "localhost:x"]
    {
        let answer = ask(&format!("Host: {host}\r\n"));
        answer.expect_error(421, "misdirected_request", "is not a name of this listener");
    }
    ask("").expect_error(400, "invalid_request", "Host is missing");
    ask("Host: localhost\r\nHost: localhost\r\n").expect_error(400, "invalid_request", "more than once");
    let absolute =
        node.send("GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    absolute.expect_error(421, "misdirected_request", "evil.example");
    node.stop();
}

#[test]
fn a_page_of_another_site_cannot_revoke() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let ask = |origin: &str| {
        node.send(&format!(
            "POST /v1/tokens/one/revoke HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        ))
    };
    for origin in ["https://evil.example", "null", "http://localhost.evil.example:80"] {
        ask(origin).expect_error(403, "foreign_origin", "is another site");
    }
    assert_eq!(node.status_of(ISSUER, "one", NOW), Status::Clear);
    assert_eq!(ask("http://localhost:9000").status, 200);
    node.stop();
}

#[test]
fn a_body_must_be_json_by_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let body = r#"{"agent_id":"a","scope":["a"]}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let answer = node.post_as("/v1/tokens", kind, body);
        answer.expect_error(415, "unsupported_media_type", "send application/json");
        let answer = node.post_as("/v1/tokens/one/revoke", kind, "{}");
        answer.expect_error(415, "unsupported_media_type", "send application/json");
    }
    assert_eq!(node.post_as("/v1/tokens", "Application/JSON; charset=utf-8", body).status, 201);
    node.stop();
}

#[test]
fn an_oversized_body_is_refused_declared_or_chunked() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let body = format!(r#"{{"agent_id":"a","scope":["a"],"task":"{}"}}"#, "x".repeat(270_000));
    node.post("/v1/tokens", &body).expect_error(413, "request_too_large", "longer than 262144 bytes");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let chunked = node.send(&format!(
        "POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(65)
    ));
    chunked.expect_error(413, "request_too_large", "longer than 262144 bytes");
    node.stop();
}

#[test]
fn an_oversized_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let padding = "x".repeat(20_000);
    let mut stream = TcpStream::connect(node.address).unwrap();
    let _ = stream
        .write_all(format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {padding}\r\n\r\n").as_bytes());
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(node.get("/livez").status, 200);
    node.stop();
}

#[test]
fn wrong_paths_and_methods_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.get("/v1/token").expect_error(404, "not_found", "POST /v1/tokens");
    node.post("/v1/tokens/verify", "{}").expect_error(404, "not_found", "verified on the data listener");
    node.post("/v1/tokens//revoke", "").expect_error(400, "invalid_request", "must be 1 to 6144 bytes");
    let answer = node.get("/v1/tokens");
    answer.expect_error(405, "method_not_allowed", "GET is not possible here");
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    node.stop();
}

#[test]
fn every_answer_has_the_security_headers() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let refused = node.send("GET /livez HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    let answers = [
        node.get("/livez"),
        node.get("/absent"),
        node.post("/v1/tokens", "{"),
        node.get("/metrics"),
        refused,
    ];
    for answer in answers {
        for header in [
            "cache-control: no-store",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
        ] {
            assert!(answer.head.contains(header), "{header} is missing in {}", answer.head);
        }
        assert!(!answer.head.contains("\nserver:"), "{}", answer.head);
    }
    node.stop();
}

#[test]
fn random_bytes_neither_stop_nor_crash_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let seed = std::env::var("EDGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("EDGATE_TEST_SEED={seed}");
    let mut state = seed;
    // SplitMix64 (Steele, Lea and Flood, 2014).
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let body = r#"{"agent_id":"ag_7","scope":["orders.create"],"constraints":{"max":200},"ttl":60}"#;
    let good = format!(
        "POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..500 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=random() % 4 {
            let at = usize::try_from(random()).unwrap() % bytes.len();
            bytes[at] = random().to_le_bytes()[0];
        }
        let mut stream = TcpStream::connect(node.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(&bytes);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let head = String::from_utf8_lossy(&answer);
        assert!(!head.starts_with("HTTP/1.1 5"), "{head} to {}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(node.get("/livez").status, 200);
    node.stop();
}
