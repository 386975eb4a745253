//! The `[hsm]` table, and where a key lives: in a file, or in the token or the tokens of that table.

use std::path::{Path, PathBuf};
use std::time::Duration;

use edgate_hsm::{PinSource, Pkcs11Uri, UriRules};
use serde::Deserialize;

use super::file::{in_range, wrong};
use super::{ConfigError, defaults};

/// The tokens that hold keys, and how they are used.
#[derive(Debug, Clone)]
pub struct Hsm {
    /// The token of `[hsm]`, or those of `[[hsm.member]]`, each with the same keys or with one of its own.
    pub members: Vec<HsmMember>,
    /// Where systemd put this unit's credentials: `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    /// Threads and sessions, for each token: `hsm.workers`.
    pub workers: usize,
    /// Jobs that may wait for each purpose, for each token: `hsm.queue_len_max`.
    pub queue_len_max: usize,
    /// How long one signature may take, its wait included: `hsm.sign_timeout_ms`.
    pub sign_timeout: Duration,
    /// How long one of several tokens may take for a signature before another is asked: `hsm.member_timeout_ms`.
    pub member_timeout: Duration,
    /// How long one call into the library may take: `hsm.hang_limit_ms`.
    pub hang_limit: Duration,
    /// How often each key is tested: `hsm.probe_interval_ms`.
    pub probe_interval: Duration,
    /// Whether keys may be used that can be read out of the token: `hsm.allow_extractable`.
    pub allow_extractable: bool,
    /// Whether keys may be used that can leave the token wrapped under a trusted key, and in no other way, as those do that can be
    /// backed up: `hsm.allow_wrapped_export`.
    pub allow_wrapped_export: bool,
    /// The AES key in the token that wraps what this node stores in secret: `hsm.wrapping_key`.
    pub wrapping_key: Option<Pkcs11Uri>,
    /// The one that did before, which only opens: `hsm.previous_wrapping_key`.
    pub previous_wrapping_key: Option<Pkcs11Uri>,
}

/// One token. Its settings stand in `[hsm]` where it is the only one, else in a `[[hsm.member]]` table.
#[derive(Debug, Clone)]
pub struct HsmMember {
    /// Who has its library.
    pub access: HsmAccess,
    /// The token, by label and serial: `token`.
    pub token: Pkcs11Uri,
    /// Its share of the work, in proportion to the others': `weight`.
    pub weight: u32,
    /// Whether it signs nothing, and stays logged in and tested: `draining`.
    pub draining: bool,
}

/// Who has the library of a token, and its PIN.
#[derive(Debug, Clone)]
pub enum HsmAccess {
    /// An agent, which is another process: `edgate hsm-agent`.
    Agent {
        /// Where it listens: `agent`.
        socket: PathBuf,
        /// The user id it must have: `agent_uid`.
        uid: Option<u32>,
    },
    /// This process.
    Module {
        /// The PKCS#11 library: `module`.
        path: PathBuf,
        /// What the library's file must hash to: `module_sha256`.
        sha256: Option<[u8; 32]>,
        /// Where the PIN comes from: `pin_source`.
        pin_source: PinSource,
    },
}

