//! The usual course: what one node revokes, every node refuses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate::decision::UnixSeconds;
use edgate::revocation::{Answer, Asked, Effect, Status, Switch, TargetKind};
use edgate::store::StoredChange;

use crate::node::{Node, Promise, ask, at, now, pair, status, token};
use crate::server::Server;
use crate::support::have;
use crate::until;

#[test]
fn a_revoked_token_is_refused_on_every_node() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, b, promise) = pair(&redis);
    let mut epochs = Vec::new();
    for i in 0..20 {
        let node = if i % 2 == 0 { &a } else { &b };
        let jti = format!("token-{i}");
        let epoch = node.revoke(&jti).unwrap();
        promise.hold(&jti, epoch);
        epochs.push(epoch);
    }
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    promise.kept(&[&a, &b]);
    let seen = b.status();
    assert!(seen.connected && seen.lag.unwrap() < Duration::from_secs(1), "{seen:?}");
    assert_eq!((seen.events, seen.rebuilds, seen.reconnects), (20, 1, 0), "{seen:?}");
    assert_eq!(status(&b.view, "another"), Status::Clear);
}

#[test]
fn every_kind_of_change_reaches_the_other_node_and_a_new_one() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, b) = (Node::ready(&redis), Node::ready(&redis));
    let change = |kind, name: &str, effect| StoredChange {
        kind,
        name: name.to_owned(),
        issuer: if kind == TargetKind::Tenant { String::new() } else { "i".to_owned() },
        effect,
        forget_at: UnixSeconds(u64::MAX),
        ..token("x")
    };
    let switched = Effect::Switched;
    for (kind, name, effect, refusal) in [
        (TargetKind::Kid, "k", switched(Switch::Disabled), Status::Disabled),
        (TargetKind::Kid, "k", switched(Switch::Enabled), Status::Clear),
        (TargetKind::Subject, "s", switched(Switch::Disabled), Status::Disabled),
        (TargetKind::Subject, "s", switched(Switch::Enabled), Status::Clear),
        (TargetKind::Tenant, "", switched(Switch::Disabled), Status::Disabled),
        (TargetKind::Tenant, "", switched(Switch::Enabled), Status::Clear),
        (TargetKind::Subject, "s", Effect::IssuedUntil(UnixSeconds(5)), Status::Clear),
        (TargetKind::Subject, "s", Effect::IssuedUntil(now().saturating_add(60)), Status::Revoked),
    ] {
        let epoch = a.change(&[change(kind, name, effect)]).unwrap();
        until("the epoch to arrive", || a.view.epoch() >= epoch && b.view.epoch() >= epoch);
        let asked = Asked { revoked: true, ..Asked::default() };
        assert_eq!(status(&a.view, "x"), refusal, "{kind:?} {effect:?}");
        assert_eq!(status(&b.view, "x"), refusal, "{kind:?} {effect:?}");
        let answer = match refusal {
            Status::Clear => Answer::Clear,
            Status::Disabled => Answer::Disabled,
            Status::Revoked => Answer::Revoked,
        };
        let mut registry = b.registry();
        until("Redis to be believed", || ask(&mut registry, "x", asked) != Answer::Unknown);
        assert_eq!(ask(&mut registry, "x", asked), answer, "{kind:?} {effect:?}");
    }
    // A node that was not there rebuilds from the entries.
    let c = Node::ready(&redis);
    assert_eq!(status(&c.view, "x"), Status::Revoked);
    assert_eq!(c.view.epoch(), a.view.epoch());
    until("its state database to have it", || c.remembers("s"));
}

#[test]
fn many_revocations_at_once_are_all_answered_and_all_followed() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let nodes = [Arc::new(Node::ready(&redis)), Arc::new(Node::ready(&redis))];
    let promise = Arc::new(Promise::watch(&[&nodes[0], &nodes[1]]));
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (node, promise) = (Arc::clone(&nodes[worker % 2]), Arc::clone(&promise));
            std::thread::spawn(move || {
                for i in 0..25 {
                    let jti = format!("token-{worker}-{i}");
                    promise.hold(&jti, node.revoke(&jti).unwrap());
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    Arc::into_inner(promise).unwrap().kept(&[&nodes[0], &nodes[1]]);
    assert_eq!(server.ask::<u64>(&["ZCARD", "{edgate}:tokens"]), 200);
}

#[test]
fn a_watermark_published_with_an_old_switch_does_not_undo_a_newer_one() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let redis = at(&server.url());
    let (a, mut b) = (Node::ready(&redis), Node::ready(&redis));
    let key = |state| StoredChange {
        kind: TargetKind::Kid,
        name: "k".to_owned(),
        effect: Effect::Switched(state),
        forget_at: UnixSeconds(u64::MAX),
        ..token("x")
    };
    let first = a.change(&[key(Switch::Disabled)]).unwrap();
    until("the node to have it", || b.view.epoch() >= first && b.remembers("k"));
    b.stop();
    let second = a.change(&[key(Switch::Enabled)]).unwrap();
    // It comes back remembering the older state, and must not give that to Redis again.
    b.restart();
    b.await_fresh();
    until("the newer state to win", || b.view.epoch() >= second);
    for node in [&a, &b] {
        assert_eq!(status(&node.view, "x"), Status::Clear);
    }
    let entry: Vec<String> = server.ask(&["HVALS", "{edgate}:switches"]);
    assert_eq!(entry, [format!("{second} enabled")]);
}

#[test]
fn stopping_takes_no_longer_than_an_answer() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let mut node = Node::ready(&at(&server.url()));
    let publisher = node.publisher();
    let began = Instant::now();
    node.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Who asks afterwards is told so.
    let (answer, answered) = std::sync::mpsc::channel();
    publisher.publish(&[token("x")], 0, move |done| answer.send(done).unwrap());
    assert_eq!(answered.recv().unwrap(), Err(edgate::cluster::ClusterError::Stopped));
    // A frozen server does not hold the end up for long either.
    let mut node = Node::ready(&at(&server.url()));
    server.freeze();
    let began = Instant::now();
    node.stop();
    server.thaw();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn what_has_been_over_for_a_day_leaves_but_no_clock_that_is_ahead_hurries_it() {
    if !have("redis-server") {
        return;
    }
    fn days_ahead() -> UnixSeconds {
        now().saturating_add(2 * 86_400)
    }
    let server = Server::start();
    let member = |name: &str| format!("\u{6}\0\u{1}t\0\u{1}i{name}");
    for (name, ago) in [("long over", 90_000), ("over", 80_000), ("in force", -600_i64)] {
        for key in ["{edgate}:tokens", "{edgate}:used", "{edgate}:listed"] {
            let score = now().0.saturating_add_signed(-ago).to_string();
            server.ask::<()>(&["ZADD", key, &score, &member(name)]);
        }
    }
    let node = Node::start_with_clock(at(&server.url()), days_ahead);
    node.await_fresh();
    for key in ["{edgate}:tokens", "{edgate}:used", "{edgate}:listed"] {
        until("the oldest to leave", || {
            server.ask::<Option<u64>>(&["ZSCORE", key, &member("long over")]).is_none()
        });
        assert_eq!(server.ask::<u64>(&["ZCARD", key]), 2, "{key}");
    }
}
