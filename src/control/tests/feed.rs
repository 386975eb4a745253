//! `GET /v1/revocations/feed`.

use std::io::{BufRead, BufReader};

use super::*;

/// A client of the feed.
struct Client {
    lines: BufReader<TcpStream>,
    /// What was received and not yet looked at.
    decoded: String,
}

impl Client {
    /// Connects, and returns once the stream has begun.
    fn connect(node: &Node, last: Option<&str>) -> Self {
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let mut stream = TcpStream::connect(node.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("GET /v1/revocations/feed HTTP/1.1\r\nHost: localhost\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut client = Self { lines: BufReader::new(stream), decoded: String::new() };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(client.lines.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        assert!(client.event().unwrap().starts_with(": "));
        client
    }

    /// The next event or comment; `None` at the end of the stream.
    fn event(&mut self) -> Option<String> {
        while !self.decoded.contains("\n\n") {
            let mut size = String::new();
            if self.lines.read_line(&mut size).unwrap() == 0 {
                return None;
            }
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            self.lines.read_exact(&mut chunk).unwrap();
            if size == 0 {
                return None;
            }
            self.decoded.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        }
        let (event, rest) = self.decoded.split_once("\n\n").unwrap();
        let event = event.to_owned();
        self.decoded = rest.to_owned();
        Some(event)
    }

    /// The next change: its id, if it has one, and its entry.
    fn change(&mut self) -> (Option<u64>, serde_json::Value) {
        let event = self.event().expect("the stream goes on");
        let mut id = None;
        let mut entry = None;
        for line in event.lines() {
            match line.split_once(": ").unwrap() {
                ("id", text) => id = Some(text.parse().unwrap()),
                ("data", text) => entry = Some(serde_json::from_str(text).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        (id, entry.unwrap())
    }
}

fn revoke(node: &Node, id: &str) {
    assert_eq!(node.post(&format!("/v1/tokens/{id}/revoke"), "").status, 200);
}

#[test]
fn a_change_is_told_as_it_happens_to_every_client() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    revoke(&node, "before");
    let mut clients = [Client::connect(&node, None), Client::connect(&node, None)];
    revoke(&node, "one\n\"x\"".replace('\n', "%0A").replace('"', "%22").as_str());
    for client in &mut clients {
        let (id, entry) = client.change();
        assert_eq!(id, Some(2));
        assert_eq!((entry["name"].as_str(), entry["state"].as_str()), (Some("one\n\"x\""), Some("revoked")));
        assert_eq!((entry["kind"].as_str(), entry["epoch"].as_u64()), (Some("token"), Some(2)));
    }
    node.stop();
    for client in &mut clients {
        assert_eq!(client.event(), None, "the node stops without waiting for its clients");
    }
}

#[test]
fn a_client_that_comes_back_gets_what_it_missed_and_then_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let many = |from: usize| {
        let one = |i: usize| format!("{{\"kind\":\"token\",\"name\":\"t-{i:03}\"}}");
        let all: Vec<String> = (from..from + 200).map(one).collect();
        format!("{{\"revocations\":[{}]}}", all.join(","))
    };
    revoke(&node, "first");
    for from in [0, 200] {
        assert_eq!(node.post("/v1/revocations", &many(from)).status, 200);
    }
    // More than a page, and one epoch across the border between two.
    let mut client = Client::connect(&node, Some("1"));
    for i in 0..400 {
        let (id, entry) = client.change();
        assert_eq!(entry["name"], format!("t-{i:03}"));
        let last = (i % 200 == 199).then_some(2 + i / 200);
        assert_eq!(id, last, "only the last of an epoch carries its id: {i}");
    }
    revoke(&node, "live");
    assert_eq!(client.change().1["name"], "live");

    let mut all = Client::connect(&node, Some("0"));
    assert_eq!(all.change().1["name"], "first", "0 begins with everything that stands");
    let mut nothing = Client::connect(&node, Some("4"));
    revoke(&node, "later");
    assert_eq!(nothing.change().1["name"], "later");
    node.stop();
}

#[test]
fn a_bad_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for header in ["x", "-1", "1.5", "18446744073709551616", "1\r\nLast-Event-ID: 2"] {
        let answer = node.send(&format!(
            "GET /v1/revocations/feed HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {header}\r\nConnection: close\r\n\r\n"
        ));
        answer.expect_error(400, "invalid_request", "Last-Event-ID");
    }
    node.stop();
}

#[test]
fn there_are_so_many_clients_and_a_place_is_free_again_when_one_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let mut clients: Vec<Client> = (0..32).map(|_| Client::connect(&node, None)).collect();
    node.get("/v1/revocations/feed").expect_error(503, "overloaded", "32 clients");
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // The node notices with the next thing it sends.
        revoke(&node, "one");
        let mut stream = TcpStream::connect(node.address).unwrap();
        stream.write_all(b"GET /v1/revocations/feed HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        if &status == b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < deadline, "no place became free");
    }
    node.stop();
}

/// A client that reads nothing: what waits for it is bounded, and it is cut off once it has fallen too far behind.
#[test]
fn a_client_that_falls_behind_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, given) = std::sync::mpsc::channel();
    let node = Node::start_with(dir.path(), move |state| {
        sender.send((state.announce.clone(), state.store.clone())).unwrap();
    });
    let (announce, _store) = given.recv().unwrap();
    let mut client = Client::connect(&node, None);
    let change = crate::store::StoredChange {
        kind: crate::revocation::TargetKind::Token,
        tenant: "acme".into(),
        issuer: ISSUER.into(),
        name: "x".repeat(4000),
        effect: crate::revocation::Effect::RefusedUntil(NOW),
        forget_at: NOW,
        changed_at: NOW,
        reason: String::new(),
        actor: String::new(),
        epoch: 7,
    };
    // As the follower of another node announces: all at once, more than the queue holds.
    for _ in 0..20_000 {
        let _ = announce.send([change.clone()].into());
    }
    let mut events = 0;
    while client.event().is_some() {
        events += 1;
    }
    assert!(events < 20_000, "{events}");
    revoke(&node, "one");
    assert_eq!(Client::connect(&node, Some("0")).change().1["name"], "one", "it comes back");
    node.stop();
}
