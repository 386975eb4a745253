//! This node's signing keys across starts: read from the state database, held against the configuration, and handed to the control
//! plane with what it needs to make, open, publish and destroy them.
//!
//! The table rules. The configured key is adopted where the table is empty; later it is a Draft if the table does not know it, which
//! is how an operator brings a key that was made elsewhere.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use edgate_hsm::{
    Group, HsmError, KeyName, MemoryKey, Pkcs11Uri, Purpose, ReleaseChecks, Signer, SoftwareKey,
    TokenSigning, UriRules,
};

use super::StartError;
use super::engine::engine;
use super::key_rings::{Sorted, Stopped, sort};
use super::keys::{public_key, published};
use super::release::release_checks;
use crate::audit::{Ack, Appender, ChangeEvent, Event, Phase};
use crate::config::{self, Config, KeyPlace, KeySource};
use crate::control::{self, KeyPlaces, MadeKey, OwnKeys, STATUS_LIST_LIFE_S, SigningKeys};
use crate::decision::UnixSeconds;
use crate::keys::delegated::{DELEGATED_MAX, DelegationRules, Delegations};
use crate::keys::life::{Mended, NewKey, PUBLISHED_MAX, Ring, Rings, Rules, SigningKey, UnixMillis};
use crate::keys::{IssuerIndex, KilledKeys, thumbprint};
use crate::shard::{self, Policy};
use crate::store::{KilledKey, Store};
use crate::token::DELEGATION_LIFE_S_MAX;

const _: () = assert!(config::KEYS_PUBLISHED_MAX == PUBLISHED_MAX as u64);
const _: () = assert!(config::DELEGATED_PUBLISHED_MAX == DELEGATED_MAX as u64);
const _: () = assert!(config::DELEGATION_S_MAX == DELEGATION_LIFE_S_MAX);
const _: () = assert!(config::STATUS_LIST_LIFE_S == STATUS_LIST_LIFE_S);

/// How long a token may take to make, show or destroy one key. Whoever waits for the command waits longer.
const KEY_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys as a start finds them.
pub(super) struct StoredKeys {
    // `None` on a node that only verifies.
    own: Option<StoredOwn>,
    killed: Vec<KilledKey>,
    // What the start made of them, to be put on record.
    changes: Vec<Told>,
}

struct StoredOwn {
    tenant: String,
    rings: Rings,
    signers: Vec<(String, Signer<TokenSigning>)>,
    delegations: Delegations,
    places: Places,
}

/// What changed, from what, to what.
type Told = [String; 3];

/// Where private keys are made: beside the configured ones.
#[derive(Clone)]
struct Places {
    // One for each ring.
    configured: Vec<KeyPlace>,
    hsm: Option<Arc<Group>>,
    // What a key in memory signs is checked by, as what the token signs.
    checks: ReleaseChecks,
}

