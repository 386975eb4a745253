//! TLS on the data listener, its key in the token: clients as they are, hot swap, tickets, and tokens that hang.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::*;
use support::Connection;

/// An authority of the test's own, and the node's certificate by it.
pub(super) struct Pki<'a> {
    pub(super) stage: &'a Stage,
}

impl<'a> Pki<'a> {
    fn new(stage: &'a Stage) -> Self {
        let pki = Self { stage };
        pki.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=test authority",
            "-days",
            "30",
        ]);
        pki
    }

    fn openssl(&self, arguments: &[&str]) -> Output {
        let output =
            Command::new("openssl").current_dir(self.stage.dir.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
        output
    }

    fn key_uri(&self, name: &str) -> String {
        let pin = self.stage.path("pin");
        format!("{};object=edgate%2Ftls-server%2F{name}?pin-source=file:{}", self.stage.token, pin.display())
    }

    fn keygen(&self, name: &str, algorithm: &str) {
        let (token, pin) = (&self.stage.token, self.stage.path("pin"));
        let uri = format!("{token}?pin-source=file:{}", pin.display());
        let output =
            self.hsm(&["keygen", &uri, "--purpose", "tls-server", "--name", name, "--algorithm", algorithm]);
        assert!(output.status.success(), "{output:?}");
    }

    fn hsm(&self, arguments: &[&str]) -> Output {
        let module = self.stage.real.display().to_string();
        let state = self.stage.dir.path().display().to_string();
        let mut all = vec!["hsm"];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&["--module", &module, "--state", &state]);
        self.stage.edgate(&all)
    }

    /// Has the key's request signed: the certificate `chain.pem`.
    fn certify(&self, name: &str, days: &str) {
        let made = self.hsm(&[
            "csr",
            &self.key_uri(name),
            "--dns",
            "edgate.test",
            "--dns",
            "localhost",
            "--ip",
            "127.0.0.1",
        ]);
        assert!(made.status.success(), "{made:?}");
        fs::write(self.stage.path("request.pem"), &made.stdout).unwrap();
        let verified = self.openssl(&["req", "-in", "request.pem", "-verify", "-noout"]);
        assert!(String::from_utf8_lossy(&verified.stderr).contains("OK"), "{verified:?}");
        self.sign(days);
    }

    /// Has `request.pem` signed: the certificate `chain.pem`.
    fn sign(&self, days: &str) {
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-copy_extensions",
            "copy",
            "-days",
            days,
            "-out",
            "leaf.pem",
        ]);
        fs::rename(self.stage.path("leaf.pem"), self.stage.path("chain.pem")).unwrap();
    }

    /// Makes the stage's configuration listen for TLS, with the key `name`.
    fn configure(&self, name: &str, more: &str) -> PathBuf {
        let config = self.stage.path("edgate.toml");
        let text = fs::read_to_string(&config).unwrap();
        let from = text.find("[server]").unwrap();
        let to = text.find("[control]").unwrap();
        let server = format!(
            "[server]\nlisten = [\"127.0.0.1:0\", \"tls:127.0.0.1:0\"]\nshards = 2\n[server.tls]\ncertificate_file = {:?}\n\
             key = \"pkcs11:object=edgate%2Ftls-server%2F{name}\"\n{more}\n",
            self.stage.path("chain.pem")
        );
        fs::write(&config, format!("{}{server}{}", &text[..from], &text[to..])).unwrap();
        config
    }

    /// Where the daemon listens for TLS.
    pub(super) fn place(&self) -> SocketAddr {
        let said = self.stage.said();
        let place = said.lines().rev().find_map(|line| line.split_once("place=tls:")).unwrap().1;
        place.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub(super) fn client(&self, resumption: Resumption) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.stage.path("ca.pem")).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = resumption;
        Arc::new(config)
    }
}

pub(super) fn connect(
    client: &Arc<ClientConfig>,
    place: SocketAddr,
) -> std::io::Result<(HandshakeKind, Vec<u8>, Connection)> {
    let mut socket = TcpStream::connect(place)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("edgate.test").unwrap();
    let mut session = ClientConnection::new(Arc::clone(client), name).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    let certificate = session.peer_certificates().unwrap()[0].to_vec();
    let kind = session.handshake_kind().unwrap();
    Ok((kind, certificate, Connection::over(StreamOwned::new(session, socket))))
}

