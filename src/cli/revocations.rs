//! `edgate revoke`, `disable`, `enable` and `revocations`: what is refused, at a running node.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::token;

use super::control_client::{ClientError, Target, get, post, refuse, text};
use super::{EXIT_YES, Output, print_line};

/// What can be revoked; each for good.
#[derive(Debug, Subcommand)]
pub(super) enum RevokeCommand {
    /// One token, by its id (its jti) or by itself, which is not sent.
    Token {
        #[command(flatten)]
        thing: Named,
        /// The token's `exp`, so that the revocation can be forgotten early; without it the latest possible one counts.
        #[arg(long, value_name = "UNIX")]
        expires_at: Option<u64>,
    },
    /// Every token of a subject (its sub) issued until now.
    Subject(Marked),
    /// Every token of a session (its sid) issued until now.
    Session(Marked),
    /// Every token that a key signed.
    Kid(Named),
    /// Every token of an issuer.
    Issuer(Whole),
    /// Every token of a tenant: the emergency stop.
    Tenant(Whole),
}

/// What can be disabled and enabled again.
#[derive(Debug, Subcommand)]
pub(super) enum SwitchCommand {
    /// Every token of a subject.
    Subject(Named),
    /// Every token that a key signed.
    Kid(Named),
    /// Every token of an issuer.
    Issuer(Whole),
    /// Every token of a tenant.
    Tenant(Whole),
}

/// Something of an issuer.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// Its name.
    name: String,
    /// The `iss` it belongs to, unless it is this node's own.
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// The tenant, where several have that issuer.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    #[command(flatten)]
    how: How,
}

/// A subject or session.
#[derive(Debug, Args)]
pub(super) struct Marked {
    #[command(flatten)]
    thing: Named,
    /// Refuse what was issued in or before this second; without it, until now.
    #[arg(long, value_name = "UNIX")]
    issued_until: Option<u64>,
}

/// An issuer or a tenant.
#[derive(Debug, Args)]
pub(super) struct Whole {
    /// The `iss`, or the tenant's name.
    name: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(super) enum RevocationsCommand {
    /// What is revoked or disabled, the latest first.
    List(ListArguments),
    /// How complete and how old this node's view is.
    Status(StatusArguments),
}

/// What `edgate revocations list` reads.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only of this issuer.
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// Only older than this epoch: where the page before ended.
    #[arg(long, value_name = "EPOCH")]
    before: Option<u64>,
    /// The most lines.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// What `edgate revocations status` reads.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Token,
    Subject,
    Session,
    Kid,
    Issuer,
    Tenant,
}

/// Revokes what was named.
pub(super) fn revoke(command: &RevokeCommand) -> u8 {
    match command {
        RevokeCommand::Token { thing, expires_at } => {
            change_named("token", "revoke", thing, [("expires_at", *expires_at)])
        }
        RevokeCommand::Subject(Marked { thing, issued_until }) => {
            change_named("subject", "revoke", thing, [("issued_until", *issued_until)])
        }
        RevokeCommand::Session(Marked { thing, issued_until }) => {
            change_named("session", "revoke", thing, [("issued_until", *issued_until)])
        }
        RevokeCommand::Kid(thing) => change_named("kid", "revoke", thing, []),
        RevokeCommand::Issuer(whole) => change_whole("issuer", "revoke", whole),
        RevokeCommand::Tenant(whole) => change_whole("tenant", "revoke", whole),
    }
}

/// Disables or enables what was named.
pub(super) fn switch(action: &str, command: &SwitchCommand) -> u8 {
    match command {
        SwitchCommand::Subject(thing) => change_named("subject", action, thing, []),
        SwitchCommand::Kid(thing) => change_named("kid", action, thing, []),
        SwitchCommand::Issuer(whole) => change_whole("issuer", action, whole),
        SwitchCommand::Tenant(whole) => change_whole("tenant", action, whole),
    }
}