impl StoredKeys {
    /// Reads the keys, puts right what a crash left, adopts the configured one, and opens the one that signs. Blocks on a token.
    ///
    /// # Errors
    /// [`StartError`]: the database, or the key that signs.
    pub(super) async fn load(
        config: &Config,
        store: &Store,
        hsm: Option<&Arc<Group>>,
    ) -> Result<Self, StartError> {
        let killed = store.load_killed_keys().await?;
        let Some(signing) = &config.signing else {
            return Ok(Self { own: None, killed, changes: Vec::new() });
        };
        let issuer = &config.issuers[signing.issuer];
        // A key of ours is named by its thumbprint: dead is dead, whatever its issuer was called then.
        let dead: HashSet<&str> = killed.iter().map(|one| one.kid.as_str()).collect();
        let mut configured = Vec::with_capacity(signing.keys.len());
        for place in &signing.keys {
            configured.push((told_place(place)?, public_key::<TokenSigning>(place)));
        }
        let mut stored: Vec<SigningKey> = Vec::new();
        for (named, found) in &configured {
            let kid = found.as_ref().ok().map(thumbprint);
            let more = store.load_signing_keys(&issuer.tenant, kid.as_deref(), named).await?;
            let news = more.into_iter().filter(|key| stored.iter().all(|known| known.kid != key.kid));
            let news: Vec<SigningKey> = news.collect();
            stored.extend(news);
        }
        let at = now();
        let checks = release_checks(engine(config));
        let places = Places { configured: signing.keys.clone(), hsm: hsm.cloned(), checks };
        // Only a node that never had any lets a key sign at once: there is nobody who has a JWKS without it.
        let is_first = stored.is_empty();
        // A configured key is known by what it is, wherever it was: its file may be moved, its token renamed.
        let is_it = |found: &Result<[u8; 32], StartError>, key: &SigningKey| {
            found.as_ref().is_ok_and(|found| *found == key.public_key)
        };
        let ring_of = |key: &SigningKey| {
            let by_key = configured.iter().position(|(_, found)| is_it(found, key));
            by_key.or_else(|| places.ring_of(&key.place))
        };
        let Sorted { rings: sorted, stopped } = sort(stored, configured.len(), at, ring_of);
        let several = configured.len() > 1;
        let (mut rings, mut signers) = (Vec::new(), Vec::new());
        let mut changes: Vec<Told> = stopped.iter().map(left).collect();
        for (stored, (named, found)) in sorted.into_iter().zip(configured) {
            // A token that joins others signs by itself once everybody can have its key.
            let joins = several && !stored.has_own;
            let (mut ring, mended) = Ring::load(stored.keys, rules(signing), |kid| dead.contains(kid), at);
            changes.extend(mended.iter().map(told));
            let arrival = if is_first { Arrival::First } else { Arrival::Later { joins } };
            changes.extend(adopt(&mut ring, named, found, &dead, arrival, at)?);
            match ring.active().map(|key| (key.kid.clone(), places.open(key))) {
                None => {}
                Some((kid, Ok(signer))) => signers.push((kid, signer)),
                // A PIN that is refused is the operator's, before anything else. And of a first key that cannot be used nothing is kept, so
                // that the next start takes the right one.
                Some((_, Err(error))) if matches!(error, HsmError::Login { .. }) || is_first => {
                    return Err(error.into());
                }
                // It was there once. Verification does not depend on it, and the way out needs a running node.
                Some((_, Err(error))) => tracing::error!(%error, "the active signing key cannot be used"),
            }
            rings.push(ring);
        }
        let rings = Rings::new(rings);
        // Rows that did not change are the same rows once more.
        let rows = rings.keys().filter(|key| key.state.verifies() || key.retired == Some(at));
        store.store_signing_keys(&issuer.tenant, &rows.cloned().collect::<Vec<_>>()).await?;
        if signers.is_empty() {
            tracing::warn!("no signing key can be used: no token is issued until edgate keys rotate");
        }
        let ended = UnixSeconds((at.0 / 1000).saturating_sub(issuer.leeway_s));
        let mut delegated = store.load_delegations(&issuer.tenant, ended).await?;
        let verifies = |kid: &str| rings.key(kid).is_ok_and(|key| key.state.verifies());
        delegated.retain(|key| !dead.contains(key.kid.as_str()) && verifies(&key.certified_by));
        let delegations = Delegations::new(delegated, delegation_rules(signing), issuer.leeway_s);
        let own = StoredOwn { tenant: issuer.tenant.clone(), rings, signers, delegations, places };
        Ok(Self { own: Some(own), killed, changes })
    }

    /// The keys that are published.
    ///
    /// # Errors
    /// [`StartError::OwnKey`].
    pub(super) fn published(&self) -> Result<shard::OwnKeys, StartError> {
        let Some(own) = &self.own else { return Ok(shard::OwnKeys::default()) };
        let keys = own.rings.verifying().map(|key| published(&key.public_key)).collect::<Result<_, _>>()?;
        Ok(shard::OwnKeys { keys, delegated: own.delegations.keys().to_vec() })
    }

    /// The keys of the configured issuers that were killed.
    pub(super) fn killed(&self, config: &Config) -> KilledKeys {
        let issuers = (0..).map(IssuerIndex).zip(&config.issuers);
        issuers
            .flat_map(|(index, issuer)| {
                let dead = self.killed.iter().filter(|one| one.issuer == issuer.issuer);
                dead.map(move |one| (index, one.kid.clone()))
            })
            .collect()
    }

