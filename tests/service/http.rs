//! HTTP/1.x as proxies speak it, well and badly.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::json;

use crate::support::{Connection, Edgate};

#[test]
fn pipelined_requests_are_answered_in_order() {
    let edgate = Edgate::start();
    let good = edgate.issuer.token("a");
    let mut connection = Connection::open(edgate.data);
    let mut requests = String::new();
    for i in 0..50 {
        let token = if i % 3 == 0 { "broken" } else { good.as_str() };
        requests += &format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
        if i % 7 == 0 {
            requests += "GET /livez HTTP/1.1\r\nHost: t\r\n\r\n";
        }
    }
    connection.send(requests.as_bytes());
    for i in 0..50 {
        assert_eq!(connection.receive().unwrap().status, if i % 3 == 0 { 401 } else { 200 }, "request {i}");
        if i % 7 == 0 {
            assert_eq!(connection.receive().unwrap().body, "ok\n");
        }
    }
}

/// A location's mistake was answered at once, before the answers to the requests in front of it: a 200 could be read as
/// the answer to another request. No test had sent a bad query among good ones.
#[test]
fn a_wrong_query_keeps_its_place_among_the_answers() {
    let edgate = Edgate::start();
    let good = edgate.issuer.token("a");
    let request = |query: &str, token: &str| {
        format!("GET /auth/nginx{query} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n")
    };
    let mut connection = Connection::open(edgate.data);
    let requests = [request("", "broken"), request("?scop=a", &good), request("", &good)].concat();
    connection.send(requests.as_bytes());
    let statuses: Vec<u16> = (0..3).map(|_| connection.receive().unwrap().status).collect();
    assert_eq!(statuses, [401, 400, 200]);
}

