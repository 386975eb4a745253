//! `edgate token verify`: tokens, offline, through the functions the shards run.

use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::decision::UnixSeconds;
use crate::json::{self, JsonError};
use crate::keys::{IssuerIndex, KeySet, jwks};
use crate::revocation::{Freshness, View};
use crate::shard::{self, Admitted, Delegates, Moment, Policy, Settled};
use crate::token::{self, Algorithm, ClaimName, Demand, Profile, ProfileKind};
use crate::verify::{Engine, Item, Verifier};

use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, next_line, open_lines, print_line};

#[derive(Debug, Args)]
pub(super) struct VerifyArguments {
    /// The issuer's JWKS.
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// The exact `iss`.
    #[arg(long)]
    issuer: String,
    /// An audience accepted; may be repeated.
    #[arg(long, required = true)]
    audience: Vec<String>,
    /// The kind of token; decides which `typ` and which claims it must have.
    #[arg(long, value_enum, default_value = "jwt")]
    profile: ProfileName,
    /// The `alg` values accepted.
    #[arg(long, value_delimiter = ',', default_value = "Ed25519,EdDSA")]
    alg: Vec<String>,
    /// The time to verify at, in seconds since 1970, instead of now.
    #[arg(long, value_name = "UNIX")]
    now: Option<u64>,
    /// Clock skew allowed, in seconds.
    #[arg(long, value_name = "S", default_value_t = 0)]
    leeway: u64,
    /// The longest exp - iat accepted, in seconds.
    #[arg(long, value_name = "S")]
    max_lifetime: Option<u64>,
    /// Refuse tokens without `jti`.
    #[arg(long)]
    require_jti: bool,
    /// A scope the token must cover; may be repeated.
    #[arg(long)]
    scope: Vec<String>,
    /// JSON Lines of {"token": "…"} instead of tokens as arguments; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    jsonl: Option<PathBuf>,
    /// The tokens.
    #[arg(required_unless_present = "jsonl")]
    token: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    #[value(name = "jwt")]
    Jwt,
    #[value(name = "at+jwt")]
    AccessToken,
    #[value(name = "att+jwt")]
    AgentTask,
}

/// Lines verified together.
const BATCH_LEN: usize = 256;

pub(super) fn run(arguments: &VerifyArguments) -> u8 {
    match verify_all(arguments) {
        Ok(code) => code,
        Err(message) => {
            complain(message);
            EXIT_INPUT
        }
    }
}

fn verify_all(arguments: &VerifyArguments) -> Result<u8, String> {
    let mut session = Session::new(arguments)?;
    if let Some(path) = &arguments.jsonl {
        let mut input = open_lines(path)?;
        let mut batch = Vec::with_capacity(BATCH_LEN);
        loop {
            let line =
                next_line(&mut *input).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let ended = line.is_none();
            if let Some(line) = line {
                batch.push(line.map_err(|()| "line_too_long").and_then(|line| parse_line(&line)));
            }
            if batch.len() == BATCH_LEN || ended {
                session.decide(&batch);
                batch.clear();
            }
            if ended {
                break;
            }
        }
    } else {
        let batch: Vec<_> =
            arguments.token.iter().map(|token| Ok(token.trim().as_bytes().to_vec())).collect();
        session.decide(&batch);
    }
    Ok(session.finish())
}

fn parse_line(line: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut token = None;
    let mut scratch = json::Scratch::default();
    json::read(line, &mut scratch, |reader| {
        reader.object(|reader, name| {
            if name == "token" {
                token = Some(reader.string()?.as_bytes().to_vec());
            } else {
                reader.skip()?;
            }
            Ok::<_, JsonError>(())
        })
    })
    .map_err(|_| "line_not_json")?;
    token.ok_or("member_missing")
}

/// One run: the rules, and what has been counted.
struct Session {
    policy: Policy,
    scopes: Vec<String>,
    now: UnixSeconds,
    json: bool,
    verifier: Verifier,
    delegates: Delegates,
    view: View,
    scratch: token::Scratch,
    index: u64,
    refused: u64,
}

