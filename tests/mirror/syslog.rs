//! Syslog, over every way it goes.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate::config::{self, HostPort};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::receiver::Receiver;
use crate::source::{Source, check};
use crate::support::{Edgate, edgate, have};
use crate::until;

fn to(receiver: config::Receiver) -> config::Mirror {
    let timeout = Duration::from_millis(500);
    let syslog = config::Syslog { receiver, ca_file: None, certificate: None, timeout };
    config::Mirror { syslog: Some(syslog), redis: None }
}

fn at(address: SocketAddr) -> HostPort {
    HostPort { host: address.ip().to_string(), port: address.port() }
}

fn tcp(receiver: &Receiver) -> config::Mirror {
    to(config::Receiver::Tcp(at(receiver.address)))
}

/// The number that a message states.
fn seq(line: &str) -> u64 {
    let (_, rest) = line.split_once("seq=\"").unwrap();
    rest.split_once('"').unwrap().0.parse().unwrap()
}

#[test]
fn what_is_durable_arrives_in_order_and_the_copy_proves_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(dir.path());
    source.grow(300);
    let receiver = Receiver::start();
    source.mirror_to(&tcp(&receiver));
    until("the old records to arrive", || receiver.count() >= 300);
    source.grow(300);
    until("a checkpoint of them to arrive", || check(receiver.lines()).proven_to > 600);
    let lines = receiver.lines();
    assert!(lines.iter().enumerate().all(|(place, line)| seq(line) == place as u64), "in order, once");
    let report = check(&lines);
    assert!(report.breaks.is_empty() && report.proven_from == 0 && report.proven_to > 600, "{report:?}");
    assert_eq!(report.without_header, 0);
    // One taken out of the SIEM is missed there.
    let without = lines.iter().filter(|line| seq(line) != 17);
    assert_eq!(check(without).exit_code(), 3);
    assert_eq!(source.status().error, None);
    source.close();
}

#[test]
fn a_local_relay_and_a_datagram_receiver_get_one_message_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut source = Source::open(&dir.path().join("audit"));
    source.grow(50);
    source.mirror_to(&to(config::Receiver::Unix(path)));
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut buffer = vec![0; 65536];
    let received: Vec<String> = (0..50)
        .map(|_| {
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        })
        .collect();
    assert!(received.iter().enumerate().all(|(place, line)| seq(line) == place as u64));
    source.close();

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut source = Source::open(&dir.path().join("other"));
    source.grow(20);
    source.mirror_to(&to(config::Receiver::Udp(at(socket.local_addr().unwrap()))));
    for expected in 0..20 {
        let len = socket.recv(&mut buffer).unwrap();
        assert_eq!(seq(std::str::from_utf8(&buffer[..len]).unwrap()), expected);
    }
    source.close();
}

#[test]
fn a_receiver_that_ends_in_the_middle_of_a_message_gets_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(dir.path());
    source.grow(200);
    let receiver = Receiver::start();
    // The first connections end somewhere inside of what is sent, mostly inside a message.
    receiver.cut_after(33_333);
    source.mirror_to(&tcp(&receiver));
    until("some broken connections", || receiver.accepted() >= 3);
    source.grow(50);
    receiver.cut_after(0);
    let wanted = source.durable();
    until("everything to arrive", || receiver.lines().last().is_some_and(|line| seq(line) + 1 >= wanted));
    assert!(receiver.halves() > 0);
    let report = check(receiver.lines());
    assert!(report.breaks.is_empty() && report.repeated > 0, "{report:?}");
    assert!(source.status().failures >= 2);

    // Its process ends, and another one begins at the same place.
    let address = receiver.address;
    let mut lines = receiver.kill();
    source.grow(30);
    until("the loss to be seen", || source.status().error.is_some());
    let error = source.status().error.unwrap();
    assert!(error.contains(&address.to_string()), "{error}");
    let again = Receiver::start_at(address, None);
    let wanted = source.durable();
    until("everything to arrive", || again.lines().last().is_some_and(|line| seq(line) + 1 >= wanted));
    lines.extend(again.lines());
    let report = check(&lines);
    assert!(report.breaks.is_empty() && report.records >= wanted, "{report:?}");
    source.close();
}

#[test]
fn a_receiver_that_reads_nothing_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(dir.path());
    let receiver = Receiver::start();
    receiver.be_deaf(true);
    source.mirror_to(&tcp(&receiver));
    // More than fits into the buffers between the two.
    let before = Instant::now();
    source.grow(12_000);
    let took = before.elapsed();
    until("the mirror to give up waiting", || source.status().failures > 0);
    assert!(source.status().lag > 0, "{:?}", source.status());
    let error = source.status().error.unwrap_or_default();
    assert!(error.is_empty() || error.contains("in time"), "{error}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    receiver.be_deaf(false);
    let wanted = source.durable();
    until("everything to arrive", || receiver.lines().last().is_some_and(|line| seq(line) + 1 >= wanted));
    until("nothing to be behind", || source.status().lag == 0);
    let report = check(receiver.lines());
    assert!(report.breaks.is_empty(), "{report:?}");
    source.close();
}