#[test]
fn a_request_is_the_same_however_its_bytes_arrive() {
    let edgate = Edgate::start();
    let body = json!({"token": edgate.issuer.token("a")}).to_string();
    let whole = format!(
        "POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let mut connection = Connection::open(edgate.data);
    for byte in whole.as_bytes() {
        connection.send(std::slice::from_ref(byte));
    }
    assert_eq!(connection.receive().unwrap().json()["valid"], true);
    // The connection is still in step.
    connection.send(whole.as_bytes());
    assert_eq!(connection.receive().unwrap().json()["valid"], true);
}

#[test]
fn a_client_that_expects_continue_gets_it() {
    let edgate = Edgate::start();
    let body = json!({"token": edgate.issuer.token("a")}).to_string();
    let mut connection = Connection::open(edgate.data);
    connection.send(
        format!(
            "POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Expect: 100-continue\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    assert_eq!(connection.receive().unwrap().status, 100);
    connection.send(body.as_bytes());
    assert_eq!(connection.receive().unwrap().json()["valid"], true);
}

#[test]
fn http_1_0_closes_unless_asked_to_stay() {
    let edgate = Edgate::start();
    let mut closing = Connection::open(edgate.data);
    closing.send(b"GET /livez HTTP/1.0\r\n\r\n");
    let response = closing.receive().unwrap();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert!(closing.is_closed());

    let mut staying = Connection::open(edgate.data);
    for _ in 0..2 {
        staying.send(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = staying.receive().unwrap();
        assert_eq!((response.status, response.header("connection")), (200, Some("keep-alive")));
    }
}

#[test]
fn broken_http_is_refused_with_its_status_and_closed() {
    let edgate = Edgate::start();
    let long = "a".repeat(17_000);
    let cases: &[(&str, u16)] = &[
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("GET /livez HTTP/9.9\r\nHost: t\r\n\r\n", 400),
        ("\u{1}\u{2}\u{3}\r\n\r\n", 400),
        (
            "POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000\r\n\r\n", 413),
        ("POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
        ("GET /livez HTTP/1.1\r\nHost: t\r\nExpect: tea\r\n\r\n", 417),
        (&format!("GET /livez HTTP/1.1\r\nHost: t\r\nX: {long}\r\n\r\n"), 431),
    ];
    for (request, status) in cases {
        let mut connection = Connection::open(edgate.data);
        connection.send(request.as_bytes());
        let shown = &request[..request.len().min(100)];
        let response = connection.receive().unwrap_or_else(|| panic!("no response to {shown:?}"));
        assert_eq!(response.status, *status, "{shown:?}");
        assert!(connection.is_closed(), "{shown:?}");
    }
    assert!(edgate.metric("http_errors_total") >= cases.len() as f64);
}

#[test]
fn wrong_routes_and_methods_are_told() {
    let edgate = Edgate::start();
    assert_eq!(edgate.get("/", "").status, 404);
    assert_eq!(edgate.get("/auth/nginx/", "").status, 404);
    let response = edgate.get("/v1/tokens/verify", "");
    assert_eq!((response.status, response.header("allow")), (405, Some("POST")));
    let response = edgate.post(edgate.data, "/auth/nginx", &json!({}));
    assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_slow_request_is_cut_with_408_and_an_idle_connection_closed() {
    let edgate = Edgate::start_with("shards = 1\nheader_timeout_ms = 300\nidle_timeout_ms = 300", "");
    let mut slow = Connection::open(edgate.data);
    slow.send(b"GET /livez HTTP/1.1\r\nHost: ");
    let response = slow.receive().unwrap();
    assert_eq!(response.status, 408);
    assert!(slow.is_closed());

    let mut idle = Connection::open(edgate.data);
    idle.send(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(idle.receive().unwrap().status, 200);
    assert!(idle.is_closed());
}

#[test]
fn a_drip_of_bytes_buys_no_time() {
    let edgate = Edgate::start_with("shards = 1\nheader_timeout_ms = 500\nidle_timeout_ms = 60000", "");
    let mut drip = Connection::open(edgate.data);
    let started = std::time::Instant::now();
    drip.send(b"GET /livez HTTP/1.1\r\nX: ");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut sender = std::net::TcpStream::connect(edgate.data).unwrap();
    sender.write_all(b"GET /livez HTTP/1.1\r\nX: ").unwrap();
    let mut reader = sender.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The drip itself is the attack; its pace is not what the test waits for.
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && sender.write_all(b"x").is_ok() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let text = String::from_utf8_lossy(&said);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    });
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "the drip was cut");
}

#[test]
fn a_unix_socket_answers_like_tcp() {
    let edgate = Edgate::start();
    let mut stream = UnixStream::connect(edgate.dir.path().join("data.sock")).unwrap();
    let token = edgate.issuer.token("a");
    let request = format!(
        "GET /auth/nginx HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
}

#[test]
fn the_jwks_is_published_with_its_etag() {
    let edgate = Edgate::start();
    let response = edgate.get("/.well-known/jwks.json", "");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("cache-control"), Some("public, max-age=300"));
    let keys = response.json();
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["crv"]), (&json!("OKP"), &json!("Ed25519")));
    assert!(keys["keys"][0].get("d").is_none());
    let etag = response.header("etag").unwrap();
    let again = edgate.get("/.well-known/jwks.json", &format!("If-None-Match: \"x\", {etag}\r\n"));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

#[test]
fn readiness_names_each_dependency() {
    let edgate = Edgate::start();
    let response = edgate.get("/readyz", "");
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.contains("audit: "), "{}", response.body);
    assert!(response.body.contains("revocation: "), "{}", response.body);
}

#[test]
fn the_epoll_driver_serves_too() {
    let edgate = Edgate::start_with("shards = 2\ndriver = \"epoll\"", "");
    for i in 0..20 {
        assert_eq!(edgate.forward(&edgate.issuer.token(&format!("t{i}"))).status, 200);
    }
    assert!(edgate.said().contains("epoll"), "{}", edgate.said());
}
