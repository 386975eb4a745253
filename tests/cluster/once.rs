//! Tokens that may be used once, and tokens that must be listed.

use std::sync::{Arc, Barrier};

use edgate::decision::UnixSeconds;
use edgate::revocation::{Answer, Asked, Identity, Inquiry, Registry};
use edgate::store::Listed;

use crate::node::{LISTED, Node, UNUSED, ask, at, identity, inquiry, now};
use crate::server::Server;
use crate::support::have;
use crate::until;

#[test]
fn of_a_thousand_replays_on_two_nodes_exactly_one_passes() {
    if !have("redis-server") {
        return;
    }
    const ASKERS: usize = 4;
    let server = Server::start();
    let redis = at(&server.url());
    let nodes = [Node::ready(&redis), Node::ready(&redis)];
    let start = Arc::new(Barrier::new(ASKERS));
    let askers: Vec<_> = (0..ASKERS)
        .map(|i| {
            let mut registry = nodes[i % 2].registry();
            until("Redis to be believed", || {
                ask(&mut registry, &format!("other {i}"), UNUSED) != Answer::Unknown
            });
            let start = Arc::clone(&start);
            std::thread::spawn(move || {
                start.wait();
                // Some at once, as when they arrive in one turn, and some one after the other.
                let mut answers = registry.answer(&vec![inquiry("once", UNUSED); 200]);
                answers.extend((0..50).map(|_| ask(&mut registry, "once", UNUSED)));
                answers
            })
        })
        .collect();
    let answers: Vec<Answer> = askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect();
    assert_eq!(answers.len(), 1000);
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Clear).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Answer::Replayed).count(), 999);
}

#[test]
fn a_token_is_used_only_where_all_else_is_in_order() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let node = Node::ready(&at(&server.url()));
    let mut registry = node.registry();
    until("Redis to be believed", || ask(&mut registry, "other", UNUSED) == Answer::Clear);
    let everything = Asked { revoked: true, listed: true, unused: true };
    assert_eq!(ask(&mut registry, "x", everything), Answer::NotListed);
    assert_eq!(ask(&mut registry, "x", LISTED), Answer::NotListed);
    list(&node, "x").unwrap();
    assert_eq!(ask(&mut registry, "x", LISTED), Answer::Clear);
    assert_eq!(ask(&mut registry, "x", everything), Answer::Clear);
    assert_eq!(ask(&mut registry, "x", everything), Answer::Replayed);
    list(&node, "y").unwrap();
    node.revoke("y").unwrap();
    assert_eq!(ask(&mut registry, "y", everything), Answer::Revoked);
    assert_eq!(server.ask::<u64>(&["ZCARD", "{edgate}:used"]), 2);
}

#[test]
fn whether_an_old_token_was_used_in_a_data_set_that_is_gone_cannot_be_told() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let node = Node::ready(&at(&server.url()));
    let mut registry = node.registry();
    until("Redis to be believed", || ask(&mut registry, "other", UNUSED) == Answer::Clear);
    let asked = |identity| Inquiry::new(&identity, now().saturating_add(600), UNUSED);
    let old = Identity { issued_at: Some(UnixSeconds(now().0 - 100)), ..identity("old") };
    assert_eq!(registry.answer(&[asked(old), inquiry("new", UNUSED)]), [Answer::Unknown, Answer::Clear]);
    let nameless = asked(Identity { jti: None, ..identity("x") });
    assert_eq!(registry.answer(&[nameless]), [Answer::Unknown]);
}

#[test]
fn a_claim_that_no_replica_has_does_not_count() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start();
    let mut redis = at(&server.url());
    redis.min_replicas = 1;
    let node = Node::ready(&redis);
    let mut registry = node.registry();
    until("the token to be used", || ask(&mut registry, "x", UNUSED) == Answer::Replayed);
    assert!(list(&node, "x").is_err());
}

fn list(node: &Node, jti: &str) -> Result<(), edgate::cluster::ClusterError> {
    let listed = Listed { tenant: "t", issuer: "i", jti, expires_at: now().saturating_add(600) };
    node.list_locally(&listed);
    node.list(&listed)
}