/// Where a private key lives.
#[derive(Debug, Clone)]
pub enum KeyPlace {
    /// In a file.
    File(PathBuf),
    /// In the token of `[hsm]`, or in each of its members.
    Token {
        /// Its name, by `object` or `id`.
        uri: Box<Pkcs11Uri>,
        /// The public key it must have.
        public_key: [u8; 32],
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HsmTable {
    agent: Option<PathBuf>,
    agent_uid: Option<u32>,
    module: Option<PathBuf>,
    module_sha256: Option<String>,
    token: Option<String>,
    pin_source: Option<String>,
    #[serde(default)]
    member: Vec<MemberTable>,
    #[serde(default = "defaults::hsm_workers")]
    workers: usize,
    #[serde(default = "defaults::hsm_queue_len_max")]
    queue_len_max: usize,
    #[serde(default = "defaults::hsm_sign_timeout_ms")]
    sign_timeout_ms: u64,
    #[serde(default = "defaults::hsm_member_timeout_ms")]
    member_timeout_ms: u64,
    #[serde(default = "defaults::hsm_hang_limit_ms")]
    hang_limit_ms: u64,
    #[serde(default = "defaults::hsm_probe_interval_ms")]
    probe_interval_ms: u64,
    #[serde(default)]
    allow_extractable: bool,
    #[serde(default)]
    allow_wrapped_export: bool,
    wrapping_key: Option<String>,
    previous_wrapping_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    agent: Option<PathBuf>,
    agent_uid: Option<u32>,
    module: Option<PathBuf>,
    module_sha256: Option<String>,
    token: String,
    pin_source: Option<String>,
    #[serde(default = "defaults::hsm_member_weight")]
    weight: u32,
    #[serde(default)]
    draining: bool,
}

impl HsmTable {
    pub(super) fn check(self) -> Result<Hsm, ConfigError> {
        let alone = self.agent.is_some()
            || self.agent_uid.is_some()
            || self.module.is_some()
            || self.module_sha256.is_some()
            || self.pin_source.is_some();
        let members = match (alone, self.token, self.member) {
            (false, None, members) if !members.is_empty() => {
                let check =
                    |(index, member): (usize, MemberTable)| member.check(&format!("hsm.member[{index}]"));
                members.into_iter().enumerate().map(check).collect::<Result<Vec<_>, _>>()?
            }
            (true, Some(token), members) if members.is_empty() => {
                let only = MemberTable {
                    agent: self.agent,
                    agent_uid: self.agent_uid,
                    module: self.module,
                    module_sha256: self.module_sha256,
                    token,
                    pin_source: self.pin_source,
                    weight: defaults::hsm_member_weight(),
                    draining: false,
                };
                vec![only.check("hsm")?]
            }
            _ => {
                return Err(wrong(
                    "hsm",
                    "…",
                    "module, token and pin_source, or agent and token, must stand either in [hsm], for one token, or in each \
                     [[hsm.member]]",
                    "write all of them in the one place or the other, and module_sha256 beside its module",
                ));
            }
        };
        in_range("hsm.workers", self.workers as u64, 1, 256)?;
        in_range("hsm.queue_len_max", self.queue_len_max as u64, 1, 65_536)?;
        let millis = |key, value, least, most| in_range(key, value, least, most).map(Duration::from_millis);
        let mut hsm = Hsm {
            members,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            workers: self.workers,
            queue_len_max: self.queue_len_max,
            sign_timeout: millis("hsm.sign_timeout_ms", self.sign_timeout_ms, 10, 60_000)?,
            member_timeout: millis("hsm.member_timeout_ms", self.member_timeout_ms, 10, 60_000)?,
            hang_limit: millis("hsm.hang_limit_ms", self.hang_limit_ms, 100, 600_000)?,
            probe_interval: millis("hsm.probe_interval_ms", self.probe_interval_ms, 50, 600_000)?,
            allow_extractable: self.allow_extractable,
            allow_wrapped_export: self.allow_wrapped_export,
            wrapping_key: None,
            previous_wrapping_key: None,
        };
        let wrapping = |key: &str, text: Option<String>| {
            text.map(|text| wrapping_key(&format!("hsm.{key}"), &text, &hsm)).transpose()
        };
        let current = wrapping("wrapping_key", self.wrapping_key)?;
        let previous = wrapping("previous_wrapping_key", self.previous_wrapping_key)?;
        if let (None, Some(previous)) = (&current, &previous) {
            let problem = "there is no hsm.wrapping_key that follows it";
            let fix = "name the key that wraps now at hsm.wrapping_key; this one only opens";
            return Err(wrong("hsm.previous_wrapping_key", previous, problem, fix));
        }
        (hsm.wrapping_key, hsm.previous_wrapping_key) = (current, previous);
        Ok(hsm)
    }
}

impl MemberTable {
    /// `table` is where it stands. The rules among members are the group's.
    fn check(self, table: &str) -> Result<HsmMember, ConfigError> {
        let named = |key: &str| format!("{table}.{key}");
        let token = parse_uri(&named("token"), &self.token)?;
        token.require_token().map_err(|error| refused(&named("token"), &self.token, &error))?;
        if token.object.is_some() || token.id.is_some() || token.pin_source.is_some() {
            return Err(wrong(
                named("token"),
                &self.token,
                "names a key or a PIN source as well",
                "keep token and serial; name keys at signing.key and audit.checkpoint_key, the PIN at pin_source",
            ));
        }
        let (token, weight, draining) = (token.token_only(), self.weight, self.draining);
        Ok(HsmMember { access: self.access(table)?, token, weight, draining })
    }

    fn access(self, table: &str) -> Result<HsmAccess, ConfigError> {
        let named = |key: &str| format!("{table}.{key}");
        let absolute = |key: &str, path: &Path, example: &str| match path.is_absolute() {
            true => Ok(()),
            false => Err(wrong(named(key), path.display(), "not an absolute path", example)),
        };
        match (self.agent, self.module, self.pin_source) {
            (Some(socket), None, None) if self.module_sha256.is_none() => {
                absolute(
                    "agent",
                    &socket,
                    "write the socket's full path, such as /run/edgate-hsm/agent.sock",
                )?;
                Ok(HsmAccess::Agent { socket, uid: self.agent_uid })
            }
            (None, Some(path), Some(pin_source)) if self.agent_uid.is_none() => {
                let example = "write the library's full path, such as /usr/lib/softhsm/libsofthsm2.so";
                absolute("module", &path, example)?;
                let sha256 =
                    self.module_sha256.map(|text| hex32(&named("module_sha256"), &text)).transpose()?;
                let pin_source = PinSource::parse(&pin_source).ok_or_else(|| {
                    wrong(
                        named("pin_source"),
                        "(not shown)",
                        "not a place where a PIN may come from",
                        "write \"credential:NAME\", \"file:/PATH\", \"fd:NUMBER\" or \"operator:\"; never the PIN itself",
                    )
                })?;
                Ok(HsmAccess::Module { path, sha256, pin_source })
            }
            _ => Err(wrong(
                table,
                "…",
                "a token is reached either by its library in this process or through an agent",
                "write module and pin_source here, or agent alone, which has both in a file of its own",
            )),
        }
    }
}

/// Reads where a key lives out of the three settings that can say so. `names` are theirs: file, key, public key.
pub(super) fn key_place(
    names: [&str; 3],
    file: Option<PathBuf>,
    key: Option<String>,
    public_key: Option<String>,
    hsm: Option<&Hsm>,
) -> Result<KeyPlace, ConfigError> {
    let [file_name, key_name, public_name] = names;
    match (file, key, public_key) {
        (Some(path), None, None) => Ok(KeyPlace::File(path)),
        (None, Some(text), Some(public_key)) => {
            let uri = token_key(key_name, &text, hsm)?;
            Ok(KeyPlace::Token { uri: Box::new(uri), public_key: hex32(public_name, &public_key)? })
        }
        (None, Some(text), None) => Err(wrong(
            key_name,
            &text,
            format!("its public key is not pinned ({public_name})"),
            "add the 64 hexadecimal digits that `edgate hsm keygen` or `edgate hsm list` prints for it",
        )),
        _ => {
            let problem =
                format!("exactly one of {file_name} and {key_name} (with {public_name}) must be given");
            Err(wrong(file_name, "…", problem, "keep one of them"))
        }
    }
}

/// The full name of a key in the token of `[hsm]`, or in one of its members; without a token that of a key in each of them. `key_name` is the setting's.
pub(super) fn token_key(key_name: &str, text: &str, hsm: Option<&Hsm>) -> Result<Pkcs11Uri, ConfigError> {
    let Some(hsm) = hsm else {
        return Err(wrong(key_name, text, "there is no [hsm] table", "add one with the key's token"));
    };
    let mut uri = parse_uri(key_name, text)?;
    if let [home] = &hsm.members[..] {
        uri.token = uri.token.or_else(|| home.token.token.clone());
        uri.serial = uri.serial.or_else(|| home.token.serial.clone());
    }
    let of = |member: &HsmMember| (&member.token.token, &member.token.serial) == (&uri.token, &uri.serial);
    // Of several tokens none is named for a key that is in each of them.
    if uri.token.is_none() && uri.serial.is_none() && (uri.object.is_some() || uri.id.is_some()) {
        return Ok(uri);
    }
    uri.require_object().map_err(|error| refused(key_name, text, &error))?;
    if !hsm.members.iter().any(of) {
        let (problem, fix) = match hsm.members.len() {
            1 => (
                "the key is in another token than hsm.token",
                "name the key by object or id alone; its token is hsm.token",
            ),
            _ => (
                "the key is in a token that is no [[hsm.member]]",
                "name the token of one of them, or no token for a key that is in every one",
            ),
        };
        return Err(wrong(key_name, text, problem, fix));
    }
    Ok(uri)
}

/// The name of a wrapping key, in the one token that there is.
fn wrapping_key(key: &str, text: &str, hsm: &Hsm) -> Result<Pkcs11Uri, ConfigError> {
    let uri = token_key(key, text, Some(hsm))?;
    let [home] = &hsm.members[..] else {
        let problem = "there are several [[hsm.member]], and what one wraps no other opens";
        return Err(wrong(key, text, problem, "take it out, or keep one token"));
    };
    // An agent's operator may have come before this node starts.
    if matches!(&home.access, HsmAccess::Module { pin_source: PinSource::Operator, .. }) {
        let problem = "the operator's PIN comes once the node runs, and it does not start before its secrets are opened";
        return Err(wrong(key, text, problem, "let hsm.pin_source name a credential or a file"));
    }
    Ok(uri)
}

fn parse_uri(key: &str, text: &str) -> Result<Pkcs11Uri, ConfigError> {
    Pkcs11Uri::parse(text, UriRules::Production).map_err(|error| refused(key, text, &error))
}

/// A URI can hold a PIN by mistake, so only its kind of mistake is shown.
fn refused(key: &str, text: &str, error: &edgate_hsm::UriError) -> ConfigError {
    let shown = if text.contains("pin-value") { "(not shown)" } else { text };
    wrong(key, shown, error.to_string(), "see RFC 7512; `edgate hsm list` prints URIs to copy")
}

fn hex32(key: &str, text: &str) -> Result<[u8; 32], ConfigError> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let read = pairs.len() == bytes.len() && rest.is_empty();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        match (digit(high), digit(low)) {
            (Some(high), Some(low)) if read => {
                *byte = u8::try_from(high << 4 | low).expect("two hexadecimal digits fit a byte");
            }
            _ => return Err(wrong(key, text, "not 64 hexadecimal digits", "copy all of it")),
        }
    }
    if read { Ok(bytes) } else { Err(wrong(key, text, "not 64 hexadecimal digits", "copy all of it")) }
}
