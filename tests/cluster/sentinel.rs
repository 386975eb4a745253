//! A primary, two replicas and three Sentinels; the primary is lost while tokens are being revoked.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgate::config::{Redis, RedisServers};
use edgate::revocation::{Answer, Registry, Status};

use crate::node::{Node, Promise, UNUSED, ask, at, inquiry, status};
use crate::server::{Sentinel, Server, free_port};
use crate::support::have;
use crate::until;

struct Watched {
    servers: Vec<(Server, u16)>,
    sentinels: Vec<Sentinel>,
}

impl Watched {
    /// The first server is the primary, and all replicas follow it.
    fn start() -> Self {
        let mut servers: Vec<(Server, u16)> = Vec::new();
        for _ in 0..3 {
            let port = free_port();
            let number = port.to_string();
            let mut arguments = vec!["--port".to_owned(), number];
            if let Some((_, primary)) = servers.first() {
                arguments.extend(["--replicaof".to_owned(), format!("127.0.0.1 {primary}")]);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            servers.push((Server::start_with(&arguments), port));
        }
        let primary = servers[0].1;
        until("the replicas to follow", || {
            servers[0].0.ask::<String>(&["INFO", "replication"]).matches("state=online").count() == 2
        });
        let sentinels: Vec<Sentinel> = (0..3).map(|_| Sentinel::start(primary)).collect();
        until("the Sentinels to know each other and the replicas", || {
            sentinels.iter().all(|sentinel| {
                let info: String = sentinel.ask(&["INFO", "sentinel"]);
                info.contains("slaves=2,sentinels=3")
            })
        });
        Self { servers, sentinels }
    }

    fn redis(&self, min_replicas: u32) -> Redis {
        Redis {
            servers: RedisServers::Sentinel {
                sentinels: self.sentinels.iter().map(Sentinel::url).collect(),
                primary: "mine".to_owned(),
            },
            min_replicas,
            ..at("")
        }
    }

    /// The primary, as the first Sentinel knows it.
    fn primary(&self) -> u16 {
        let address: Vec<String> = self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mine"]);
        address[1].parse().unwrap()
    }
}

/// Revokes without end on both nodes while `fault` happens, and until it has been survived.
fn revoke_during(nodes: &[Arc<Node>; 2], promise: &Arc<Promise>, fault: impl FnOnce()) -> usize {
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let (node, promise, over) = (Arc::clone(node), Arc::clone(promise), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut answered = 0;
                for i in 0.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let jti = format!("{number}-{i}");
                    if let Ok(epoch) = node.revoke(&jti) {
                        promise.hold(&jti, epoch);
                        answered += 1;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                answered
            })
        })
        .collect();
    fault();
    over.store(true, Ordering::SeqCst);
    workers.into_iter().map(|worker| worker.join().unwrap()).sum()
}

#[test]
fn a_failover_while_revoking_loses_nothing_that_a_replica_had() {
    lose_the_primary(1);
}

#[test]
fn a_failover_while_revoking_loses_nothing_that_only_the_nodes_remember() {
    lose_the_primary(0);
}

fn lose_the_primary(min_replicas: u32) {
    if !have("redis-server") {
        return;
    }
    let mut watched = Watched::start();
    let redis = watched.redis(min_replicas);
    let nodes = [Arc::new(Node::ready(&redis)), Arc::new(Node::ready(&redis))];
    let mut registry = nodes[0].registry();
    until("Redis to be believed", || ask(&mut registry, "other", UNUSED) == Answer::Clear);
    let once = inquiry("once", UNUSED);
    assert_eq!(registry.answer(std::slice::from_ref(&once)), [Answer::Clear]);
    let promise = Arc::new(Promise::watch(&[&nodes[0], &nodes[1]]));
    let old = watched.primary();
    let answered = revoke_during(&nodes, &promise, || {
        until("some to be answered", || nodes.iter().all(|node| node.status().events > 20));
        let server = watched.servers.iter_mut().find(|(_, port)| *port == old).unwrap();
        server.0.kill();
        until("the failover", || watched.primary() != old);
        until("the nodes to go on", || {
            nodes.iter().all(|node| node.is_fresh() && !node.status().server.ends_with(&old.to_string()))
        });
    });
    assert!(answered > 40, "{answered}");
    // Every token that was answered is refused, on every node, and known to a new one.
    let promised = promise.names();
    Arc::into_inner(promise).unwrap().kept(&[&nodes[0], &nodes[1]]);
    let new = Node::ready(&redis);
    for jti in promised {
        until("Redis to have it", || status(&new.view, &jti) == Status::Revoked);
    }
    // What was used before is not used again: that is known, or it is known that it may be forgotten.
    until("Redis to be believed", || {
        assert_ne!(registry.answer(std::slice::from_ref(&once)), [Answer::Clear]);
        ask(&mut registry, "newer", UNUSED) == Answer::Clear
    });
    assert_ne!(registry.answer(std::slice::from_ref(&once)), [Answer::Clear]);
}