    /// Puts on record what the start made of the keys.
    ///
    /// # Errors
    /// [`StartError::Audit`].
    pub(super) fn record(&self, recorder: &mut Appender) -> Result<(), StartError> {
        let mut last = None;
        for [what, before, after] in &self.changes {
            tracing::info!(what, before, after, "a signing key changed");
            let (phase, actor) = (Phase::Done, "start");
            let change = ChangeEvent { phase, actor, what, before, after, intent: None };
            last = Some(recorder.append(&Event::KeyChange(change), Ack::Durable)?);
        }
        recorder.submit();
        if let Some(last) = last {
            recorder.wait(last, Ack::Durable, super::RECORD_TIMEOUT)?;
        }
        Ok(())
    }

    /// Hands the keys to the control plane, which changes `policy` from now on.
    pub(super) fn hand_over(self, config: &Config, policy: &Arc<ArcSwap<Policy>>) -> SigningKeys {
        let own = self.own.map(|StoredOwn { tenant, rings, signers, delegations, places }| OwnKeys {
            tenant,
            rings,
            signers,
            delegations,
            places: places.into_closures(),
        });
        let is_own = |issuer: &config::Issuer| matches!(issuer.keys, KeySource::SigningKey);
        let issuers = config.issuers.iter().enumerate();
        let (asked, shown) = (Arc::clone(policy), Arc::clone(policy));
        SigningKeys {
            own,
            own_issuers: issuers.filter(|(_, issuer)| is_own(issuer)).map(|(index, _)| index).collect(),
            killed: self.killed,
            publish: publisher(Arc::clone(policy)),
            holders: Arc::new(move |kid| {
                let policy = asked.load();
                let named = policy.key_set.candidates(Some(kid)).iter();
                named.map(|key| usize::from(key.issuer().0)).collect()
            }),
            jwks: Arc::new(move || shown.load().published.body.clone()),
            now,
        }
    }
}

/// Swaps the policy. Keys are registered, and their tables made, on this thread, before any shard sees them; the policy before last is
/// let go here too, since freeing it takes longer than a shard should.
fn publisher(policy: Arc<ArcSwap<Policy>>) -> control::Publish {
    let before: Mutex<Option<Arc<Policy>>> = Mutex::new(None);
    Arc::new(move |keys, delegated, killed| {
        let keys = keys
            .iter()
            .map(|key| published(&key.public_key))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let own = shard::OwnKeys { keys, delegated: delegated.to_vec() };
        let next = policy.load().with_keys(&own, killed).map_err(|error| error.to_string())?;
        let (epoch, keys) = (next.epoch, next.key_set.len());
        let last = policy.swap(Arc::new(next));
        *before.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        tracing::info!(epoch, keys, "policy with other keys");
        Ok(())
    })
}

/// Takes the configured key in, whose public half was found at the place `named`, unless it is known or dead; what that changed.
fn adopt(
    ring: &mut Ring,
    named: String,
    found: Result<[u8; 32], StartError>,
    dead: &HashSet<&str>,
    arrival: Arrival,
    at: UnixMillis,
) -> Result<Option<Told>, StartError> {
    let public_key = match found {
        // Its file may be gone by an operator's order.
        Err(StartError::Key(HsmError::Missing { .. }))
            if ring.keys().iter().any(|key| key.place == named) =>
        {
            return Ok(None);
        }
        found => found?,
    };
    let kid = thumbprint(&public_key);
    if let Ok(known) = ring.key(&kid) {
        let state = known.state;
        if !state.verifies() {
            tracing::warn!(
                kid,
                state = state.name(),
                "the configured signing key is out of use; edgate keys rotate --beside KID makes another in its place"
            );
        }
        // Its file was moved, or its token renamed.
        let before = ring.relocate(&kid, &named).ok().flatten();
        return Ok(before.map(|before| [format!("signing.key {kid}"), before, named]));
    }
    if dead.contains(kid.as_str()) {
        tracing::warn!(kid, "the configured signing key was killed: it is not used");
        return Ok(None);
    }
    let wanted = matches!(arrival, Arrival::Later { joins: true });
    let new = NewKey { kid: kid.clone(), public_key, place: named, wanted };
    let what = format!("signing.key {kid}");
    if matches!(arrival, Arrival::First) {
        ring.adopt_first(new, at);
        return Ok(Some([what, "none".to_owned(), "active; by the configuration".to_owned()]));
    }
    match ring.create(new, at) {
        Ok(_) => Ok(Some([what, "none".to_owned(), "draft; by the configuration".to_owned()])),
        Err(refusal) => {
            tracing::warn!(%refusal, "the configured signing key is not known, and cannot become a draft");
            Ok(None)
        }
    }
}

