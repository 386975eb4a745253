//! Redis does not answer, answers late, or refuses: nothing is lost in it.

use std::time::Duration;

use edgate::cluster::ClusterError;
use edgate::decision::UnixSeconds;
use edgate::revocation::{Answer, Asked, Status};

use crate::node::{Node, Promise, REVOKED, ask, at, now, pair, status};
use crate::server::{Proxy, Server};
use crate::support::have;
use crate::until;

#[test]
fn while_redis_is_stopped_nothing_is_answered_and_then_all_of_it_arrives() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    promise.hold("before", a.revoke("before").unwrap());
    server.freeze();
    let error = a.revoke("during").unwrap_err();
    assert!(matches!(error, ClusterError::TimedOut { .. }), "{error}");
    until("the views to be too old", || !a.is_fresh() && !b.is_fresh());
    let mut registry = b.registry();
    assert_eq!(ask(&mut registry, "another", REVOKED), Answer::Unknown);
    until("the follower to say why", || b.status().last_error.is_some());
    server.thaw();
    // Nobody asked again: the node remembers what it was told.
    until("the other node to refuse it", || status(&b.view, "during") == Status::Revoked);
    promise.hold("during", a.revoke_until_answered("during"));
    promise.kept(&[&a, &b]);
    until("answers again", || ask(&mut registry, "another", REVOKED) == Answer::Clear);
    until("nothing to complain about", || a.status().last_error.is_none() && b.status().last_error.is_none());
}

#[test]
fn an_answer_that_is_cut_off_is_asked_for_again() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let (a, b) = (Node::ready(&at(&proxy.url())), Node::ready(&at(&server.url())));
    let promise = Promise::watch(&[&a, &b]);
    // The first publication makes the connection, and the cut meets it in use.
    promise.hold("first", a.revoke("first").unwrap());
    proxy.swallow_answer();
    promise.hold("second", a.revoke("second").unwrap());
    assert_eq!(proxy.swallowed(), 1);
    promise.kept(&[&a, &b]);
    // It was done twice, and is there once.
    assert_eq!(server.ask::<u64>(&["ZCARD", "{edgate}:tokens"]), 2);
    assert_eq!(server.ask::<u64>(&["XLEN", "{edgate}:stream"]), 3);
}

#[test]
fn slow_answers_make_the_view_older_and_too_slow_ones_are_no_answers() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let (a, b) = (Node::ready(&at(&proxy.url())), Node::ready(&at(&server.url())));
    let promise = Promise::watch(&[&a, &b]);
    proxy.delay(Duration::from_millis(150));
    promise.hold("slow", a.revoke("slow").unwrap());
    until("the delay to be seen", || a.status().lag.is_some_and(|lag| lag > Duration::from_millis(150)));
    assert!(a.is_fresh());
    proxy.delay(Duration::from_millis(900));
    let error = a.revoke("too slow").unwrap_err();
    assert!(matches!(error, ClusterError::TimedOut { .. }), "{error}");
    until("the view to be too old", || !a.is_fresh());
    // The other node got it: it was done, only not answered.
    until("the other node to refuse it", || status(&b.view, "too slow") == Status::Revoked);
    proxy.delay(Duration::ZERO);
    promise.hold("too slow", a.revoke_until_answered("too slow"));
    promise.kept(&[&a, &b]);
}

#[test]
fn a_node_that_was_cut_off_catches_up_from_where_it_stood() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::to(&server);
    let (a, b) = (Node::ready(&at(&server.url())), Node::ready(&at(&proxy.url())));
    let promise = Promise::watch(&[&a, &b]);
    promise.hold("before", a.revoke("before").unwrap());
    until("the node to have it", || b.status().events == 1);
    proxy.close();
    until("the view to be too old", || !b.is_fresh());
    promise.hold("meanwhile", a.revoke("meanwhile").unwrap());
    proxy.open();
    promise.hold("after", a.revoke("after").unwrap());
    promise.kept(&[&a, &b]);
    let seen = b.status();
    assert_eq!((seen.events, seen.rebuilds), (3, 1), "{seen:?}");
    assert!(seen.reconnects >= 1, "{seen:?}");
}