#[test]
fn a_primary_that_was_deposed_while_stopped_is_not_believed() {
    if !have("redis-server") {
        return;
    }
    let watched = Watched::start();
    let redis = watched.redis(1);
    let nodes = [Arc::new(Node::ready(&redis)), Arc::new(Node::ready(&redis))];
    let promise = Arc::new(Promise::watch(&[&nodes[0], &nodes[1]]));
    let old = watched.primary();
    let server = &watched.servers.iter().find(|(_, port)| *port == old).unwrap().0;
    revoke_during(&nodes, &promise, || {
        until("some to be answered", || nodes.iter().all(|node| node.status().events > 20));
        server.freeze();
        until("the failover", || watched.primary() != old);
        // It wakes up and still takes itself for the primary, until the Sentinels tell it.
        server.thaw();
        until("the nodes to go on", || {
            nodes.iter().all(|node| node.is_fresh() && !node.status().server.ends_with(&old.to_string()))
        });
    });
    Arc::into_inner(promise).unwrap().kept(&[&nodes[0], &nodes[1]]);
}

#[test]
fn a_primary_is_believed_as_long_as_most_sentinels_name_it_and_none_another() {
    if !have("redis-server") {
        return;
    }
    // Two primaries, as on the two sides of a cut in the network, and Sentinels that say what the test wants.
    let ports = [free_port(), free_port()];
    let _servers = ports.map(|port| Server::start_with(&["--port", &port.to_string()]));
    let sentinels = [(); 3].map(|()| Puppet::start(ports[0]));
    let redis = Redis {
        servers: RedisServers::Sentinel {
            sentinels: sentinels.iter().map(Puppet::url).collect(),
            primary: "mine".to_owned(),
        },
        ..at("")
    };
    let node = Node::ready(&redis);
    let epoch = node.revoke("x").unwrap();
    sentinels[2].name(ports[1]);
    until("the doubt", || !node.is_fresh());
    sentinels[2].name(ports[0]);
    node.await_fresh();
    sentinels[0].name(0);
    sentinels[1].name(0);
    until("the doubt", || !node.is_fresh());
    assert!(node.status().connected);
    sentinels[1].name(ports[0]);
    node.await_fresh();
    // The others have agreed on another, and the first, which is asked first, has not heard of it.
    sentinels[0].name(ports[0]);
    sentinels[1].name(ports[1]);
    sentinels[2].name(ports[1]);
    until("the node to follow the other", || node.status().server.ends_with(&ports[1].to_string()));
    sentinels[0].name(ports[1]);
    node.await_fresh();
    until("what it lacked to be there", || node.view.epoch() > epoch);
    assert_eq!(status(&node.view, "x"), Status::Revoked);
}

/// A Sentinel that names the port it was told to, and says nothing while that is 0.
struct Puppet {
    port: u16,
    named: Arc<std::sync::atomic::AtomicU16>,
}

impl Puppet {
    fn start(named: u16) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let named = Arc::new(std::sync::atomic::AtomicU16::new(named));
        let answer = Arc::clone(&named);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    let mut request = [0; 1024];
                    while client.read(&mut request).is_ok_and(|count| count > 0) {
                        let port = answer.load(Ordering::SeqCst).to_string();
                        if port == "0" {
                            return;
                        }
                        let host = "127.0.0.1";
                        let text =
                            format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.len());
                        if client.write_all(text.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, named }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn name(&self, port: u16) {
        self.named.store(port, Ordering::SeqCst);
    }
}
