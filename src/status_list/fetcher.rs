//! Fetching other issuers' lists: one thread, which may block.
//!
//! Only lists that tokens ask about are fetched, and only from under the prefix that the configuration gives for their issuer:
//! a token can name a list, never a host. Nothing is followed elsewhere, and everything that comes back has a limit. What
//! it says counts if a key of the issuer signed it, if it is the list that was asked for (`sub`), and if it is not older than
//! what is held already.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded, select};

use super::cache::{Entry, Held, Lists, Places, Wanted};
use super::{DOCUMENT_BYTES_MAX, Document, DocumentError, STATUS_LIST_TYP, URI_BYTES_MAX};
use crate::decision::UnixSeconds;
use crate::https;
use crate::keys::{IssuerIndex, PublishedKey};
use crate::token::{self, Padding, ParseError, VerifiedJws};
use crate::verify::{Item, ItemKey, Verdict, Verifier};

/// Lists of one issuer at once; an issuer that names more has some of its tokens refused.
pub(super) const LISTS_PER_ISSUER_MAX: usize = 64;

/// How long one fetch may take in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked at what is due.
const TICK: Duration = Duration::from_secs(1);

/// Where a list says no `ttl`.
const TTL_S_DEFAULT: u64 = 300;

/// A list is fetched again after its `ttl`, but not sooner and not later than this.
const REFRESH_S: std::ops::RangeInclusive<u64> = 5..=300;

/// How much longer than that a list may be used while fetching it fails, in seconds; never beyond its `exp`.
const GRACE_S: u64 = 30;

/// The pause after a fetch that failed, in seconds.
const RETRY_S: u64 = 5;

/// A list that no token asked about for so long is forgotten, in seconds.
const IDLE_S_MAX: u64 = 3600;

/// Seconds by which an issuer's clock may be ahead of ours.
const LEEWAY_S: u64 = 60;

/// The keys that an issuer has now: they change while lists are fetched.
pub type CurrentKeys = Arc<dyn Fn() -> Vec<PublishedKey> + Send + Sync>;

/// An issuer whose lists are fetched.
#[derive(Clone)]
pub struct Source {
    /// The issuer's place in the configuration.
    pub issuer: IssuerIndex,
    /// Its name there, for logs.
    pub name: String,
    /// Its `iss`; a list token that names one must name this.
    pub iss: String,
    /// What a list's uri begins with: `https://HOST/…/` or `file:///…/`, and `http://` to this machine alone.
    pub prefix: String,
    /// Its keys.
    pub keys: CurrentKeys,
}

/// Why a list is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The claims are no list's.
    #[error("{0}")]
    Document(#[from] DocumentError),
    /// It is not signed as it must be.
    #[error("the list token is no signed JWT that is accepted here: {0}")]
    Form(ParseError),
    /// The server did not answer, or not with the list.
    #[error("cannot fetch it: {0}")]
    Http(String),
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] std::io::Error),
    /// Another rule is broken.
    #[error("{0}")]
    Rule(&'static str),
}