fn change_named<const N: usize>(
    kind: &str,
    action: &str,
    thing: &Named,
    times: [(&str, Option<u64>); N],
) -> u8 {
    let (name, issuer) = match named(kind, thing) {
        Ok(named) => named,
        Err(error) => return refuse(&error),
    };
    let mut body = Map::new();
    body.insert("name".to_owned(), name.into());
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("issuer", issuer.map(Value::from));
    add("tenant", thing.tenant.clone().map(Value::from));
    for (member, second) in times {
        add(member, second.map(Value::from));
    }
    change(kind, action, body, &thing.how)
}

fn change_whole(kind: &str, action: &str, whole: &Whole) -> u8 {
    let mut body = Map::new();
    body.insert(kind.to_owned(), whole.name.clone().into());
    change(kind, action, body, &whole.how)
}

fn change(kind: &str, action: &str, mut body: Map<String, Value>, how: &How) -> u8 {
    body.insert("kind".to_owned(), kind.into());
    body.insert("action".to_owned(), action.into());
    if let Some(reason) = &how.reason {
        body.insert("reason".to_owned(), reason.clone().into());
    }
    match how.target.url().and_then(|url| post(&url, "/v1/revocations", &Value::Object(body))) {
        Ok(changed) if how.output.json => print_line(changed),
        Ok(changed) => {
            let entry = &changed["revocations"][0];
            let before = if entry["already"] == true { " already" } else { "" };
            let epoch = text(&changed, "revocation_epoch");
            print_line(format_args!("{}{before} (revocation epoch {epoch})", described(entry)));
        }
        Err(error) => return refuse(&error),
    }
    EXIT_YES
}

/// One thing and its state, in words.
fn described(entry: &Value) -> String {
    let part = |name: &str| entry[name].as_str().unwrap_or_default().escape_debug().to_string();
    let thing = match part("kind").as_str() {
        "tenant" => format!("tenant {}", part("tenant")),
        "issuer" => format!("issuer {}", part("issuer")),
        kind => format!("{kind} {} of {}", part("name"), part("issuer")),
    };
    let until = match &entry["issued_until"] {
        Value::Null => String::new(),
        second => format!(" for what was issued until {}", when(second)),
    };
    format!("{thing} is {}{until}", part("state"))
}

fn when(second: &Value) -> String {
    let time = second.as_i64().and_then(|second| jiff::Timestamp::from_second(second).ok());
    time.map_or_else(|| second.to_string(), |time| time.to_string())
}

/// Lists changes, or tells how the view stands.
pub(super) fn revocations(command: &RevocationsCommand) -> u8 {
    match command {
        RevocationsCommand::List(arguments) => list(arguments),
        RevocationsCommand::Status(StatusArguments { target, output }) => {
            match target.url().and_then(|url| get(&url, "/v1/revocations/status")) {
                Ok(status) if output.json => print_line(status),
                Ok(status) => show_status(&status),
                Err(error) => return refuse(&error),
            }
            EXIT_YES
        }
    }
}

