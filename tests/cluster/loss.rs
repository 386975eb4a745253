//! Redis loses data: any node gives it back, and nobody is sure before that.

use std::fs;
use std::time::Instant;

use edgate::cluster::ClusterError;
use edgate::revocation::{Answer, Asked, Registry, Status};
use edgate::store::Listed;

use crate::node::{Node, Promise, REVOKED, UNUSED, ask, at, inquiry, now, pair, status};
use crate::server::{Proxy, Server};
use crate::support::have;
use crate::until;

/// Revokes some tokens on both nodes.
fn revoke_some(promise: &Promise, nodes: [&Node; 2], word: &str) {
    for i in 0..6 {
        let jti = format!("{word} {i}");
        promise.hold(&jti, nodes[i % 2].revoke_until_answered(&jti));
    }
}

/// A node that was never there before learns everything.
fn a_new_node_refuses(server: &Server, words: &[&str]) {
    let new = Node::ready(&at(&server.url()));
    for word in words {
        for i in 0..6 {
            let jti = format!("{word} {i}");
            until("Redis to have it", || status(&new.view, &jti) == Status::Revoked);
        }
    }
}

#[test]
fn killed_and_restarted_empty_it_is_filled_again() {
    if !have("redis-server") {
        return;
    }
    let mut server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    revoke_some(&promise, [&a, &b], "before");
    server.kill();
    let error = a.revoke("during").unwrap_err();
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
    until("the views to be too old", || !a.is_fresh() && !b.is_fresh());
    server.launch();
    // The one that was not answered arrives too.
    until("the other node to refuse it", || status(&b.view, "during") == Status::Revoked);
    revoke_some(&promise, [&a, &b], "after");
    promise.kept(&[&a, &b]);
    a_new_node_refuses(&server, &["before", "after"]);
    let seen = b.status();
    assert!(seen.rebuilds >= 2 && seen.reconnects >= 1, "{seen:?}");
}

#[test]
fn flushed_it_is_filled_again_and_epochs_go_on() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    revoke_some(&promise, [&a, &b], "before");
    let epoch = a.view.epoch();
    let mut registry = a.registry();
    until("Redis to be believed", || ask(&mut registry, "before 0", REVOKED) == Answer::Revoked);
    let listed = Listed { tenant: "t", issuer: "i", jti: "issued", expires_at: now().saturating_add(600) };
    a.list_locally(&listed);
    a.list(&listed).unwrap();
    server.ask::<()>(&["FLUSHALL"]);
    // Never "clear": nothing is said before the data set is whole again.
    until("Redis to be believed again", || match ask(&mut registry, "before 0", REVOKED) {
        Answer::Unknown => false,
        Answer::Revoked => a.status().rebuilds == 2,
        answer => panic!("{answer:?}"),
    });
    revoke_some(&promise, [&a, &b], "after");
    assert!(a.view.epoch() > epoch || a.revoke("last").unwrap() > epoch);
    let asked = Asked { listed: true, ..Asked::default() };
    assert_eq!(ask(&mut registry, "issued", asked), Answer::Clear);
    assert_eq!(ask(&mut registry, "another", asked), Answer::NotListed);
    promise.kept(&[&a, &b]);
    a_new_node_refuses(&server, &["before", "after"]);
}

#[test]
fn restored_from_an_older_copy_it_is_given_what_it_lacks() {
    if !have("redis-server") {
        return;
    }
    let mut server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    revoke_some(&promise, [&a, &b], "old");
    let mut registry = a.registry();
    until("Redis to be believed", || ask(&mut registry, "old 0", REVOKED) == Answer::Revoked);
    until("a use to be possible", || ask(&mut registry, "other", UNUSED) == Answer::Clear);
    // One moment's tokens, whenever they are shown.
    let (in_time, forgotten) = (inquiry("used in time", UNUSED), inquiry("used and forgotten", UNUSED));
    assert_eq!(registry.answer(std::slice::from_ref(&in_time)), [Answer::Clear]);
    server.ask::<()>(&["SAVE"]);
    fs::copy(server.dir().join("dump.rdb"), server.dir().join("older.rdb")).unwrap();
    revoke_some(&promise, [&a, &b], "new");
    assert_eq!(registry.answer(std::slice::from_ref(&forgotten)), [Answer::Clear]);
    let epoch = a.view.epoch().max(b.view.epoch());
    server.kill();
    fs::rename(server.dir().join("older.rdb"), server.dir().join("dump.rdb")).unwrap();
    server.launch();
    // The copy does not know it was used, and nobody believes the copy.
    until("Redis to be believed again", || {
        assert_eq!(registry.answer(std::slice::from_ref(&forgotten)), [Answer::Unknown]);
        ask(&mut registry, "new 5", REVOKED) == Answer::Revoked
    });
    assert_eq!(registry.answer(&[in_time, forgotten]), [Answer::Unknown, Answer::Unknown]);
    until("a newer token to pass", || ask(&mut registry, "newer", UNUSED) == Answer::Clear);
    assert!(a.revoke_until_answered("last") > epoch);
    revoke_some(&promise, [&a, &b], "newest");
    promise.kept(&[&a, &b]);
    a_new_node_refuses(&server, &["old", "new", "newest"]);
}