#[test]
fn a_mirror_goes_on_where_it_stood_and_says_what_the_log_no_longer_has() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut source = Source::open(dir.path());
    source.grow(100);
    source.mirror_to(&tcp(&receiver));
    until("everything to arrive", || receiver.count() as u64 >= source.durable());
    source.stop_mirror();
    let stood = receiver.count();
    // It ended in order, so nothing is repeated.
    source.grow(100);
    source.mirror_to(&tcp(&receiver));
    until("the rest to arrive", || receiver.count() as u64 >= source.durable());
    assert_eq!(seq(&receiver.lines()[stood]), stood as u64);
    // While it is away the log rolls on, and retention removes what it did not take.
    source.stop_mirror();
    source.grow(3000);
    source.close();
    let stood = receiver.lines().last().map(|line| seq(line) + 1).unwrap();
    let mut segments: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    segments[..2].iter().for_each(|path| fs::remove_file(path).unwrap());
    let mut source = Source::open(dir.path());
    let first = source.entries()[0].header.seq;
    assert!(first > stood);
    source.mirror_to(&tcp(&receiver));
    let wanted = source.durable();
    until("the rest to arrive", || receiver.lines().last().is_some_and(|line| seq(line) + 1 >= wanted));
    assert_eq!(source.status().missing, first - stood);
    let lines = receiver.lines();
    let gap = lines.iter().find(|line| line.contains("mirror_gap")).unwrap();
    assert!(gap.contains(&format!("from=\"{stood}\" to=\"{first}\"")), "{gap}");
    let report = check(&lines);
    assert_eq!((report.exit_code(), report.breaks[0].seq), (3, stood), "{report:?}");
    assert!(report.breaks[0].detail.contains("as the mirror said"), "{report:?}");
    let said = source.entries().iter().any(|entry| entry.json().contains("mirror_gap"));
    assert!(said, "the log says it too");
    source.close();
}

#[test]
fn a_log_that_has_less_than_was_mirrored_is_not_mirrored_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("old"));
    let receiver = Receiver::start();
    let mut source = Source::open(&log);
    source.grow(20);
    source.close();
    let copy = |from: &Path, to: &Path| {
        let output = Command::new("cp").args(["-a"]).arg(from).arg(to).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    copy(&log, &old);
    let mut source = Source::open(&log);
    source.mirror_to(&tcp(&receiver));
    source.grow(100);
    until("everything to arrive", || receiver.count() as u64 >= source.durable());
    source.close();
    let sent = receiver.count();
    // An image of yesterday, and only the place of today.
    fs::copy(log.join("mirror-syslog.place"), old.join("mirror-syslog.place")).unwrap();
    let mut source = Source::open(&old);
    source.grow(5);
    source.mirror_to(&tcp(&receiver));
    until("the mirror to refuse", || source.status().error.is_some());
    assert!(source.status().error.unwrap().contains("rolled back"));
    // Also once it has as many records again: they are others.
    source.grow(200);
    until("the mirror to refuse", || {
        source.status().error.is_some_and(|error| error.contains("does not continue"))
    });
    assert_eq!(receiver.count(), sent);
    source.close();
}

/// An authority, and certificates for `localhost` and for a client that it signed.
fn certify(dir: &Path, name: &str) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(dir.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(&format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}-ca.key -out {name}-ca.pem -days 2 \
         -subj /CN=authority"
    ));
    for (who, subject) in [("server", "localhost"), ("client", "node")] {
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}-{who}.key -out {name}-{who}.csr -subj \
             /CN={subject}"
        ));
        openssl(&format!(
            "x509 -req -in {name}-{who}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -out {name}-{who}.pem \
             -days 2 -extfile san"
        ));
    }
}