pub(super) fn request(token: &str) -> String {
    format!("GET /auth/nginx HTTP/1.1\r\nHost: edgate.test\r\nAuthorization: Bearer {token}\r\n\r\n")
}

/// A stage with keys, a certificate and a configuration.
pub(super) fn staged(faults: bool, more: &str, hsm: &str) -> Option<Stage> {
    if !have("openssl") {
        return None;
    }
    let stage = Stage::new(faults)?;
    stage.configure(hsm, "");
    let pki = Pki::new(&stage);
    pki.keygen("1", "p256");
    pki.certify("1", "30");
    pki.configure("1", more);
    Some(stage)
}

#[test]
fn openssl_and_curl_shake_hands_with_a_key_in_the_token() {
    if !have("curl") {
        return;
    }
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let token = stage.issuer.token("a");
    for algorithm in ["p256", "ed25519"] {
        if algorithm == "ed25519" {
            pki.keygen("2", algorithm);
            pki.certify("2", "30");
            pki.configure("2", "");
        }
        let checked = stage.edgate(&["check-config", stage.path("edgate.toml").to_str().unwrap()]);
        assert!(checked.status.success(), "{checked:?}");
        let daemon = stage.start();
        let place = pki.place().to_string();
        for version in ["-tls1_3", "-tls1_2"] {
            let mut client = Command::new("openssl")
                .args([
                    "s_client",
                    "-connect",
                    &place,
                    "-servername",
                    "edgate.test",
                    "-verify_hostname",
                    "edgate.test",
                ])
                .args([
                    "-CAfile",
                    stage.path("ca.pem").to_str().unwrap(),
                    "-verify_return_error",
                    "-quiet",
                    version,
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let asked = request(&token).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            client.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
            let output = client.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.starts_with("HTTP/1.1 200 "), "{algorithm} {version}: {output:?}");
        }
        let output = Command::new("curl")
            .args(["-sS", "--cacert", stage.path("ca.pem").to_str().unwrap(), "-H"])
            .arg(format!("Authorization: Bearer {token}"))
            .args(["-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}"])
            .arg(format!("https://localhost:{}/auth/nginx", pki.place().port()))
            .arg("--resolve")
            .arg(format!("localhost:{}:127.0.0.1", pki.place().port()))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200 0", "{output:?}");
        assert!(daemon.metric("tls_handshakes_full_total") >= 3.0);
        assert!(daemon.metric("tls_signatures_total") >= 3.0);
        assert!(daemon.get(daemon.control, "/readyz", "").body.contains("the certificate ends in 29 days"));
        daemon.terminate();
    }
}

#[test]
fn requests_of_every_size_go_through_and_keep_their_order() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::disabled());
    let (_, _, mut connection) = connect(&client, pki.place()).unwrap();
    let (good, bad) = (stage.issuer.token("a"), "no.token.this");
    // Pipelined: many in one record, and many records.
    let order: Vec<bool> = (0..400).map(|number| number % 3 != 0).collect();
    let all: String = order.iter().map(|is_good| request(if *is_good { &good } else { bad })).collect();
    connection.send(all.as_bytes());
    for is_good in &order {
        assert_eq!(connection.receive().unwrap().status, if *is_good { 200 } else { 401 });
    }
    // A body of many records, and an answer of many.
    let tokens: Vec<String> = (0..250).map(|number| stage.issuer.token(&format!("many-{number}"))).collect();
    let body = json!({"tokens": tokens, "claims": true});
    assert!(body.to_string().len() > 50_000);
    connection.send(support::post_request("/v1/tokens/verify", &body).as_bytes());
    let answer = connection.receive().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let results = answer.json();
    assert_eq!(results["results"].as_array().unwrap().len(), 250);
    // The connection is what a connection is: a second of idleness changes nothing, and its end is said.
    connection.send(request(&good).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes());
    assert_eq!(connection.receive().unwrap().status, 200);
    assert!(connection.is_closed());
    daemon.terminate();
}

