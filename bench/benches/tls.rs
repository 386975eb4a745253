//! Full TLS 1.3 handshakes with the key in a token, against what the token signs when nothing else is done.
//!
//! `cargo bench -p edgate-bench --bench tls`. Needs SoftHSM; makes its own token in a temporary folder. Three contestants in turn:
//! bare `C_Sign` loops on the P-256 key with as many threads as are best; the server's first flight (key exchange, signature through
//! the pool, its check, everything but the sockets), from hellos made before; and whole handshakes over loopback, whose clients take
//! their part of the same cores, though they check nothing. Once with SoftHSM as it is, whose arithmetic takes those cores too, and once
//! with 5 ms added to each of its signatures, as if the token had a processor of its own and a wire to it.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used, reason = "a bench")]

#[path = "../../hsm/tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edgate::tls::{
    Acceptor, Certificate, Identity, Settings, TlsKey, TlsMetrics, ecdsa_signature, inbox, signing_until,
};
use edgate_bench::load::summary::median;
use edgate_bench::ratio::Ratio;
use edgate_hsm::{
    Admin, Algorithm, GeneratedKey, Pkcs11Uri, Pool, PoolSettings, PublicKey, Purpose, TlsServer,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
};
use support::{Stage, soon, stage_with_faults};

const ROUNDS: usize = 15;
const LASTING: Duration = Duration::from_millis(500);
/// Threads of a bare loop; the pool has as many workers as the most of them.
const THREADS: [usize; 3] = [1, 2, 4];
/// Threads that make handshakes, and that wait for a signature: the daemon's default.
const HANDSHAKES: usize = 8;
/// Hellos of one round: more than can be answered in it.
const HELLOS: usize = 8192;

fn main() -> ExitCode {
    stage_with_faults("handshakes", |stage| {
        stage.faults("");
        // Both before the module is initialised here: a token that comes later is not seen.
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TlsServer, "1");
        for (what, faults) in [("SoftHSM", ""), ("SoftHSM + 5 ms a signature", "C_Sign delay_us=5000\n")] {
            stage.faults(faults);
            handshakes(stage, &token, &key, what);
        }
        stage.faults("");
    });
    ExitCode::SUCCESS
}

fn handshakes(stage: &Stage, token: &Pkcs11Uri, key: &GeneratedKey, what: &str) {
    let admin = stage.admin(token);
    let settings =
        PoolSettings { workers: 4, probe_interval: Duration::from_secs(10), ..stage.settings(token) };
    let pool = Pool::start(settings).unwrap();
    let signer = pool.signing_key::<TlsServer>(&key.uri, key.public_key, soon()).unwrap();

    let chain = stage.folder.join("chain.pem");
    std::fs::write(&chain, self_signed(&admin, &key.uri, key.public_key.unwrap())).unwrap();
    let metrics = Arc::new(TlsMetrics::default());
    let tls_key = TlsKey::in_token(signer, key.uri.to_string(), Duration::from_secs(2), Arc::clone(&metrics));
    let identity = Identity::new(Certificate::read(&chain).unwrap(), tls_key, Arc::clone(&metrics)).unwrap();
    let server = identity.server_config().unwrap();
    let client = client();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let place = listener.local_addr().unwrap();
    let (door, ready) = inbox();
    // What a shard does with a connection is not the question.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            loop {
                drop(ready.next().await);
            }
        })
    });
    let settings = Settings { timeout: Duration::from_secs(5), threads: HANDSHAKES };
    let _acceptor =
        Acceptor::start(vec![listener], Arc::clone(&server), vec![door], metrics, settings).unwrap();

    let (mut bare, mut flights, mut whole) = (THREADS.map(|_| Vec::new()), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (rates, threads) in bare.iter_mut().zip(THREADS) {
            rates.push(admin.raw_rate(&key.uri, threads, LASTING).unwrap());
        }
        flights.push(first_flights(&server, &client));
        whole.push(over_loopback(&client, place));
    }
    let best = bare.iter().max_by(|one, other| median(one).total_cmp(&median(other))).unwrap();
    for (rates, threads) in bare.iter().zip(THREADS) {
        println!("tls/{what}, bare, {threads} threads: {:.0} /s", median(rates));
    }
    let against = |rates: &[f64]| {
        Ratio::of(&rates.iter().zip(best).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    };
    println!(
        "tls/{what}, first flight of the server: {:.0} /s; / best bare {:.3}",
        median(&flights),
        against(&flights)
    );
    println!(
        "tls/{what}, full handshakes over loopback, clients on the same cores: {:.0} /s; / best bare {:.3}",
        median(&whole),
        against(&whole)
    );
}

/// The server's part up to and with its Finished, from hellos that wait: key exchange, signature, its check, the key schedule.
fn first_flights(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> f64 {
    let hellos: Vec<Vec<u8>> = (0..HELLOS)
        .map(|_| {
            let mut hello = Vec::new();
            session(client).write_tls(&mut hello).unwrap();
            hello
        })
        .collect();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..HANDSHAKES {
            scope.spawn(|| {
                while started.elapsed() < LASTING {
                    let Some(hello) = hellos.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let mut session = ServerConnection::new(Arc::clone(server)).unwrap();
                    session.read_tls(&mut &hello[..]).unwrap();
                    signing_until(started + 10 * LASTING, || session.process_new_packets()).unwrap();
                    let mut flight = Vec::new();
                    session.write_tls(&mut flight).unwrap();
                    assert!(flight.len() > 500, "certificate and signature are in it");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / started.elapsed().as_secs_f64()
}

fn over_loopback(client: &Arc<ClientConfig>, place: SocketAddr) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 * HANDSHAKES {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut socket = TcpStream::connect(place).unwrap();
                    socket.set_nodelay(true).unwrap();
                    let mut session = session(client);
                    while session.is_handshaking() {
                        session.complete_io(&mut socket).unwrap();
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(LASTING);
        stop.store(true, Ordering::Relaxed);
    });
    done.into_inner() as f64 / started.elapsed().as_secs_f64()
}

fn session(client: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(client), ServerName::try_from("bench.test").unwrap()).unwrap()
}

fn client() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A client that costs as little as it can: it is not what is measured.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A certificate of the token's key, signed by it.
fn self_signed(admin: &Admin, uri: &Pkcs11Uri, public_key: PublicKey) -> String {
    struct InToken<'a>(&'a Admin, &'a Pkcs11Uri, PublicKey);
    impl rcgen::PublicKeyData for InToken<'_> {
        fn der_bytes(&self) -> &[u8] {
            self.2.as_bytes()
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    impl rcgen::SigningKey for InToken<'_> {
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
            let (_, signature) = self.0.sign_verified(self.1, &[Algorithm::P256], message).unwrap();
            Ok(ecdsa_signature(&signature))
        }
    }
    let mut parameters = rcgen::CertificateParams::new(vec!["bench.test".to_owned()]).unwrap();
    // Without the crypto of rcgen there is nothing to choose a number with.
    parameters.serial_number = Some(1_u64.into());
    parameters.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![1]);
    parameters.self_signed(&InToken(admin, uri, public_key)).unwrap().pem()
}
