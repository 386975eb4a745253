//! The control listener from outside, over real sockets, with a real key, database, view and audit log.

mod actions;
mod events;
mod feed;
mod guarding;
mod life;
mod oauth;
mod status_lists;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ed25519_dalek::{Signer as _, SigningKey};
use edgate_hsm::{Purpose, Signer, SoftwareKey};
use tokio::sync::oneshot;

use super::*;
use crate::audit;
use crate::base64url;
use crate::decision::UnixSeconds;
use crate::keys::{IssuerIndex, KeySet, PublishedKey};
use crate::revocation::{Freshness, Identity, Status, View};
use crate::shard::Policy;
use crate::store::{OpenMode, Store};
use crate::token::{Profile, ProfileKind};
use crate::verify::{Engine, Verifier, VerifyingKey};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const ISSUER: &str = "https://edgate.test";
const PARTNER: &str = "https://partner.test";
const LEEWAY_S: u64 = 30;
const PARTNER_LIFETIME_S: u64 = 3600;

/// One control plane on a free port of loopback, over the state in `dir`.
struct Node {
    address: SocketAddr,
    view: Arc<View>,
    public_key: [u8; 32],
    store_path: PathBuf,
    log: Option<audit::Log>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ControlError>>>,
}

impl Node {
    fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {})
    }

    /// As [`Node::start`], with the state changed before it serves.
    fn start_with(dir: &Path, change: impl FnOnce(&mut State) + Send + 'static) -> Self {
        let key_path = dir.join("signing-key.pem");
        let key = SoftwareKey::load(&key_path, Purpose::TokenSigning)
            .or_else(|_| SoftwareKey::create(&key_path, Purpose::TokenSigning))
            .unwrap();
        let signer = Signer::software(key).unwrap();
        let public_key = signer.public_key();
        let settings = audit::Settings {
            create: true,
            segment_bytes: 1 << 20,
            ..audit::Settings::new(dir.join("audit"), "edgate.test/node1")
        };
        let audit::Opened { mut appenders, log, .. } = audit::open(&settings, 0).unwrap();
        let (appender, keys) = (appenders.pop().unwrap(), (log.tags(), log.sealed_keys()));
        let view = Arc::new(View::new(b"a seed for tests", 86_400, Freshness::authoritative(Instant::now())));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let store_path = dir.join("state.db");

        let (shared_view, path) = (Arc::clone(&view), store_path.clone());
        let serve = async move {
            let store = Store::open(&path, OpenMode::Create).await.unwrap();
            fill_view(&store, &shared_view, NOW, |_| {}).await.unwrap();
            let mut state = state(signer, store.clone(), shared_view, appender, keys);
            change(&mut state);
            let outcome = serve(listener, state, async { stopped.await.unwrap_or(()) }).await;
            store.close().await;
            outcome
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(serve));
        Self { address, view, public_key, store_path, log: Some(log), stop: Some(stop), thread: Some(thread) }
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        self.log.take().unwrap().close(Duration::from_secs(10)).unwrap();
    }

    fn status_of(&self, issuer: &str, jti: &str, now: UnixSeconds) -> Status {
        status_of(&self.view, issuer, jti, now)
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address))
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        self.post_as(path, "application/json", body)
    }

    fn post_as(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\n\r\n{body}",
            self.address
        ))
    }

    /// Sends `request` as it is and reads until the connection ends.
    fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The answer may come, and the connection end, before all of a refused body is taken.
        let _ = stream.write_all(request.as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        Answer::parse(&text)
    }
}

fn status_of(view: &View, issuer: &str, jti: &str, now: UnixSeconds) -> Status {
    let identity = Identity {
        tenant: "acme",
        issuer,
        kid: "key",
        certified_by: None,
        jti: Some(jti),
        subject: None,
        session: None,
        issued_at: Some(NOW),
    };
    view.check(&identity, now)
}

/// Kind and phase of every issue and revoke in the log of a stopped node, in order.
fn recorded_actions(dir: &Path) -> Vec<(audit::schema::Kind, u64)> {
    use audit::record::{HEADER_BYTES, Header, stored_len};
    use audit::schema::{Kind, read_body, uint};

    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    let mut actions = Vec::new();
    for bytes in segments.iter().filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()) {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + HEADER_BYTES) {
            let Ok(header) = Header::parse(head.try_into().unwrap()) else {
                at += audit::record::ALIGNMENT;
                continue;
            };
            let body_len = usize::try_from(header.body_len).unwrap();
            let kind = Kind::from_code(header.kind).unwrap();
            if kind == Kind::Issue || kind == Kind::Revoke {
                let body = &bytes[at + HEADER_BYTES..][..body_len];
                let body = read_body(header.kind, header.schema, body).unwrap();
                actions.push((kind, uint(&body, 1).unwrap()));
            }
            at += stored_len(body_len);
        }
    }
    actions
}