#[test]
fn a_stream_trimmed_behind_a_stopped_node_is_noticed() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::to(&server);
    for trim in [["XTRIM", "{edgate}:stream", "MAXLEN", "1"], ["XTRIM", "{edgate}:stream", "MAXLEN", "0"]] {
        let (a, b) = (Node::ready(&at(&server.url())), Node::ready(&at(&proxy.url())));
        let promise = Promise::watch(&[&a, &b]);
        proxy.close();
        until("the view to be too old", || !b.is_fresh());
        for i in 0..5 {
            let jti = format!("{i} before {}", trim[3]);
            promise.hold(&jti, a.revoke(&jti).unwrap());
        }
        assert!(server.ask::<u64>(&trim) >= 4);
        proxy.open();
        promise.kept(&[&a, &b]);
        assert_eq!(b.status().rebuilds, 2, "{:?}", b.status());
    }
}

#[test]
fn without_memory_nothing_is_published_and_what_is_known_stays_in_force() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    promise.hold("before", a.revoke("before").unwrap());
    until("the other node to have it", || status(&b.view, "before") == Status::Revoked);
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = a.revoke("during").unwrap_err();
    assert!(matches!(&error, ClusterError::Refused { code, .. } if code == "OOM"), "{error}");
    assert!(error.to_string().contains("out of memory"), "{error}");
    // A use cannot be noted, so there is none.
    let mut registry = b.registry();
    let unused = Asked { unused: true, ..Asked::default() };
    assert_eq!(ask(&mut registry, "once", unused), Answer::Unknown);
    // Nothing new can be published, so nobody's view is too old.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert!(b.is_fresh(), "{:?}", b.status());
        std::thread::yield_now();
    }
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    promise.hold("during", a.revoke_until_answered("during"));
    promise.kept(&[&a, &b]);
    until("a use to be possible again", || ask(&mut registry, "once", unused) == Answer::Clear);
}

#[test]
fn clocks_an_hour_apart_do_not_matter() {
    if !have("redis-server") {
        return;
    }
    fn ahead() -> UnixSeconds {
        now().saturating_add(3600)
    }
    fn behind() -> UnixSeconds {
        UnixSeconds(now().0 - 3600)
    }
    let server = Server::start();
    let redis = at(&server.url());
    let nodes = [
        Node::start_with_clock(redis.clone(), ahead),
        Node::start_with_clock(redis.clone(), behind),
        Node::ready(&redis),
    ];
    nodes.iter().for_each(Node::await_fresh);
    // The one ahead drops what it takes for over, as it refuses the token as expired: it does not watch for the others.
    let promise = Promise::watch(&[&nodes[1], &nodes[2]]);
    for (i, node) in nodes.iter().enumerate() {
        let jti = format!("by node {i}");
        let epoch = node.revoke(&jti).unwrap();
        promise.hold(&jti, epoch);
        until("every node to reach the epoch", || nodes.iter().all(|node| node.view.epoch() >= epoch));
    }
    promise.kept(&[&nodes[1], &nodes[2]]);
    assert_eq!(server.ask::<u64>(&["ZCARD", "{edgate}:tokens"]), 3);
}

#[test]
fn without_enough_replicas_a_revocation_is_in_effect_but_not_answered() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let mut redis = at(&server.url());
    redis.min_replicas = 1;
    let (a, b, promise) = pair(&redis);
    let error = a.revoke("lonely").unwrap_err();
    assert_eq!(error, ClusterError::NotReplicated { confirmed: 0, wanted: 1 });
    until("the other node to refuse it", || status(&b.view, "lonely") == Status::Revoked);
    let port = crate::server::free_port().to_string();
    server.ask::<()>(&["CONFIG", "SET", "port", &port]);
    let replica = Server::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    until("the replica to follow", || {
        replica.ask::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
    promise.hold("lonely", a.revoke_until_answered("lonely"));
    promise.kept(&[&a, &b]);
    // A replica is not taken for the primary.
    let lost = Node::start(at(&replica.url()));
    until("the refusal", || lost.status().last_error.is_some_and(|error| error.contains("not the primary")));
    assert!(!lost.is_fresh());
}