impl Session {
    fn new(arguments: &VerifyArguments) -> Result<Self, String> {
        let path = arguments.jwks.display();
        let text = std::fs::read(&arguments.jwks).map_err(|error| format!("cannot read {path}: {error}"))?;
        let set = jwks::parse(&text).map_err(|error| format!("{path}: {error}"))?;
        if set.keys.is_empty() {
            return Err(format!("{path}: no usable Ed25519 key (kty OKP, crv Ed25519) in it"));
        }
        let key_set =
            KeySet::new(vec![(IssuerIndex(0), set.keys)]).map_err(|error| format!("{path}: {error}"))?;
        let kind = match arguments.profile {
            ProfileName::Jwt => ProfileKind::Jwt,
            ProfileName::AccessToken => ProfileKind::AccessToken,
            ProfileName::AgentTask => ProfileKind::AgentTask,
        };
        let (issuer, audiences) = (arguments.issuer.clone(), arguments.audience.clone());
        let mut profile = Profile::new(kind, "command line".to_owned(), String::new(), issuer, audiences);
        profile.algorithms = arguments
            .alg
            .iter()
            .map(|name| {
                Algorithm::from_name(name)
                    .ok_or(format!("--alg {name}: only Ed25519 and EdDSA are verified here"))
            })
            .collect::<Result<_, _>>()?;
        profile.leeway_s = arguments.leeway;
        profile.max_lifetime_s = arguments.max_lifetime;
        if arguments.require_jti {
            profile.required.insert(ClaimName::Jti);
        }
        let now = match arguments.now {
            Some(now) => UnixSeconds(now),
            None => UnixSeconds(
                SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_err(|error| error.to_string())?
                    .as_secs(),
            ),
        };
        Ok(Self {
            policy: Policy::plain(key_set, vec![profile]),
            scopes: arguments.scope.clone(),
            now,
            json: arguments.output.json,
            verifier: Verifier::new(Engine::Auto),
            delegates: Delegates::default(),
            // Nothing is revoked offline: the seed protects nothing.
            view: View::new(&[0; 16], 0, Freshness::authoritative(Instant::now())),
            scratch: token::Scratch::default(),
            index: 0,
            refused: 0,
        })
    }

    fn decide(&mut self, batch: &[Result<Vec<u8>, &'static str>]) {
        let mut verdicts = Vec::with_capacity(batch.len());
        let Self { policy, scopes, now, json, verifier, delegates, view, scratch, index, refused } = self;
        let texts = batch.iter().flatten().map(|text| Ok(text.as_slice()));
        let admitted = shard::admit_all(texts, policy, delegates, verifier, &mut verdicts, scratch);
        let items: Vec<Item<'_>> = admitted.iter().flatten().flat_map(Admitted::items).collect();
        verifier.verify(&items, &mut verdicts);
        let mut admitted = admitted.into_iter();
        let mut verdicts = verdicts.into_iter();
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let demand = Demand { audience: None, scopes: &scopes };
        let (now, look) = (*now, view.look());
        let realms = policy.realms(view);
        let moment = Moment { policy, look: &look, realms: &realms, now, stale: false, lists: None };
        for line in batch {
            let settled = match line.as_ref().map(|_| admitted.next().expect("one answer for each text")) {
                Ok(Ok(admitted)) => shard::settle(admitted, &mut verdicts, &moment, &demand, scratch),
                Ok(Err(rejection)) => Settled::not_admitted(rejection),
                Err(reason) => {
                    print_result(*json, *index, reason, None);
                    *index += 1;
                    *refused += 1;
                    continue;
                }
            };
            print_result(*json, *index, settled.decision.name(), Some(&settled));
            *index += 1;
            *refused += u64::from(settled.decision != crate::decision::Decision::Accepted);
        }
    }

    fn finish(self) -> u8 {
        if !self.json && self.index != 1 {
            eprintln!("{} tokens: {} valid, {} invalid", self.index, self.index - self.refused, self.refused);
        }
        if self.refused == 0 { EXIT_YES } else { EXIT_NO }
    }
}

fn print_result(as_json: bool, index: u64, reason: &str, settled: Option<&Settled<'_, '_>>) {
    let valid = settled.is_some_and(|settled| settled.decision == crate::decision::Decision::Accepted);
    let kid = settled.map(Settled::kid).filter(|kid| !kid.is_empty());
    let claims =
        settled.filter(|_| valid).and_then(|settled| settled.claims.as_ref()).map(|claims| claims.json);
    if as_json {
        let mut line =
            json!({"index": index, "valid": valid, "reason": reason, "kid": kid, "claims": Value::Null});
        let Some(claims) = claims else {
            return print_line(line);
        };
        // The claims as received: parsing them into a map would lose large numbers and the order.
        line.as_object_mut().expect("built as an object").remove("claims");
        let head = line.to_string();
        let claims =
            RawValue::from_string(claims.to_owned()).map_or("null".to_owned(), |raw| raw.get().to_owned());
        let claims = claims.replace(['\n', '\r'], " ");
        return print_line(format_args!("{},\"claims\":{claims}}}", &head[..head.len() - 1]));
    }
    print_line(format_args!("{:>8}  {}  {reason}", index, if valid { "valid  " } else { "INVALID" }));
    if let Some(claims) = claims
        && let Ok(claims) = serde_json::from_str::<Value>(claims)
        && let Ok(text) = serde_json::to_string_pretty(&claims)
    {
        print_line(text);
    }
}