/// When a configured key comes.
#[derive(Debug, Clone, Copy)]
enum Arrival {
    /// To a node that never had any.
    First,
    /// To one that has; `joins`: it is to sign as soon as it may, since it is the first of its token.
    Later { joins: bool },
}

/// A key whose place left the configuration.
fn left(stopped: &Stopped) -> Told {
    let Stopped { kid, from, to, place } = stopped;
    let after = format!("{}; by the start: {place} is not configured any more", to.name());
    [format!("signing.key {kid}"), from.name().to_owned(), after]
}

fn told(mended: &Mended) -> Told {
    let after = format!("{}; by the start", mended.to.name());
    [format!("signing.key {}", mended.kid), mended.from.name().to_owned(), after]
}

/// A shard in the middle of its turn serves the JWKS before this one for so long at most.
const SERVED_WITHIN_MS: u64 = 100;

fn rules(signing: &config::Signing) -> Rules {
    Rules {
        propagation_ms: signing.propagation_s * 1000 + SERVED_WITHIN_MS,
        verify_for_ms: u64::try_from(signing.verify_for.as_millis()).unwrap_or(u64::MAX),
        require_backup: signing.require_backup,
        rotate_every_ms: signing.rotate_every_s.map(|seconds| seconds * 1000),
        published_max: PUBLISHED_MAX / signing.keys.len().max(1),
    }
}

/// What the configuration asks of keys in memory, if it asks for any.
fn delegation_rules(signing: &config::Signing) -> Option<DelegationRules> {
    Some(DelegationRules {
        life_s: signing.delegation_s?,
        propagation_ms: rules(signing).propagation_ms,
        token_life_s: signing.default_ttl_s,
    })
}

/// A place as the state database holds it.
fn told_place(place: &KeyPlace) -> Result<String, StartError> {
    match place {
        KeyPlace::File(path) => told_path(path),
        KeyPlace::Token { uri, .. } => {
            let bare = Pkcs11Uri { pin_source: None, pin_value: None, module_path: None, ..(**uri).clone() };
            Ok(bare.to_string())
        }
    }
}

fn told_path(path: &Path) -> Result<String, StartError> {
    let text = path.to_str().filter(|text| !text.starts_with(SCHEME));
    let problem = "its path is not UTF-8 text, or begins like a PKCS#11 URI; move it";
    text.map(str::to_owned).ok_or_else(|| HsmError::Malformed { path: path.to_owned(), problem }.into())
}

const SCHEME: &str = "pkcs11:";

impl Places {
    fn into_closures(self) -> KeyPlaces {
        let (making, opening, destroying) = (self.clone(), self.clone(), self.clone());
        KeyPlaces {
            make_in_memory: Arc::new(move || {
                let key = MemoryKey::generate(Purpose::TokenSigning, &self.checks);
                key.and_then(Signer::in_memory).map_err(|error| error.to_string())
            }),
            make: Arc::new(move |ring| making.make(ring)),
            open: Arc::new(move |key| opening.open(key).map_err(|error| error.to_string())),
            destroy: Arc::new(move |key| destroying.destroy(key).map_err(|error| error.to_string())),
        }
    }

    /// The ring that the key at this place belongs to: that of its token, where it is the configured one of a ring, or of a file.
    fn ring_of(&self, place: &str) -> Option<usize> {
        let uri = place.starts_with(SCHEME).then(|| Pkcs11Uri::parse(place, UriRules::Production).ok());
        let same = |configured: &KeyPlace| match (configured, &uri) {
            (KeyPlace::Token { uri: of, .. }, Some(Some(uri))) => {
                (&of.token, &of.serial) == (&uri.token, &uri.serial)
            }
            (KeyPlace::File(_), None) => true,
            (KeyPlace::Token { .. } | KeyPlace::File(_), _) => false,
        };
        self.configured.iter().position(same)
    }