#[test]
fn a_node_restarted_while_redis_is_away_remembers_the_others_revocations() {
    if !have("redis-server") {
        return;
    }
    let mut server = Server::start();
    let redis = at(&server.url());
    let (a, mut b) = (Node::ready(&redis), Node::ready(&redis));
    a.revoke("x").unwrap();
    until("the other node to store it", || b.remembers("x"));
    b.stop();
    server.kill();
    b.restart();
    assert_eq!(status(&b.view, "x"), Status::Revoked);
    assert!(!b.is_fresh());
    // Redis comes back empty, and the other node is gone for good: this one has it.
    drop(a);
    server.launch();
    b.await_fresh();
    let new = Node::ready(&redis);
    until("a new node to learn it", || status(&new.view, "x") == Status::Revoked);
}

#[test]
fn a_revocation_only_one_node_remembers_is_not_missed_by_the_other() {
    if !have("redis-server") {
        return;
    }
    // `b` is cut off while `a` revokes. Redis loses it while both are cut off, and `b` is back before `a`.
    let server = Server::start();
    let (to_a, to_b) = (Proxy::to(&server), Proxy::to(&server));
    let (a, b) = (Node::ready(&at(&to_a.url())), Node::ready(&at(&to_b.url())));
    let promise = Promise::watch(&[&a, &b]);
    to_b.close();
    until("the view to be too old", || !b.is_fresh());
    promise.hold("x", a.revoke("x").unwrap());
    to_a.close();
    until("the view to be too old", || !a.is_fresh());
    server.ask::<()>(&["FLUSHALL"]);
    // A node that was never there before publishes something of a higher epoch.
    let other = Node::ready(&at(&server.url()));
    promise.hold("y", other.revoke("y").unwrap());
    to_b.open();
    until("the second node to be back", || status(&b.view, "y") == Status::Revoked);
    assert_ne!(status(&b.view, "x"), Status::Revoked);
    to_a.open();
    promise.kept(&[&a, &b]);
}

#[test]
fn many_entries_go_both_ways_while_revoking_goes_on() {
    if !have("redis-server") {
        return;
    }
    const MANY: u64 = 50_000;
    let server = Server::start();
    let fill = "for i = 1, tonumber(ARGV[2]) do \
                redis.call('ZADD', KEYS[1], ARGV[1], '\\006\\000\\001t\\000\\001i' .. 'many ' .. i) end";
    let until_second = (now().0 + 600).to_string();
    server.ask::<()>(&["EVAL", fill, "1", "{edgate}:tokens", &until_second, &MANY.to_string()]);
    let began = Instant::now();
    let node = Node::ready(&at(&server.url()));
    eprintln!("{MANY} entries are in the view after {:?}", began.elapsed());
    assert_eq!(status(&node.view, "many 1"), Status::Revoked);
    assert_eq!(status(&node.view, &format!("many {MANY}")), Status::Revoked);
    // The state database takes longer; meanwhile revoking goes on.
    let asked = Instant::now();
    node.revoke("x").unwrap();
    eprintln!("revoking meanwhile took {:?}", asked.elapsed());
    until("the state database to have them", || node.remembered() > MANY);
    eprintln!("and in the state database after {:?}", began.elapsed());
    server.ask::<()>(&["FLUSHALL"]);
    let began = Instant::now();
    until("Redis to have them again", || server.ask::<u64>(&["ZCARD", "{edgate}:tokens"]) > MANY);
    eprintln!("given back after {:?}", began.elapsed());
    assert_eq!(status(&node.view, "many 1"), Status::Revoked);
}