#[test]
fn a_ticket_spares_the_signature_even_while_the_token_is_away() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::in_memory_sessions(8));
    let token = stage.issuer.token("a");
    let ask = || {
        let (kind, _, mut connection) = connect(&client, pki.place())?;
        connection.send(request(&token).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
        Ok::<_, std::io::Error>(kind)
    };
    assert_eq!(ask().unwrap(), HandshakeKind::Full);
    let signatures = daemon.metric("tls_signatures_total");
    for _ in 0..20 {
        assert_eq!(ask().unwrap(), HandshakeKind::Resumed);
    }
    assert!((daemon.metric("tls_signatures_total") - signatures).abs() < 0.5, "a ticket needs none");
    assert!(daemon.metric("tls_handshakes_resumed_total") >= 20.0);
    fs::rename(stage.path("tokens"), stage.path("away")).unwrap();
    let stranger = pki.client(Resumption::disabled());
    until("the refusal", || connect(&stranger, pki.place()).is_err());
    assert_eq!(ask().unwrap(), HandshakeKind::Resumed);
    assert_eq!(daemon.verify(&token), 200);
    daemon.terminate();
}

#[test]
fn a_token_that_hangs_stops_new_handshakes_alone() {
    let Some(stage) =
        staged(true, "handshake_timeout_ms = 1000", "sign_timeout_ms = 300\nhang_limit_ms = 500")
    else {
        return;
    };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::disabled());
    let token = stage.issuer.token("a");
    let (_, _, mut established) = connect(&client, pki.place()).unwrap();
    let known = pki.client(Resumption::in_memory_sessions(8));
    for _ in 0..2 {
        let (_, _, mut connection) = connect(&known, pki.place()).unwrap();
        connection.send(request(&token).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    stage.faults("C_Sign hang\n");
    // More than there are threads for, each of which waits for a signature that does not come.
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let (client, place) = (Arc::clone(&client), pki.place());
            std::thread::spawn(move || connect(&client, place).is_err())
        })
        .collect();
    until("handshakes under way", || daemon.metric("tls_handshakes_under_way") > 8.0);
    // The shards know nothing of it, nor do clients with tickets.
    assert_eq!(connect(&known, pki.place()).unwrap().0, HandshakeKind::Resumed);
    for _ in 0..200 {
        established.send(request(&token).as_bytes());
        assert_eq!(established.receive().unwrap().status, 200);
        assert_eq!(daemon.verify(&token), 200);
    }
    assert!(waiting.into_iter().all(|thread| thread.join().unwrap()), "no handshake can have been completed");
    stage.faults("");
}

#[test]
fn clients_that_send_nothing_or_nonsense_keep_nobody_else_waiting() {
    let Some(stage) = staged(false, "handshake_timeout_ms = 2000\nhandshake_threads = 1", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::disabled());
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(pki.place()).unwrap()).collect();
    let mut started = TcpStream::connect(pki.place()).unwrap();
    // The beginning of a record, and no more.
    started.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    for nonsense in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 600], &[22, 3, 1, 0xff, 0xff], &vec![0xff; 70_000]]
    {
        let mut stream = TcpStream::connect(pki.place()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(nonsense);
        let mut answer = Vec::new();
        // An alert, a reset or nothing; and the end, by the server's clock at the latest.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 64, "{answer:?}");
    }
    for _ in 0..20 {
        let (_, _, mut connection) = connect(&client, pki.place()).unwrap();
        connection.send(request(&stage.issuer.token("a")).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    for mut stream in idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "closed by the clock");
    }
    assert!(daemon.metric("tls_handshakes_failed_total") >= 200.0);
    until("none under way", || daemon.metric("tls_handshakes_under_way").abs() < 0.5);
    daemon.terminate();
}

#[test]
fn a_certificate_whose_key_does_not_sign_now_is_not_put_in_place_of_one_that_works() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let control = format!("http://{}", daemon.control);
    pki.certify("1", "20");
    fs::rename(stage.path("tokens"), stage.path("away")).unwrap();
    until("the refusal", || connect(&pki.client(Resumption::disabled()), pki.place()).is_err());
    let refused = stage.edgate(&["tls", "reload", "--control", &control]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        text.contains("the certificate in use stays: ") && text.contains("pkcs11:token=edgate"),
        "{text}"
    );
    assert!(daemon.metric("tls_certificate_replaced_total").abs() < 0.5);
}

