//! Two nodes that share a real redis-server, from outside.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use crate::server::Server;
use crate::support::{Connection, Edgate, ISSUER, PATIENCE, have, until};

/// Two nodes over one server, with further lines for both issuers and for `[revocation]`.
fn nodes(server: &Server, issuer: &str, revocation: &str) -> [Edgate; 2] {
    let more = format!(
        "{issuer}\n[revocation]\n{revocation}\n[revocation.redis]\nurl = \"{}\"\ntimeout_ms = 300\n",
        server.url()
    );
    let edit = |text: String| {
        let own = "keys = \"signing_key\"\n";
        text.replace(own, &format!("{own}{issuer}\n")) + &more
    };
    let nodes = [Edgate::start_edited(edit), Edgate::start_edited(edit)];
    for node in &nodes {
        until("the view to be confirmed", || {
            node.control_get("/v1/revocations/status").json()["age_ms"].is_number()
        });
    }
    nodes
}

fn token_revocation(jti: &str) -> serde_json::Value {
    json!({"kind": "token", "name": jti, "issuer": ISSUER})
}

#[test]
fn from_the_answer_on_no_node_accepts_a_revoked_token_where_its_epoch_is_demanded() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let [a, b] = nodes(&server, "", "epoch_wait_ms = 5000");
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    // Both nodes are busy meanwhile.
    let hammers: Vec<_> = [&a, &b]
        .into_iter()
        .map(|node| {
            let (data, stop, served) = (node.data, Arc::clone(&stop), Arc::clone(&served));
            let token = node.issuer.token("busy");
            let request =
                format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
            thread::spawn(move || {
                let mut connection = Connection::open(data);
                while !stop.load(Ordering::Relaxed) {
                    connection.send(request.repeat(8).as_bytes());
                    for _ in 0..8 {
                        assert_eq!(connection.receive().unwrap().status, 200);
                    }
                    served.fetch_add(8, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut delays = Vec::new();
    for i in 0..60 {
        let token = a.issuer.token(&format!("gone-{i}"));
        for node in [&a, &b] {
            assert_eq!(node.forward(&token).status, 200);
        }
        let (first, second) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let epoch = first.revoke(&token_revocation(&format!("gone-{i}")));
        let answered = Instant::now();
        assert_eq!(first.forward(&token).status, 401, "the node that answered refuses at once");
        let demanded = second.forward_at(&token, epoch);
        assert_eq!(demanded.status, 401, "{demanded:?}");
        assert!(demanded.header("x-edgate-epoch").unwrap().parse::<u64>().unwrap() >= epoch);
        delays.push(answered.elapsed());
        // And without a demand, from then on.
        assert_eq!(second.forward(&token).status, 401);
    }
    stop.store(true, Ordering::Relaxed);
    hammers.into_iter().for_each(|hammer| hammer.join().unwrap());
    delays.sort_unstable();
    eprintln!(
        "answered on one node, refused on the other: p50 {:?}, p90 {:?}, max {:?}; {} other decisions meanwhile",
        delays[30],
        delays[54],
        delays[59],
        served.load(Ordering::Relaxed)
    );
}

#[test]
fn without_redis_a_node_says_what_it_cannot_tell_and_heals_by_itself() {
    if !have("redis-server") {
        return;
    }
    let mut server = Server::start();
    let [a, b] = nodes(&server, "on_stale = \"deny\"", "max_staleness_ms = 300");
    let kept = a.issuer.token("kept");
    let gone = a.issuer.token("gone");
    server.kill();
    let answer = a.post(a.control, "/v1/revocations", &token_revocation("gone"));
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.json()["error"], "sharing_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // This node refuses it already.
    assert_eq!(a.forward(&gone).status, 401);
    for node in [&a, &b] {
        until("the view to be too old", || node.forward(&kept).status == 503);
        assert!(node.refused("revocation_unknown") > 0.0);
        let ready = node.control_get("/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.body.contains("too old"), "{}", ready.body);
        let status = node.control_get("/v1/revocations/status").json();
        assert_eq!(status["redis"]["connected"], false);
        assert!(status["redis"]["last_error"].is_string(), "{status}");
    }
    server.launch();
    for node in [&a, &b] {
        until("the node to heal", || node.forward(&kept).status == 200);
        // What was not answered was shared all the same, before the view counts as complete again.
        until("the revocation to arrive", || node.forward(&gone).status == 401);
    }
    let answer = a.post(a.control, "/v1/revocations", &token_revocation("gone"));
    assert_eq!((answer.status, &answer.json()["revocations"][0]["already"]), (200, &json!(true)));
}

#[test]
fn a_stale_view_is_served_or_looked_up_where_the_issuer_wants_that() {
    if !have("redis-server") {
        return;
    }
    let mut server = Server::start();
    // Every decision asks.
    let [a, b] = nodes(&server, "on_stale = \"lookup\"", "max_staleness_ms = 0\nlookup_timeout_ms = 1000");
    let (kept, gone) = (a.issuer.token("kept"), a.issuer.token("gone"));
    // Until a node has given Redis what it remembers, what Redis says is not believed: that is a moment after the view is whole.
    for node in [&a, &b] {
        until("the answers to be believed", || node.forward(&kept).status != 503);
    }
    assert_eq!((a.forward(&kept).status, b.forward(&gone).status), (200, 200));
    a.revoke(&token_revocation("gone"));
    assert_eq!((a.forward(&gone).status, b.forward(&gone).status), (401, 401));
    let many = b.verify(&json!({"tokens": [kept, gone, "x", kept]})).json();
    let valid: Vec<bool> =
        many["results"].as_array().unwrap().iter().map(|one| one["valid"] == true).collect();
    assert_eq!(valid, [true, false, false, true]);
    server.kill();
    until("the answer to be missing", || b.forward(&kept).status == 503);
    assert_eq!(b.forward(&gone).status, 401, "what is known to be revoked needs no asking");
    server.launch();
    until("the lookups to heal", || b.forward(&kept).status == 200);
    drop((a, b));

    let mut server = Server::start();
    let [a, _b] = nodes(&server, "on_stale = \"serve\"", "max_staleness_ms = 100");
    server.kill();
    until("the view to be too old", || {
        a.control_get("/v1/revocations/status").json()["age_ms"].as_u64().is_none_or(|age| age > 100)
    });
    assert_eq!(a.forward(&kept).status, 200);
    assert_eq!(a.control_get("/readyz").json()["dependencies"][0]["name"], "revocation");
}

#[test]
fn of_a_thousand_replays_over_two_nodes_exactly_one_is_accepted() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let nodes = nodes(&server, "single_use = true", "lookup_timeout_ms = 5000");
    // Whether a token that may be older than the data set was used in another one cannot be told.
    let mut tries = 0;
    until("a first use to be told", || {
        tries += 1;
        nodes.iter().all(|node| {
            node.forward(&node.issuer.token(&format!("try-{tries}-{}", node.pid()))).status == 200
        })
    });
    let told: f64 = nodes.iter().map(|node| node.refused("revocation_unknown")).sum();
    let token = nodes[0].issuer.token("once");
    let request = format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
    let threads: Vec<_> = (0..10)
        .map(|i| {
            let (data, request) = (nodes[i % 2].data, request.clone());
            thread::spawn(move || {
                let mut connection = Connection::open(data);
                connection.send(request.repeat(100).as_bytes());
                (0..100).filter(|_| connection.receive().unwrap().status == 200).count()
            })
        })
        .collect();
    let accepted: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(accepted, 1);
    // A node that is not yet sure of the data set cannot tell, which is no acceptance either.
    let refused = |reason| nodes.iter().map(|node| node.refused(reason)).sum::<f64>();
    let (replayed, unknown) = (refused("replayed"), refused("revocation_unknown"));
    assert!((replayed + unknown - told - 999.0).abs() < 0.5 && replayed > 500.0, "{replayed} and {unknown}");
}

#[test]
fn a_token_issued_on_one_node_is_on_the_allow_list_of_all() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let mut nodes = nodes(&server, "allow_list = true", "");
    let key = std::fs::read(nodes[0].dir.path().join("signing.key")).unwrap();
    for node in &mut nodes {
        std::fs::write(node.dir.path().join("signing.key"), &key).unwrap();
        node.kill();
        node.restart();
        until("the view to be confirmed", || {
            node.control_get("/v1/revocations/status").json()["age_ms"].is_number()
        });
    }
    let issued =
        nodes[0].post(nodes[0].control, "/v1/tokens", &json!({"agent_id": "ag_1", "scope": ["a.b"]}));
    assert_eq!(issued.status, 201, "{}", issued.body);
    let token = issued.json()["token"].as_str().unwrap().to_owned();
    for node in &nodes {
        assert_eq!(node.forward(&token).status, 200);
    }
    // The same key signs a token that nobody put on the list: what leaked with the key passes nowhere.
    let removed: u64 = server.ask(&["DEL", "{edgate}:listed"]);
    assert_eq!(removed, 1);
    for node in &nodes {
        assert_eq!(node.forward(&token).status, 401);
        assert!(node.refused("not_listed") > 0.0);
    }
}

#[test]
fn the_feed_of_one_node_tells_what_another_changed() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let [a, b] = nodes(&server, "", "");
    let mut feed = TcpStream::connect(b.control).unwrap();
    feed.set_read_timeout(Some(PATIENCE)).unwrap();
    feed.write_all(b"GET /v1/revocations/feed HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    let mut lines = BufReader::new(feed).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("HTTP/1.1 200 "));
    let epoch = a.revoke(&token_revocation("told"));
    let id = lines.find(|line| line.starts_with("id:")).unwrap();
    assert_eq!(id, format!("id: {epoch}"));
    let data = lines.find(|line| line.starts_with("data:")).unwrap();
    assert!(data.contains("\"name\":\"told\""), "{data}");
}