/// The running thread. Dropping it stops it, after the fetch under way.
pub struct Fetcher {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Fetcher {
    /// Starts the thread `status-lists`. `now` tells the time.
    ///
    /// # Errors
    /// If the system refuses a thread; as invalid input, if a prefix is not [usable](is_usable_prefix).
    pub fn start(
        sources: Vec<Source>,
        places: Places,
        verifier: Verifier,
        now: fn() -> UnixSeconds,
    ) -> std::io::Result<Self> {
        let invalid = |problem: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
        if let Some(source) = sources.iter().find(|source| !is_usable_prefix(&source.prefix)) {
            return Err(invalid(format!("{}: {} is no prefix for status lists", source.name, source.prefix)));
        }
        let (stop, stopped) = bounded::<()>(0);
        let mut work = Work::new(sources, verifier, now);
        let thread = std::thread::Builder::new().name("status-lists".to_owned()).spawn(move || {
            let mut more = false;
            loop {
                let pause = if more { Duration::ZERO } else { TICK };
                select! {
                    recv(stopped) -> _ => return,
                    recv(places.wanted) -> wanted => {
                        // The shards are gone.
                        let Ok(wanted) = wanted else { return };
                        work.want(wanted, &places);
                    }
                    default(pause) => {}
                }
                more = work.refresh(&places);
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Stops the thread and waits for it.
    pub fn stop(self) {
        drop(self.stop);
        // It ends by returning; a panic aborts the process.
        let _ = self.thread.join();
    }
}

/// What the thread works with.
struct Work {
    sources: HashMap<IssuerIndex, Source>,
    verifier: Verifier,
    verdicts: Vec<Verdict>,
    scratch: token::Scratch,
    agent: ureq::Agent,
    now: fn() -> UnixSeconds,
    /// When each list is fetched next.
    due: HashMap<(IssuerIndex, String), UnixSeconds>,
    // Whose list was fetched last.
    served: Option<IssuerIndex>,
}

impl Work {
    fn new(sources: Vec<Source>, verifier: Verifier, now: fn() -> UnixSeconds) -> Self {
        Self {
            sources: sources.into_iter().map(|source| (source.issuer, source)).collect(),
            verifier,
            verdicts: Vec::new(),
            scratch: token::Scratch::default(),
            agent: https::agent(FETCH_TIMEOUT),
            now,
            due: HashMap::new(),
            served: None,
        }
    }

    /// Takes a list in that a token asks about, if it is one that its issuer may name.
    fn want(&mut self, wanted: Wanted, places: &Places) {
        let Wanted { issuer, uri } = wanted;
        let Some(source) = self.sources.get(&issuer) else { return };
        if !is_under(&source.prefix, &uri) {
            tracing::warn!(issuer = source.name, "a token names a status list outside its issuer's prefix");
            return;
        }
        if self.due.contains_key(&(issuer, uri.clone())) {
            return;
        }
        if self.due.keys().filter(|(one, _)| *one == issuer).count() >= LISTS_PER_ISSUER_MAX {
            tracing::warn!(
                issuer = source.name,
                "more than {LISTS_PER_ISSUER_MAX} status lists; one is left out"
            );
            return;
        }
        let now = (self.now)();
        put(places, issuer, &uri, None, now);
        self.due.insert((issuer, uri), now);
    }

    /// Fetches the list that is due for longest, or forgets it where nobody asks about it; whether one was due. One at a
    /// time: a server that hangs keeps its own issuer's lists waiting for a turn, and the end of the thread no longer
    /// than one fetch. Of those due at once an issuer gets every other turn.
    fn refresh(&mut self, places: &Places) -> bool {
        let now = (self.now)();
        let served = self.served;
        let next = self.due.iter().filter(|(_, due)| **due <= now);
        let next = next.min_by_key(|((issuer, _), due)| (Some(*issuer) == served, **due));
        let key = next.map(|(key, _)| key.clone());
        self.served = key.as_ref().map(|(issuer, _)| *issuer);
        if let Some(key) = key {
            let (issuer, uri) = &key;
            let entry = places.lists.load().get(issuer).and_then(|lists| lists.get(uri)).cloned();
            let used_at = entry.as_ref().map_or(now.0, |entry| entry.used_at.load(Ordering::Relaxed));
            if now.0.saturating_sub(used_at) > IDLE_S_MAX {
                forget(places, issuer, uri);
                self.due.remove(&key);
                return true;
            }
            let before = entry.and_then(|entry| entry.held.clone());
            let next = match self.fetch(*issuer, uri, before.as_ref()) {
                Ok((held, refresh_s)) => {
                    put(places, *issuer, uri, Some(held), UnixSeconds(used_at));
                    now.saturating_add(refresh_s)
                }
                Err(error) => {
                    let name = self.sources.get(issuer).map_or("", |source| &source.name);
                    tracing::warn!(issuer = name, %error, "cannot get a status list; what is held stays for a while");
                    now.saturating_add(RETRY_S)
                }
            };
            self.due.insert(key, next);
            return true;
        }
        false
    }

    /// The list as it is now, and after how many seconds to ask again.
    fn fetch(
        &mut self,
        issuer: IssuerIndex,
        uri: &str,
        before: Option<&Held>,
    ) -> Result<(Held, u64), FetchError> {
        let text = match uri.strip_prefix("file://") {
            Some(path) => read_file(path)?,
            None => self.download(uri)?,
        };
        let now = (self.now)();
        let document = self.check(issuer, text.trim_ascii(), now)?;
        if document.uri != uri {
            return Err(FetchError::Rule("sub is not the uri it was fetched from"));
        }
        // Whoever stands between us and the issuer must not bring back an older list, in which less was revoked.
        if before.is_some_and(|before| document.issued_at < before.issued_at) {
            return Err(FetchError::Rule("it is older than the one held"));
        }
        let refresh_s = document.ttl_s.unwrap_or(TTL_S_DEFAULT).clamp(*REFRESH_S.start(), *REFRESH_S.end());
        let usable_until = now.saturating_add(refresh_s + GRACE_S);
        let usable_until = document.expires_at.map_or(usable_until, |exp| exp.min(usable_until));
        let list = Arc::new(document.list);
        Ok((Held { list, issued_at: document.issued_at, usable_until }, refresh_s))
    }

    /// The document, if a key of `issuer` signed it and it may be used at `now`.
    fn check(&mut self, issuer: IssuerIndex, text: &[u8], now: UnixSeconds) -> Result<Document, FetchError> {
        let (jws, header) =
            token::parse_within(text, DOCUMENT_BYTES_MAX, Padding::Refused, &mut self.scratch)
                .map_err(FetchError::Form)?;
        if !header.is_type(STATUS_LIST_TYP) {
            return Err(FetchError::Rule("typ is not statuslist+jwt"));
        }
        let source = self.sources.get(&issuer).ok_or(FetchError::Rule("its issuer is not configured"))?;
        let keys = (source.keys)();
        let named = match header.kid {
            Some(kid) => keys.iter().find(|key| key.kid == kid),
            // Without a name there must be no choice.
            None => keys.first().filter(|_| keys.len() == 1),
        };
        let Some(key) = named else {
            return Err(FetchError::Rule("its issuer has no key of the name in kid"));
        };
        let key = ItemKey::Registered(&key.verifying_key);
        let item = Item { key, message: jws.signing_input(), signature: jws.signature() };
        self.verifier.verify(&[item], &mut self.verdicts);
        let Some(Verdict::Accepted(proof)) = self.verdicts.pop() else {
            return Err(FetchError::Rule("the signature does not verify"));
        };
        let payload = VerifiedJws::new(jws, proof).payload_to_vec();
        let document = Document::read(&payload.map_err(|_| FetchError::Form(ParseError::Encoding))?)?;
        if document.issuer.as_ref().is_some_and(|iss| *iss != source.iss) {
            return Err(FetchError::Rule("iss is another issuer"));
        }
        if document.issued_at > now.saturating_add(LEEWAY_S) {
            return Err(FetchError::Rule("iat is in the future"));
        }
        if document.expires_at.is_some_and(|exp| exp <= now) {
            return Err(FetchError::Rule("it has expired"));
        }
        Ok(document)
    }

    fn download(&self, uri: &str) -> Result<Vec<u8>, FetchError> {
        let failed = |error: ureq::Error| FetchError::Http(error.to_string());
        let request = self.agent.get(uri).header("Accept", "application/statuslist+jwt");
        let mut response = request.call().map_err(failed)?;
        if response.status() != 200 {
            return Err(FetchError::Http(format!("the answer is {}", response.status())));
        }
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/statuslist+jwt") {
            return Err(FetchError::Http("its type is not application/statuslist+jwt".to_owned()));
        }
        let limit = DOCUMENT_BYTES_MAX as u64 + 1;
        let body = response.body_mut().with_config().limit(limit).read_to_vec().map_err(failed)?;
        if body.len() > DOCUMENT_BYTES_MAX {
            return Err(FetchError::Rule("it is longer than a list token may be"));
        }
        Ok(body)
    }
}

fn read_file(path: &str) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    let limit = DOCUMENT_BYTES_MAX as u64 + 1;
    std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(FetchError::Rule("it is longer than a list token may be"));
    }
    Ok(bytes)
}

/// Whether lists may be fetched from under `prefix`: a folder of one host over https, of this machine over http, or of its files.
#[must_use]
pub fn is_usable_prefix(prefix: &str) -> bool {
    let plain = !prefix.contains(|c: char| c.is_whitespace() || c.is_control() || "@?#%\\".contains(c));
    let known = if let Some(path) = prefix.strip_prefix("file://") {
        path.starts_with('/')
    } else if let Some(rest) = prefix.strip_prefix("https://") {
        !rest.starts_with(['/', ':'])
    } else {
        let host = prefix.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or("");
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        matches!(name, "127.0.0.1" | "[::1]" | "localhost")
    };
    // Behind the host there is a slash, so that no uri can go on with the host's name.
    let segments = prefix.split_once("://").map_or("", |(_, rest)| rest);
    let climbs = segments.split('/').any(|part| matches!(part, "." | ".."));
    known
        && plain
        && !climbs
        && segments.contains('/')
        && prefix.ends_with('/')
        && prefix.len() <= URI_BYTES_MAX
}

/// Whether `uri` is a list under `prefix`, which ends in a slash behind its host: the rest is plain names and slashes, so that
/// no spelling of it leads elsewhere.
pub(super) fn is_under(prefix: &str, uri: &str) -> bool {
    let plain = |part: &str| {
        let named = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte));
        named && !matches!(part, "" | "." | "..")
    };
    uri.len() <= URI_BYTES_MAX && uri.strip_prefix(prefix).is_some_and(|rest| rest.split('/').all(plain))
}

/// Swaps in a snapshot with this entry in it.
fn put(places: &Places, issuer: IssuerIndex, uri: &str, held: Option<Held>, used_at: UnixSeconds) {
    let mut lists = Lists::clone(&places.lists.load());
    let entry = Entry { held, used_at: AtomicU64::new(used_at.0) };
    lists.entry(issuer).or_default().insert(uri.to_owned(), Arc::new(entry));
    places.lists.store(Arc::new(lists));
}

/// Swaps in a snapshot without it.
fn forget(places: &Places, issuer: &IssuerIndex, uri: &str) {
    let mut lists = Lists::clone(&places.lists.load());
    if let Some(lists) = lists.get_mut(issuer) {
        lists.remove(uri);
    }
    places.lists.store(Arc::new(lists));
}
