//! The ways to Redis: with a password, with TLS, in a cluster.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use edgate::cluster::ClusterError;
use edgate::config::{Redis, RedisServers, SecretSource};
use edgate::revocation::{Answer, Asked, Status};
use edgate::store::Listed;

use crate::node::{Node, Promise, ask, at, now, status};
use crate::server::{Server, free_port};
use crate::support::have;
use crate::until;

#[test]
fn with_a_wrong_password_nothing_is_followed_and_the_right_one_needs_no_restart() {
    if !have("redis-server") {
        return;
    }
    // As README.md says, and no more.
    let readme = include_str!("../../README.md");
    let (_, rights) = readme.split_once("user edgate on >… ").unwrap();
    let (rights, _) = rights.split_once("```").unwrap();
    let user: Vec<&str> =
        ["--user", "edgate", "on", ">right"].into_iter().chain(rights.split_whitespace()).collect();
    let server = Server::start_with(&[&["--requirepass", "top"], &user[..]].concat());
    let file = server.dir().join("password");
    let write = |password: &str| {
        fs::write(&file, password).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    };
    write("hunter2\n");
    let redis = Redis {
        username: Some("edgate".to_owned()),
        password: Some(SecretSource::File(file.clone())),
        ..at(&server.url())
    };
    let node = Node::start(redis.clone());
    until("the refusal", || {
        node.status().last_error.is_some_and(|error| error.contains("wrong user or password"))
    });
    let error = node.revoke("x").unwrap_err();
    assert!(matches!(error, ClusterError::Refused { .. }), "{error}");
    for text in [error.to_string(), format!("{:?}", node.status()), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(!node.is_fresh());
    write("right\n");
    node.await_fresh();
    let promise = Promise::watch(&[&node]);
    promise.hold("x", node.revoke_until_answered("x"));
    promise.kept(&[&node]);
    let mut registry = node.registry();
    let everything = Asked { revoked: true, listed: true, unused: true };
    let listed = Listed { tenant: "t", issuer: "i", jti: "y", expires_at: now().saturating_add(600) };
    node.list(&listed).unwrap();
    until("every question to be allowed", || ask(&mut registry, "y", everything) == Answer::Clear);
    assert_eq!(node.status().last_error, None);

    let nobody = Node::start(at(&server.url()));
    until("the refusal", || nobody.status().last_error.is_some_and(|error| error.contains("NOAUTH")));
    // A file that others may read is not used at all.
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let careless = Node::start(redis);
    until("the refusal", || careless.status().last_error.is_some_and(|error| error.contains("0644")));
}

/// An authority, and a certificate for `localhost` that it signed.
fn certify(dir: &Path, name: &str) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(dir.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(&format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}-ca.key -out {name}-ca.pem -days 2 \
         -subj /CN=authority"
    ));
    openssl(&format!(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN=localhost"
    ));
    openssl(&format!(
        "x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -out {name}.pem -days 2 \
         -extfile san"
    ));
}

#[test]
fn over_tls_only_the_right_certificate_is_believed() {
    if !have("redis-server") || !have("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "right");
    certify(dir.path(), "wrong");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let server = Server::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--port",
        "0",
        "--tls-cert-file",
        &path("right.pem"),
        "--tls-key-file",
        &path("right.key"),
        "--tls-auth-clients",
        "no",
    ]);
    let over = |host: &str, authority: &str| Redis {
        ca_file: Some(dir.path().join(authority)),
        ..at(&format!("rediss://{host}:{port}"))
    };
    let node = Node::ready(&over("localhost", "right-ca.pem"));
    node.revoke("x").unwrap();
    assert_eq!(server.ask::<u64>(&["ZCARD", "{edgate}:tokens"]), 1);
    for (redis, problem) in [
        (over("localhost", "wrong-ca.pem"), "certificate"),
        (over("localhost", "missing.pem"), "missing.pem"),
        // Without TLS the server hangs up, or says nothing we understand.
        (at(&format!("redis://localhost:{port}")), "Redis"),
    ] {
        let deceived = Node::start(redis);
        until("the refusal", || deceived.status().last_error.is_some());
        let error = deceived.status().last_error.unwrap();
        assert!(error.contains(problem), "{error}");
        assert!(!deceived.is_fresh());
        deceived.revoke("y").unwrap_err();
    }
}

#[test]
fn in_a_cluster_the_node_that_holds_the_slot_is_found_and_found_again() {
    if !have("redis-server") {
        return;
    }
    let start = || {
        let port = free_port();
        let bus = free_port().to_string();
        let arguments = ["--cluster-enabled", "yes", "--port", &port.to_string(), "--cluster-port", &bus]
            .map(str::to_owned);
        let server = Server::start_with(&arguments.each_ref().map(String::as_str));
        (server, port, bus)
    };
    let ((first, first_port, bus), (second, second_port, _)) = (start(), start());
    first.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    second.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    second.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &first_port.to_string(), &bus]);
    until("the cluster to form", || {
        [&first, &second]
            .iter()
            .all(|one| one.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    });
    // Two namespaces whose slots lie on different nodes, both asked for at either.
    let mut held = [0, 0];
    for namespace in ["a", "b", "c", "d", "e", "f"] {
        for port in [first_port, second_port] {
            let redis = Redis {
                servers: RedisServers::Cluster(vec![format!("redis://127.0.0.1:{port}")]),
                namespace: namespace.to_owned(),
                ..at("")
            };
            let node = Node::ready(&redis);
            node.revoke(&format!("x{port}")).unwrap();
        }
        let new = Node::ready(&Redis {
            servers: RedisServers::Cluster(vec![
                "redis://127.0.0.1:1".to_owned(),
                format!("redis://127.0.0.1:{first_port}"),
            ]),
            namespace: namespace.to_owned(),
            ..at("")
        });
        assert_eq!(status(&new.view, &format!("x{first_port}")), Status::Revoked);
        assert_eq!(status(&new.view, &format!("x{second_port}")), Status::Revoked);
        let key = format!("{{{namespace}}}:tokens");
        held[usize::from(first.try_ask::<u64>(&["ZCARD", &key]).is_err())] += 1;
    }
    assert!(held[0] > 0 && held[1] > 0, "{held:?}");
}

#[test]
fn a_server_that_throws_keys_away_is_not_trusted_with_them() {
    if !have("redis-server") {
        return;
    }
    let server = Server::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let node = Node::start(at(&server.url()));
    until("the refusal", || node.status().last_error.is_some_and(|error| error.contains("allkeys-lru")));
    assert!(!node.is_fresh());
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    node.await_fresh();
}