/// The end of a session in the middle of a read, and more behind it: what comes then is nobody's, and nobody looks at it for ever.
#[test]
fn what_comes_behind_the_end_of_a_session_is_not_looked_at() {
    let Some(stage) = staged(false, "handshake_threads = 1", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::disabled());
    // One record of the greatest length, the end, and junk: at whatever read the end is met, there is more in that read.
    let end_of = |session: &mut ClientConnection, blob: &mut Vec<u8>| {
        session.set_buffer_limit(None);
        session.writer().write_all(&[b'x'; 16384]).unwrap();
        session.send_close_notify();
        while session.wants_write() {
            session.write_tls(blob).unwrap();
        }
        blob.extend([0x17; 3 * 4096]);
    };
    for round in 0..40 {
        let mut socket = TcpStream::connect(pki.place()).unwrap();
        let name = ServerName::try_from("edgate.test").unwrap();
        let mut session = ClientConnection::new(Arc::clone(&client), name).unwrap();
        let mut blob = Vec::new();
        while session.is_handshaking() {
            if round % 2 == 0 {
                session.complete_io(&mut socket).unwrap();
            } else {
                // The client's last word of the handshake is kept for the blob.
                while session.wants_write() {
                    session.write_tls(&mut socket).unwrap();
                }
                session.read_tls(&mut socket).unwrap();
                session.process_new_packets().unwrap();
            }
        }
        end_of(&mut session, &mut blob);
        let _ = socket.write_all(&blob);
    }
    // Both shards and the one thread of the handshakes are there.
    for _ in 0..20 {
        let (_, _, mut connection) = connect(&client, pki.place()).unwrap();
        connection.send(request(&stage.issuer.token("a")).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    daemon.terminate();
}

#[test]
fn a_certificate_is_replaced_under_load_and_a_wrong_one_is_not() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let daemon = stage.start();
    let client = pki.client(Resumption::disabled());
    let control = daemon.control.to_string();
    let token = stage.issuer.token("a");
    let reload = || stage.edgate(&["tls", "reload", "--json", "--control", &format!("http://{control}")]);
    let (_, first, mut before) = connect(&client, pki.place()).unwrap();

    // Nothing changed: nothing to record.
    let same = reload();
    assert!(same.status.success(), "{same:?}");
    let answer: Value = serde_json::from_slice(&same.stdout).unwrap();
    assert!(answer["id"].is_null(), "{answer}");

    // Of another key, not valid any more, no certificate: the one in use stays.
    let chain = fs::read(stage.path("chain.pem")).unwrap();
    pki.keygen("2", "p256");
    pki.certify("2", "30");
    let other = fs::read(stage.path("chain.pem")).unwrap();
    pki.certify("1", "0");
    let expired = fs::read(stage.path("chain.pem")).unwrap();
    for wrong in [&other[..], &expired, b"no certificate", &chain[..chain.len() / 2]] {
        fs::write(stage.path("chain.pem"), wrong).unwrap();
        let refused = reload();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("the certificate in use stays"),
            "{refused:?}"
        );
        assert_eq!(connect(&client, pki.place()).unwrap().1, first);
    }

    // Another certificate and another key, while handshakes go on.
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let second = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (_, _, mut connection) = connect(&client, pki.place()).expect("no handshake fails");
                    connection.send(request(&token).as_bytes());
                    assert_eq!(connection.receive().unwrap().status, 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for name in ["2", "1", "2"] {
            pki.certify(name, "30");
            pki.configure(name, "");
            let reloaded = reload();
            assert!(reloaded.status.success(), "{reloaded:?}\n{}", stage.said());
            let begun = done.load(Ordering::Relaxed);
            until("more handshakes", || done.load(Ordering::Relaxed) > begun + 20);
        }
        stop.store(true, Ordering::Relaxed);
        connect(&client, pki.place()).unwrap().1
    });
    assert_ne!(first, second);
    // What was begun with the first certificate goes on.
    before.send(request(&token).as_bytes());
    assert_eq!(before.receive().unwrap().status, 200);
    assert!((daemon.metric("tls_certificate_replaced_total") - 3.0).abs() < 0.5);
    let shown = stage.edgate(&["tls", "show", "--control", &format!("http://{control}")]);
    let fingerprint = edgate::audit::hex(&<[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&second)));
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&fingerprint), "{shown:?}");
    daemon.terminate();
    verify_log(&stage.path("audit"));
    let tail = stage.edgate(&[
        "audit",
        "tail",
        "--json",
        "-n",
        "100000",
        "--dir",
        stage.path("audit").to_str().unwrap(),
    ]);
    let recorded =
        String::from_utf8_lossy(&tail.stdout).lines().filter(|line| line.contains("server.tls")).count();
    assert_eq!(recorded, 6, "three times intent and outcome");
}

