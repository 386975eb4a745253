//! The stream in a real redis-server.

use std::time::Duration;

use edgate::config::{Mirror, Redis, RedisServers, SecretSource};
use serde_json::{Map, Value};

use crate::server::{Proxy, Server};
use crate::source::{Source, check};
use crate::support::have;
use crate::until;

const STREAM: &str = "{siem}:audit:mirror.example/log";

fn to(url: &str) -> Mirror {
    let redis = Redis {
        servers: RedisServers::Single(url.to_owned()),
        username: None,
        password: None,
        credentials: None,
        ca_file: None,
        namespace: "siem".to_owned(),
        min_replicas: 0,
        timeout: Duration::from_millis(400),
        stream_len_max: 1_000_000,
    };
    Mirror { syslog: None, redis: Some(redis) }
}

/// The stream's entries as JSON objects.
fn lines(server: &Server) -> Vec<String> {
    let entries: Vec<(String, Vec<String>)> = server.ask(&["XRANGE", STREAM, "-", "+"]);
    let object = |fields: &Vec<String>| {
        let (pairs, _) = fields.as_chunks::<2>();
        pairs.iter().map(|[name, text]| (name.clone(), Value::from(text.clone()))).collect::<Map<_, _>>()
    };
    entries.iter().map(|(_, fields)| Value::Object(object(fields)).to_string()).collect()
}

fn len(server: &Server) -> u64 {
    server.try_ask(&["XLEN", STREAM]).unwrap_or(0)
}

#[test]
fn the_stream_holds_each_record_once_whatever_happens_to_the_connection() {
    if !have("redis-server") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let mut source = Source::open(dir.path());
    source.grow(600);
    // Redis has these, and the mirror does not hear of it.
    proxy.swallow_answer();
    source.mirror_to(&to(&proxy.url()));
    until("the answer to be lost", || proxy.swallowed() == 1);
    until("everything to arrive", || len(&server) >= source.durable());
    proxy.close();
    source.grow(50);
    until("the loss to be seen", || source.status().error.is_some());
    proxy.open();
    until("a checkpoint of them to arrive", || check(lines(&server)).proven_to > 650);
    let report = check(lines(&server));
    assert!(report.breaks.is_empty() && report.repeated == 0 && report.proven_to > 650, "{report:?}");
    // Restarted, it asks the stream, and needs no file.
    source.stop_mirror();
    std::fs::remove_file(dir.path().join("mirror-redis.place")).unwrap();
    source.grow(20);
    source.mirror_to(&to(&proxy.url()));
    until("everything to arrive", || len(&server) >= source.durable());
    let report = check(lines(&server));
    assert!(report.breaks.is_empty() && report.repeated == 0, "{report:?}");
    source.close();
}

#[test]
fn a_server_that_is_stopped_or_lost_everything_is_lag_and_then_goes_on() {
    if !have("redis-server") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start();
    let mut source = Source::open(dir.path());
    source.grow(100);
    source.mirror_to(&to(&server.url()));
    until("everything to arrive", || len(&server) >= source.durable());
    server.freeze();
    source.grow(100);
    until("the silence to be seen", || {
        source.status().error.is_some_and(|error| error.contains("did not answer"))
    });
    assert!(source.status().lag > 0);
    server.thaw();
    until("everything to arrive", || len(&server) >= source.durable());
    assert!(check(lines(&server)).breaks.is_empty());
    // It comes back empty: the stream goes on behind what it had.
    let had = source.durable();
    server.kill();
    server.launch();
    source.grow(100);
    until("the rest to arrive", || len(&server) >= 100);
    let first: Value = serde_json::from_str(&lines(&server)[0]).unwrap();
    let first: u64 = first["seq"].as_str().unwrap().parse().unwrap();
    assert!(first > 0 && first <= had + 10, "{first} of {had}");
    source.close();
}

#[test]
fn a_stream_that_is_ahead_of_the_log_or_of_another_one_is_not_continued() {
    if !have("redis-server") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut source = Source::open(&dir.path().join("log"));
    source.grow(100);
    source.mirror_to(&to(&server.url()));
    until("everything to arrive", || len(&server) >= source.durable());
    source.close();
    let had = len(&server);
    // Another log of the same name: shorter at first, then longer.
    let mut other = Source::open(&dir.path().join("other"));
    other.mirror_to(&to(&server.url()));
    until("the mirror to refuse", || other.status().error.is_some_and(|error| error.contains("rolled back")));
    other.grow(300);
    until("the mirror to refuse", || {
        other.status().error.is_some_and(|error| error.contains("does not continue"))
    });
    assert_eq!(len(&server), had);
    other.close();
}

#[test]
fn a_user_with_the_rights_that_the_manual_names_can_mirror_and_no_more_is_needed() {
    if !have("redis-server") {
        return;
    }
    let manual = include_str!("../../packaging/edgate-audit.8");
    let rights = "+eval +xadd +xrevrange +wait +role +info";
    assert!(manual.contains(&format!("~{{NAMESPACE}}:* {rights}")), "the manual names them");
    let user = ["--user", "edgate", "on", ">right", "resetchannels", "-@all", "~{siem}:*"];
    let user: Vec<&str> = user.into_iter().chain(rights.split(' ')).collect();
    let server = Server::start_with(&[&["--requirepass", "top"], &user[..]].concat());
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "right\n").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut mirror = to(&server.url());
    let redis = mirror.redis.as_mut().unwrap();
    redis.username = Some("edgate".to_owned());
    redis.password = Some(SecretSource::File(password));
    let mut source = Source::open(&dir.path().join("log"));
    source.grow(30);
    source.mirror_to(&mirror);
    until("everything to be sent", || {
        source.status().connected && source.status().lag == 0 && source.status().sent >= 30
    });
    assert_eq!(source.status().error, None);
    source.close();
}