fn list(arguments: &ListArguments) -> u8 {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let kind = arguments.kind.and_then(|kind| kind.to_possible_value());
    query.append_pair("limit", &arguments.limit.to_string());
    let before = arguments.before.map(|epoch| epoch.to_string());
    for (name, value) in [
        ("kind", kind.as_ref().map(|kind| kind.get_name())),
        ("tenant", arguments.tenant.as_deref()),
        ("issuer", arguments.issuer.as_deref()),
        ("before", before.as_deref()),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let path = format!("/v1/revocations?{}", query.finish());
    match arguments.target.url().and_then(|url| get(&url, &path)) {
        Ok(page) => {
            for entry in page["revocations"].as_array().into_iter().flatten() {
                if arguments.output.json {
                    print_line(entry);
                    continue;
                }
                let reason = entry["reason"].as_str().unwrap_or_default().escape_debug().to_string();
                let why = if reason.is_empty() { reason } else { format!(": {reason}") };
                let (epoch, at, actor) = (&entry["epoch"], when(&entry["changed_at"]), text(entry, "actor"));
                print_line(format_args!("{epoch:>8}  {at}  {} ({actor}){why}", described(entry)));
            }
            if let (Value::Number(before), false) = (&page["next_before"], arguments.output.json) {
                print_line(format_args!("more: --before {before}"));
            }
            EXIT_YES
        }
        Err(error) => refuse(&error),
    }
}

fn show_status(status: &Value) {
    let age = match (&status["age_ms"], status["redis"].is_null()) {
        (_, true) => "this node is the truth".to_owned(),
        (Value::Null, _) => "not known to be complete".to_owned(),
        (age, _) => format!("{age} ms old"),
    };
    print_line(format_args!("epoch    {}", status["epoch"]));
    print_line(format_args!("view     {age}"));
    print_line(format_args!("entries  {} in {} bytes", status["entries"], status["bytes"]));
    let redis = &status["redis"];
    if redis.is_null() {
        return;
    }
    let connected = if redis["connected"] == true { "connected to" } else { "not connected to" };
    print_line(format_args!("redis    {connected} {}", text(redis, "server")));
    print_line(format_args!(
        "         data set {}, last event {}; {} events, {} rebuilds, {} given back, {} reconnects, {} not stored yet",
        text(redis, "dataset"),
        text(redis, "last_id"),
        redis["events"],
        redis["rebuilds"],
        redis["republished"],
        redis["reconnects"],
        redis["unsaved"],
    ));
    if let Some(error) = redis["last_error"].as_str() {
        print_line(format_args!("         {error}"));
    }
}

/// The name and the issuer meant: as given, or as the token itself says.
fn named(kind: &str, thing: &Named) -> Result<(String, Option<String>), ClientError> {
    let (name, issuer) = (&thing.name, &thing.issuer);
    if kind != "token" || !(name.starts_with("eyJ") && name.split('.').count() == 3) {
        return Ok((name.clone(), issuer.clone()));
    }
    let unverified =
        token::inspect(name.as_bytes()).map_err(|error| ClientError::Input(error.to_string()))?;
    let claims: Value = serde_json::from_slice(&unverified.payload).unwrap_or_default();
    let claim = |name: &str| claims[name].as_str().map(str::to_owned);
    match claim("jti") {
        Some(jti) => Ok((jti, issuer.clone().or_else(|| claim("iss")))),
        None => {
            Err(ClientError::Input("this token has no jti, so it cannot be revoked by itself".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: RevokeCommand,
    }

    #[test]
    fn a_token_names_its_own_id_and_issuer() {
        let token = format!(
            "{}.{}.{}",
            crate::base64url::encode(br#"{"alg":"EdDSA"}"#),
            crate::base64url::encode(br#"{"iss":"https://i.test","jti":"seven"}"#),
            "A".repeat(86)
        );
        let of = |kind: &str, name: &str| {
            let Line { command } = Line::try_parse_from(["edgate", kind, name]).unwrap();
            let (RevokeCommand::Token { thing, .. } | RevokeCommand::Kid(thing)) = command else { panic!() };
            named(kind, &thing).unwrap()
        };
        assert_eq!(of("token", &token), ("seven".to_owned(), Some("https://i.test".to_owned())));
        assert_eq!(of("token", "seven"), ("seven".to_owned(), None));
        assert_eq!(of("kid", &token), (token.clone(), None), "only a token is looked into");
    }

    #[test]
    fn a_thing_is_described_with_its_state() {
        let entry = json!({"kind": "subject", "name": "a\u{7}", "issuer": "i", "state": "revoked", "issued_until": 0});
        let text = described(&entry);
        assert_eq!(text, "subject a\\u{7} of i is revoked for what was issued until 1970-01-01T00:00:00Z");
        let entry = json!({"kind": "tenant", "tenant": "acme", "state": "disabled"});
        assert_eq!(described(&entry), "tenant acme is disabled");
    }
}