#[test]
fn a_start_with_a_certificate_of_another_key_is_refused_and_one_without_the_token_is_not() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    pki.keygen("2", "p256");
    pki.configure("2", "");
    let (mut child, listening) = support::serve(stage.command(EDGATE), stage.dir.path());
    assert!(listening.is_none());
    child.wait().unwrap();
    assert!(stage.said().contains("has another public key than the one pinned"), "{}", stage.said());

    pki.configure("1", "");
    fs::rename(stage.path("tokens"), stage.path("away")).unwrap();
    fs::create_dir(stage.path("tokens")).unwrap();
    let daemon = stage.start();
    assert_eq!(daemon.verify(&stage.issuer.token("a")), 200, "the other listeners need no token");
    assert!(connect(&pki.client(Resumption::disabled()), pki.place()).is_err());
    daemon.terminate();
}

#[test]
fn a_key_in_a_file_serves_as_well_unless_others_can_read_it() {
    let Some(stage) = staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    let config = stage.path("edgate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let key = format!("key_file = {:?}", stage.path("tls.key"));
    fs::write(&config, text.replace("key = \"pkcs11:object=edgate%2Ftls-server%2F1\"", &key)).unwrap();
    let checked = || stage.edgate(&["check-config", config.to_str().unwrap()]);
    let refused = |problem: &str| {
        let output = checked();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(problem), "{problem}: {output:?}");
    };
    refused("No such file");
    for algorithm in [&["rsa:2048"][..], &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &["ed25519"]] {
        let mut arguments =
            vec!["req", "-new", "-nodes", "-keyout", "tls.key", "-out", "request.pem", "-subj", "/"];
        arguments.extend_from_slice(&["-addext", "subjectAltName=DNS:edgate.test", "-newkey"]);
        arguments.extend_from_slice(algorithm);
        pki.openssl(&arguments);
        pki.sign("30");
        fs::set_permissions(stage.path("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let output = checked();
        assert!(output.status.success(), "{output:?}");
        let daemon = stage.start();
        let (_, _, mut connection) = connect(&pki.client(Resumption::disabled()), pki.place()).unwrap();
        connection.send(request(&stage.issuer.token("a")).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
        daemon.terminate();
    }
    fs::set_permissions(stage.path("tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused("mode 0644 lets others read it");
    fs::set_permissions(stage.path("tls.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(checked().status.success());
    fs::write(stage.path("tls.key"), "no key").unwrap();
    refused("there is no private key in PEM in it");
    pki.openssl(&["genpkey", "-algorithm", "ed25519", "-out", "tls.key"]);
    fs::set_permissions(stage.path("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
    refused("the certificate is of another key");
    fs::write(stage.path("chain.pem"), "").unwrap();
    refused("there is no certificate");
}

#[test]
fn a_request_for_a_certificate_is_made_of_tls_keys_alone() {
    let Some(stage) = Stage::new(false) else { return };
    let pki = Pki { stage: &stage };
    stage.keygen("token-signing");
    let pin = stage.path("pin");
    let uri = format!("{};object=edgate%2Ftoken-signing%2F1?pin-source=file:{}", stage.token, pin.display());
    let refused = pki.hsm(&["csr", &uri, "--dns", "edgate.test"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no tls-server key"), "{refused:?}");
    pki.keygen("1", "p256");
    let nameless = pki.hsm(&["csr", &pki.key_uri("1")]);
    assert!(
        String::from_utf8_lossy(&nameless.stderr).contains("say what clients call this node"),
        "{nameless:?}"
    );
    let wrong = pki.hsm(&["csr", &pki.key_uri("1"), "--dns", "über.test"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