/// One HTTP answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the status and the stable word of an error, and that its description says `part`.
    fn expect_error(&self, status: u16, error: &str, part: &str) {
        let json = self.json();
        let description = json["error_description"].as_str().unwrap();
        assert_eq!((self.status, json["error"].as_str().unwrap()), (status, error), "{description}");
        assert!(description.contains(part), "{description:?} does not say {part:?}");
    }
}

/// The partner's signing key; its `kid` is `partner-key`.
fn partner_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// A compact JWS over `claims`, with `header`, by `key`.
fn signed(key: &SigningKey, header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let part = |value: &serde_json::Value| base64url::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = base64url::encode(&key.sign(input.as_bytes()).to_bytes());
    format!("{input}.{signature}")
}

/// What judges tokens of `profiles`: the partner's, and our own by `own`.
fn judge(profiles: &[Profile], own: &[u8; 32], view: &Arc<View>) -> Judge {
    let published = |kid: &str, key: &[u8; 32]| PublishedKey {
        kid: kid.to_owned(),
        verifying_key: VerifyingKey::register(key).unwrap(),
    };
    let keys = [
        published("partner-key", partner_key().verifying_key().as_bytes()),
        published(&crate::keys::thumbprint(own), own),
    ];
    let lists = (0..).map(IssuerIndex).zip(keys.map(|key| vec![key])).collect();
    let policy = Policy::plain(KeySet::new(lists).unwrap(), profiles.to_vec());
    let policy = Arc::new(ArcSwap::from_pointee(policy));
    crate::daemon::judge(policy, Arc::clone(view), Verifier::new(Engine::Portable))
}

/// One key, which signs and never changes.
fn signing_keys(signer: Signer<edgate_hsm::TokenSigning>) -> SigningKeys {
    use crate::keys::life::{NewKey, Ring, Rings, Rules, UnixMillis};
    let rules = Rules {
        propagation_ms: 1_000,
        verify_for_ms: 1_000,
        require_backup: false,
        rotate_every_ms: None,
        published_max: 8,
    };
    let now = || UnixMillis(NOW.0 * 1_000);
    let (mut ring, _) = Ring::load(Vec::new(), rules, |_| false, now());
    let public_key = signer.public_key();
    let kid = crate::keys::thumbprint(&public_key);
    ring.adopt_first(NewKey { kid: kid.clone(), public_key, place: "/nowhere".into(), wanted: false }, now());
    let places = KeyPlaces {
        make: Arc::new(|_| Err("this test makes no keys".into())),
        open: Arc::new(|_| Err("this test opens no keys".into())),
        destroy: Arc::new(|_| Err("this test destroys no keys".into())),
        make_in_memory: Arc::new(|| Err("this test makes no keys".into())),
    };
    SigningKeys {
        own: Some(OwnKeys {
            tenant: "acme".into(),
            rings: Rings::new(vec![ring]),
            signers: vec![(kid, signer)],
            delegations: crate::keys::delegated::Delegations::new(Vec::new(), None, 0),
            places,
        }),
        own_issuers: vec![1],
        killed: Vec::new(),
        publish: Arc::new(|_, _, _| Ok(())),
        holders: Arc::new(|_| Vec::new()),
        jwks: Arc::new(String::new),
        now,
    }
}

fn state(
    signer: Signer<edgate_hsm::TokenSigning>,
    store: Store,
    view: Arc<View>,
    appender: audit::Appender,
    (tags, sealed_keys): (audit::LogTags, audit::sealed::SealedKeys),
) -> State {
    let profile = |name: &str, issuer: &str, lifetime_s| Profile {
        leeway_s: LEEWAY_S,
        max_lifetime_s: Some(lifetime_s),
        ..Profile::new(
            ProfileKind::AgentTask,
            name.into(),
            "acme".into(),
            issuer.into(),
            vec!["https://api.test".into()],
        )
    };
    let issuers = vec![profile("partner", PARTNER, PARTNER_LIFETIME_S), profile("edgate", ISSUER, 600)];
    State {
        judge: judge(&issuers, &signer.public_key(), &view),
        sharing: None,
        events: None,
        announce: announce(),
        issuing: Some(Issuing {
            allow_list: false,
            own: 1,
            sign_timeout: Duration::from_secs(5),
            policy: IssuePolicy {
                default_audiences: vec!["https://api.test".into()],
                default_ttl_s: 120,
                max_ttl_s: 600,
            },
            status_list: None,
        }),
        keys: signing_keys(signer),
        issuers,
        store,
        view,
        appender,
        tags,
        sealed_keys,
        eraser: None,
        witnessing: None,
        verify_chain: Arc::new(|| Ok(ChainReport { records: 7, head: "ab".repeat(32), first_break: None })),
        own_log: OwnLog { origin: "edgate.test/log".into(), dir: "/nowhere".into() },
        custody: Custody::default(),
        retire: None,
        checkpoint_key: None,
        tls: None,
        metrics: Arc::new(|text| text.push_str("# TYPE other counter\nother 1\n")),
        readiness: Arc::new(|| vec![Dependency { name: "shards", ready: true, detail: String::new() }]),
        unlock: None,
        host_names: vec!["control.internal".into()],
        now: || NOW,
    }
}
