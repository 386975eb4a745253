//! `edgate keys`: the signing keys of a running node.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::control_client::{Asked, ClientError, Words, refuse, text};
use super::{EXIT_NO, complain, hsm_backup, print_line};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Every signing key: its state, since when, and what happens to it next.
    List(Asked),
    /// Let the next key take over: the draft that there is, or a new one. One that may not sign yet does as soon as it may.
    Rotate(Rotate),
    /// Let this draft sign now; refused before everybody can have it (signing.propagation_s).
    Activate(Named),
    /// Say that a draft is backed up, which signing.require_backup asks for.
    BackedUp(BackedUp),
    /// Take a key that signs no more out of the JWKS; refused while something it signed can be valid.
    Retire(Named),
    /// Let the active key sign no more, with nobody in its place, or give a draft up.
    Disable(Answered),
    /// Destroy the private half of a retired key. It cannot be taken back.
    Destroy(Answered),
    /// The emergency: what this key signed is refused from now on, whoever's key it is. It cannot be taken back.
    Kill(Dead),
    /// Wrap every secret that the node stores, its log's tag keys, under hsm.wrapping_key; then hsm.previous_wrapping_key is not needed any
    /// more. The node goes on meanwhile, and asking again is safe.
    Rewrap(Asked),
    /// Print the JWKS that the node publishes.
    ExportJwks(Asked),
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Where each of several tokens has a key of its own: only in the token that has this key, also if it signs no more.
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    beside: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The key, as `edgate keys list` shows it.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct Answered {
    /// The key, as `edgate keys list` shows it.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct BackedUp {
    #[command(flatten)]
    answered: Answered,
    /// The backup, as `edgate hsm backup` wrote it: it must be whole and of this key, and its SHA-256 goes on record with the reason.
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Dead {
    /// The key, as the header of tokens names it.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    /// Whose key it is, by its `iss` or its name in the configuration; needed where several issuers have a key of this name, or none
    /// has it now.
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(command: &KeysCommand) -> u8 {
    match command {
        KeysCommand::List(asked) => asked.get("/v1/keys", list),
        KeysCommand::Rewrap(asked) => asked.post("/v1/keys/rewrap", &json!({}), |answer| {
            print_line(format_args!("wrapped under  {}", text(answer, "wrapping_key")));
            let [rewrapped, wrapped, unchanged] =
                ["rewrapped", "wrapped", "unchanged"].map(|count| answer[count].to_string());
            print_line(format_args!(
                "{rewrapped} rewrapped, {wrapped} wrapped for the first time, {unchanged} as they were"
            ));
            print_line(format_args!("recorded       {}", text(answer, "id")));
        }),
        KeysCommand::Rotate(Rotate { beside, asked }) => {
            let body = beside.as_ref().map_or(json!({}), |kid| json!({"beside": kid}));
            asked.post_partly("/v1/keys/rotate", &body, changed)
        }
        // It is JSON either way.
        KeysCommand::ExportJwks(asked) => asked.get("/v1/keys/jwks", |jwks| print_line(jwks)),
        KeysCommand::Activate(named) => named.one("activate"),
        KeysCommand::Retire(named) => named.one("retire"),
        KeysCommand::BackedUp(backed_up) => backed_up.one(),
        KeysCommand::Disable(answered) => answered.one("disable"),
        KeysCommand::Destroy(answered) => answered.one("destroy"),
        KeysCommand::Kill(dead) => kill(dead),
    }
}

impl Named {
    fn one(&self, what: &str) -> u8 {
        one(&self.asked, &self.kid, what, &json!({}))
    }
}

impl Answered {
    fn one(&self, what: &str) -> u8 {
        one(&self.asked, &self.kid, what, &self.words.body())
    }
}

impl BackedUp {
    fn one(&self) -> u8 {
        let Answered { kid, words, asked } = &self.answered;
        let mut body = words.body();
        if let Some(path) = &self.backup {
            match hsm_backup::of_signing_key(path, kid) {
                Ok(digest) => {
                    body["reason"] = format!("{} (backup with SHA-256 {digest})", words.reason).into();
                }
                Err(problem) => {
                    complain(problem);
                    return EXIT_NO;
                }
            }
        }
        one(asked, kid, "backed-up", &body)
    }
}

/// Has something done to one key.
fn one(asked: &Asked, kid: &str, what: &str, body: &Value) -> u8 {
    match path(kid, what) {
        Ok(path) => asked.post(&path, body, changed),
        Err(error) => refuse(&error),
    }
}

/// A signing key's name is a thumbprint; anything else would name another path.
fn path(kid: &str, what: &str) -> Result<String, ClientError> {
    let plain =
        !kid.is_empty() && kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !plain {
        let problem = format!(
            "{kid:?} is no signing key's name, which is 43 letters, digits, - and _; see edgate keys list"
        );
        return Err(ClientError::Input(problem));
    }
    Ok(format!("/v1/keys/{kid}/{what}"))
}

fn kill(dead: &Dead) -> u8 {
    let Dead { kid, issuer, words, asked } = dead;
    let mut body = words.body();
    body["kid"] = kid.clone().into();
    if let Some(issuer) = issuer {
        body["issuer"] = issuer.clone().into();
    }
    asked.post("/v1/keys/kill", &body, |answer| {
        for issuer in answer["killed"].as_array().into_iter().flatten() {
            print_line(format_args!("killed    {kid} of {}", issuer.as_str().unwrap_or_default()));
        }
        print_line(format_args!("recorded  {}", text(answer, "id")));
        print_line(
            "on this node; other nodes have it by `edgate keys kill` there, or by `edgate revoke kid` for all of them",
        );
    })
}

fn changed(answer: &Value) {
    describe(&answer["key"]);
    print_line(format_args!("recorded  {}", text(answer, "id")));
    // Where each of several tokens has a key of its own.
    answer["more"].as_array().into_iter().flatten().for_each(changed);
    for one in answer["failed"].as_array().into_iter().flatten() {
        let beside = text(one, "beside");
        complain(format_args!(
            "not done where {beside} is: {}; try again there alone: edgate keys rotate --beside {beside}",
            text(one, "problem").escape_debug()
        ));
    }
}

fn list(answer: &Value) {
    for key in answer["keys"].as_array().into_iter().flatten() {
        describe(key);
    }
    for key in answer["delegated"].as_array().into_iter().flatten() {
        let signs = match &key["ready_ms"] {
            Value::Null => "signs no more".to_owned(),
            ready => format!("signs from {}", time(ready)),
        };
        print_line(format_args!(
            "{}  delegated  {}; by {}; {signs}; ends {}",
            text(key, "kid"),
            time(&key["published_ms"]),
            text(key, "certified_by"),
            time(&key["ends_ms"]),
        ));
    }
    for key in answer["killed"].as_array().into_iter().flatten() {
        print_line(format_args!(
            "{}  killed     {}  of {}; by {}: {}",
            text(key, "kid").escape_debug(),
            time(&key["killed_ms"]),
            text(key, "issuer"),
            text(key, "authority").escape_debug(),
            text(key, "reason").escape_debug(),
        ));
    }
    if !answer["next_ms"].is_null() {
        print_line(format_args!("the next change by itself is due {}", time(&answer["next_ms"])));
    }
}

/// One line: the key, its state, since when, and what comes next.
fn describe(key: &Value) {
    let state = text(key, "state");
    let (since, next) = match state.as_str() {
        "draft" => ("created_ms", draft(key)),
        "active" => ("activated_ms", String::new()),
        "trusted" => ("stopped_ms", format!("; verifies until {}", time(&key["retire_not_before_ms"]))),
        "retired" => ("retired_ms", String::new()),
        _ => ("destroyed_ms", String::new()),
    };
    print_line(format_args!("{}  {state:<9}  {}{next}", text(key, "kid"), time(&key[since])));
}

fn draft(key: &Value) -> String {
    let ready = match &key["ready_ms"] {
        Value::Null => "; not published yet".to_owned(),
        ready => {
            let does = if key["wanted"].as_bool() == Some(true) { "signs from" } else { "may sign from" };
            format!("; {does} {}", time(ready))
        }
    };
    match key["waits_for"].as_str() {
        Some(what) => format!("{ready}, once it has its {what}"),
        None => ready,
    }
}

/// Unix milliseconds as RFC 3339.
fn time(ms: &Value) -> String {
    let stamp = ms.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| ms.to_string(), |stamp| stamp.to_string())
}