#[test]
fn over_tls_only_the_right_receiver_gets_anything_and_only_the_right_client_is_let_in() {
    if !have("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path(), "right");
    certify(dir.path(), "wrong");
    let file = |name: &str| dir.path().join(name);
    let mut authorities = RootCertStore::empty();
    authorities.add(CertificateDer::from_pem_file(file("right-ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file("right-server.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(file("right-server.key")).unwrap(),
        )
        .unwrap();
    let receiver = Receiver::start_at("127.0.0.1:0".parse().unwrap(), Some(Arc::new(config)));
    let settings = |host: &str, authority: &str, client: Option<&str>| {
        let at = HostPort { host: host.to_owned(), port: receiver.address.port() };
        let mut mirror = to(config::Receiver::Tls(at));
        let syslog = mirror.syslog.as_mut().unwrap();
        syslog.ca_file = Some(file(authority));
        syslog.certificate =
            client.map(|name| (file(&format!("{name}-client.pem")), file(&format!("{name}-client.key"))));
        mirror
    };
    for (number, (wrong, problem)) in [
        (settings("localhost", "wrong-ca.pem", Some("right")), "certificate"),
        (settings("127.0.0.1", "right-ca.pem", Some("right")), "certificate"),
        (settings("localhost", "missing.pem", Some("right")), "missing.pem"),
        (settings("localhost", "right-ca.pem", Some("missing")), "missing-client"),
        // Refused after the handshake, as TLS 1.3 has it: by an alert, or by the end of the connection.
        (settings("localhost", "right-ca.pem", None), ""),
        (settings("localhost", "right-ca.pem", Some("wrong")), ""),
        (to(config::Receiver::Tcp(at(receiver.address))), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut source = Source::open(&dir.path().join(format!("wrong-{number}")));
        source.grow(5);
        source.mirror_to(&wrong);
        until("the refusal", || source.status().error.is_some_and(|error| error.contains(problem)));
        assert_eq!(receiver.count(), 0);
        source.close();
    }
    let mut source = Source::open(&dir.path().join("right"));
    source.grow(300);
    source.mirror_to(&settings("localhost", "right-ca.pem", Some("right")));
    until("a checkpoint of them to arrive", || check(receiver.lines()).proven_to > 300);
    let report = check(receiver.lines());
    assert!(report.breaks.is_empty(), "{report:?}");
    source.close();
}

#[test]
fn a_daemon_mirrors_its_decisions_and_the_command_verifies_the_copy() {
    let receiver = Receiver::start();
    let mut node =
        Edgate::start_more(&format!("[audit.mirror.syslog]\nurl = \"tcp://{}\"\n", receiver.address));
    let good = node.issuer.token("zebra-77");
    assert_eq!(node.forward(&good).status, 200);
    assert_eq!(node.forward("junk").status, 401);
    until("the decisions to arrive", || {
        receiver.lines().iter().filter(|line| line.contains("kind=\"decision\"")).count() == 2
    });
    let decided: Vec<String> =
        receiver.lines().into_iter().filter(|line| line.contains("kind=\"decision\"")).collect();
    assert!(
        decided[0].contains("decision=\"accepted\"") && decided[0].contains("tenant=\"acme\""),
        "{}",
        decided[0]
    );
    assert!(decided[0].contains("subject=\"") && decided[0].contains("jti=\""), "tags");
    assert!(decided[1].contains("decision=\"rejected\" reason=\"token_malformed\""), "{}", decided[1]);
    for line in &decided {
        assert!(!line.contains("agent-7") && !line.contains("zebra") && !line.contains("someone"), "{line}");
    }
    assert!(node.control_get("/readyz").body.contains("mirror_syslog"));
    until("nothing to be behind", || {
        node.metric("mirror_syslog_connected") > 0.0 && node.metric("mirror_syslog_lag_records") < 10.0
    });
    // Nothing depends on it.
    let address = receiver.address;
    let mut lines = receiver.kill();
    until("the loss to be seen", || {
        node.forward(&good);
        node.metric("mirror_syslog_failures_total") > 0.0
    });
    assert_eq!(node.forward(&good).status, 200);
    assert_eq!(node.control_get("/readyz").status, 200);
    let again = Receiver::start_at(address, None);
    until("the mirror to be back", || again.count() > 0);
    assert!(node.terminate().success());
    lines.extend(again.lines());
    let file = node.dir.path().join("copy");
    let key = node.audit_dir().join("checkpoint.key");
    let verify = |lines: &[String]| {
        fs::write(&file, lines.join("\n")).unwrap();
        let output = edgate(
            &["audit", "verify-mirror", file.to_str().unwrap(), "--key", key.to_str().unwrap(), "--json"],
            b"",
        );
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let (code, report) = verify(&lines);
    assert_eq!((code, &report["valid"]), (Some(0), &true.into()), "{report}");
    let at = lines.iter().position(|line| *line == decided[1]).unwrap();
    let altered = decided[1].replace("kind=\"decision\"", "kind=\"stop\"");
    lines.retain(|line| *line != decided[1]);
    assert_eq!(verify(&lines).0, Some(3));
    lines.insert(at, altered);
    assert_eq!(verify(&lines).0, Some(1));
}