    /// A new key in the folder, or the token, of the one that is configured for this ring.
    fn make(&self, ring: usize) -> Result<MadeKey, String> {
        match &self.configured[ring] {
            KeyPlace::File(path) => {
                let named = |public_key: &[u8; 32]| path.with_file_name(file_name(public_key));
                let key = SoftwareKey::create_named(Purpose::TokenSigning, named);
                let key = key.map_err(|error| error.to_string())?;
                let place = told_path(key.path()).map_err(|error| error.to_string())?;
                let signer = Signer::<TokenSigning>::software(key).map_err(|error| error.to_string())?;
                Ok(MadeKey { public_key: signer.public_key(), place })
            }
            KeyPlace::Token { uri, .. } => self.make_in_token(uri).map_err(|error| {
                format!(
                    "{error}; if this token lets the service make no keys: make one with `edgate hsm keygen`, name it at \
                     signing.key and signing.public_key (or in signing.keys), and start again"
                )
            }),
        }
    }

    fn make_in_token(&self, beside: &Pkcs11Uri) -> Result<MadeKey, HsmError> {
        let purpose = Purpose::TokenSigning;
        let deadline = Instant::now() + KEY_TIMEOUT;
        let tokens = self.tokens()?;
        // Nobody knows its kid before it is there, and then its name cannot be changed any more.
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let random = getrandom::u32().map_err(|source| HsmError::Entropy { purpose, source })?;
        let name =
            KeyName::new(purpose, &format!("{time}-{random:08x}")).expect("letters, digits and a dash");
        let uri = tokens.make_signing_key(&beside.token_only(), name, deadline)?;
        let signer = tokens.signing_key::<TokenSigning>(&uri, None, deadline)?;
        Ok(MadeKey { public_key: signer.public_key(), place: uri.to_string() })
    }

    fn open(&self, key: &SigningKey) -> Result<Signer<TokenSigning>, HsmError> {
        match self.place_of(key)? {
            Place::File(path) => {
                let signer = Signer::software(SoftwareKey::load(&path, Purpose::TokenSigning)?)?;
                // As the token's are pinned: what it signs would bear another key's name.
                if signer.public_key() == key.public_key {
                    return Ok(signer);
                }
                let problem = "it holds another key than the one that was known to be there";
                Err(HsmError::Malformed { path, problem })
            }
            Place::Token(uri) => {
                let deadline = Instant::now() + KEY_TIMEOUT;
                self.tokens()?.signing_key(&uri, Some(key.public_key), deadline)
            }
        }
    }

    fn destroy(&self, key: &SigningKey) -> Result<(), HsmError> {
        match self.place_of(key)? {
            Place::File(path) => SoftwareKey::destroy(&path, Purpose::TokenSigning, &key.public_key),
            Place::Token(uri) => {
                let deadline = Instant::now() + KEY_TIMEOUT;
                self.tokens()?.destroy_signing_key(&uri, key.public_key, deadline)
            }
        }
    }

    fn place_of(&self, key: &SigningKey) -> Result<Place, HsmError> {
        if key.place.starts_with(SCHEME) {
            return Ok(Place::Token(Box::new(Pkcs11Uri::parse(&key.place, UriRules::Production)?)));
        }
        Ok(Place::File(PathBuf::from(&key.place)))
    }

    fn tokens(&self) -> Result<&Arc<Group>, HsmError> {
        self.hsm.as_ref().ok_or_else(|| HsmError::Module {
            path: PathBuf::from("(none)"),
            problem: "a signing key of this node is in a token and the configuration has no [hsm] table: add it again".to_owned(),
        })
    }
}

enum Place {
    File(PathBuf),
    Token(Box<Pkcs11Uri>),
}

/// A key's file says which one it is, and never begins with the dash that its `kid` may begin with.
fn file_name(public_key: &[u8; 32]) -> String {
    format!("signing-{}.key", thumbprint(public_key))
}

/// Whether the state database says that the key at this place was destroyed, as far as that can be told without opening it for
/// writing.
pub(super) fn is_known_place(runtime: &tokio::runtime::Runtime, config: &Config, place: &KeyPlace) -> bool {
    let Ok(named) = told_place(place) else { return false };
    let known = runtime.block_on(Store::knows_key_place(&config.database, &named));
    known.unwrap_or(false)
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
