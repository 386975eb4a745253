//! Claims: the bytes are signed with a trusted key, so that they reach what only verified payloads reach.

use std::cell::RefCell;
use std::time::Instant;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::decision::{Decision, Rejection, UnixSeconds};
use edgate::json::{self, Reader};
use edgate::keys::{IssuerIndex, KeySet, PublishedKey};
use edgate::revocation::{Change, Effect, Freshness, TargetKind, View};
use edgate::shard::{Delegates, Moment, Policy, Settled, admit, settle};
use edgate::token::{self, Demand, Profile, ProfileKind, Scratch};
use edgate::verify::{Engine, Item, Verifier, VerifyingKey};
use edgate::wire::{AnswerWriter, Connection, IDENTITY_HEADERS, Identity, Place, Terms, write_forward_reply};
use edgate::{base64url, shard};
use serde_json::Value;

const NOW: u64 = 1_700_000_000;
const LEEWAY_S: u64 = 30;
const LIFETIME_S: u64 = 86_400;
const ISSUER: &str = "https://as.example";
const AUDIENCE: &str = "orders";
const SCOPE: &str = "orders.read";

/// A gate with one issuer, kept between runs: a shard keeps its own too.
struct Gate {
    signing_key: SigningKey,
    policy: Policy,
    view: View,
    verifier: Verifier,
    scratch: Scratch,
}

impl Gate {
    fn new() -> Self {
        let signing_key = SigningKey::from_bytes(&[1; 32]);
        let verifying_key =
            VerifyingKey::register(signing_key.verifying_key().as_bytes()).expect("a genuine key");
        let keys = vec![PublishedKey { kid: "k".to_owned(), verifying_key }];
        let mut profile = Profile::new(
            ProfileKind::Jwt,
            "as".to_owned(),
            "tenant".to_owned(),
            ISSUER.to_owned(),
            vec![AUDIENCE.to_owned()],
        );
        (profile.leeway_s, profile.max_lifetime_s) = (LEEWAY_S, Some(LIFETIME_S));
        let view = View::new(&[0; 16], 0, Freshness::authoritative(Instant::now()));
        let until = Effect::RefusedUntil(UnixSeconds(NOW + LIFETIME_S));
        let revoked = Change::new(TargetKind::Token, "tenant", ISSUER, "revoked", until, 1);
        view.apply(revoked, 1, UnixSeconds(NOW));
        Self {
            signing_key,
            policy: Policy::plain(KeySet::new(vec![(IssuerIndex(0), keys)]).expect("one key"), vec![profile]),
            view,
            verifier: Verifier::new(Engine::Auto),
            scratch: Scratch::default(),
        }
    }

    fn token(&self, payload: &[u8]) -> String {
        let header = base64url::encode(br#"{"alg":"Ed25519","kid":"k"}"#);
        let input = format!("{header}.{}", base64url::encode(payload));
        let signature = self.signing_key.sign(input.as_bytes()).to_bytes();
        token::assemble(input, &signature)
    }

    fn decide<T>(&mut self, text: &[u8], then: impl FnOnce(&Settled<'_, '_>) -> T) -> T {
        let Self { policy, view, verifier, scratch, .. } = self;
        let admitted = match admit(text, policy, &Delegates::default(), scratch) {
            Ok(admitted) => admitted,
            Err(refused) => return then(&Settled::not_admitted(refused.into_rejection())),
        };
        let mut verdicts = Vec::new();
        let items: Vec<Item<'_>> = shard::Admitted::items(&admitted).collect();
        verifier.verify(&items, &mut verdicts);
        let demand = Demand { audience: None, scopes: &[SCOPE] };
        let mut verdicts = verdicts.into_iter();
        let (look, realms) = (view.look(), policy.realms(view));
        let moment =
            Moment { policy, look: &look, realms: &realms, now: UnixSeconds(NOW), stale: false, lists: None };
        then(&settle(admitted, &mut verdicts, &moment, &demand, scratch))
    }
}

thread_local! {
    static GATE: RefCell<Gate> = RefCell::new(Gate::new());
}

/// A payload is accepted exactly if a slow reading of the rules accepts it, its answers are well-formed whatever it
/// says, and the same token with one bit changed is not accepted.
pub fn claims(payload: &[u8]) {
    GATE.with_borrow_mut(|gate| {
        let token = gate.token(payload);
        if token.len() > token::TOKEN_BYTES_MAX {
            gate.decide(token.as_bytes(), |settled| {
                assert_eq!(settled.decision, Rejection::TokenTooLong.into());
            });
            return;
        }
        gate.decide(token.as_bytes(), |settled| {
            let expected = expected(payload);
            assert_eq!(
                settled.decision == Decision::Accepted,
                expected.is_ok(),
                "{}: {expected:?}",
                settled.decision
            );
            answers(settled);
        });

        let mut forged = token.into_bytes();
        let bit = payload.iter().fold(forged.len(), |sum, byte| sum.wrapping_mul(31) + usize::from(*byte));
        let at = bit / 8 % forged.len();
        forged[at] ^= 1 << (bit % 8);
        gate.decide(&forged, |settled| {
            assert_ne!(settled.decision, Decision::Accepted, "bit {} of byte {at} changed", bit % 8);
            assert!(settled.claims.is_none(), "claims of a token that was not verified");
        });
    });
}

/// The rules of `token` for the profile `jwt`, by way of another JSON library.
fn expected(payload: &[u8]) -> Result<(), &'static str> {
    // Whether the text is strict JSON with distinct names is the question of the body `json`.
    json::read(payload, &mut json::Scratch::default(), Reader::skip).map_err(|_| "not strict JSON")?;
    let value: Value = serde_json::from_slice(payload).map_err(|_| "not JSON")?;
    let claims = value.as_object().ok_or("not an object")?;
    let texts = |value: &Value| match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(all) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    for name in ["iss", "sub", "jti", "client_id", "sid", "nonce"] {
        if claims.get(name).is_some_and(|value| !value.is_string()) {
            return Err("a text claim of another type");
        }
    }
    if claims.get("act").is_some_and(|act| !act.is_object()) {
        return Err("act is no object");
    }
    let aud = claims.get("aud").map(|aud| texts(aud).ok_or("aud"));
    let aud = aud.transpose()?.ok_or("aud is missing")?;
    let scopes = match claims.get("scope") {
        None => Vec::new(),
        Some(Value::String(text)) => {
            text.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        Some(other) => texts(other).ok_or("scope")?,
    };
    let scope_char = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if !scopes.iter().all(|scope| !scope.is_empty() && scope.chars().all(scope_char)) {
        return Err("a scope that cannot be one");
    }
    let exp = time(claims.get("exp"), f64::floor)?.ok_or("exp is missing")?;
    let nbf = time(claims.get("nbf"), f64::ceil)?;
    let iat = time(claims.get("iat"), f64::ceil)?;
    let latest = NOW + LEEWAY_S;
    let issued = iat.unwrap_or(latest);
    match () {
        () if value["iss"] != ISSUER => Err("iss"),
        () if value["sub"] == "" || value["jti"] == "" => Err("a name that says nothing"),
        () if value["jti"] == "revoked" => Err("revoked"),
        () if !aud.iter().any(|aud| aud == AUDIENCE) => Err("aud is not ours"),
        () if NOW >= exp + LEEWAY_S => Err("expired"),
        () if nbf.is_some_and(|nbf| nbf > latest) || issued > latest => Err("not yet"),
        () if exp.saturating_sub(issued) > LIFETIME_S => Err("lives too long"),
        () if !scopes.iter().any(|scope| scope == SCOPE) => Err("scope is not covered"),
        () => Ok(()),
    }
}

fn time(value: Option<&Value>, round: fn(f64) -> f64) -> Result<Option<u64>, &'static str> {
    const END: u64 = 1 << 53;
    let Some(value) = value else { return Ok(None) };
    if let Some(whole) = value.as_u64() {
        return if whole < END { Ok(Some(whole)) } else { Err("a time out of range") };
    }
    let seconds = round(value.as_f64().filter(|_| value.is_number()).ok_or("a time of another type")?);
    // Below 2^53 doubles hold every integer.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    if value.as_f64().is_some_and(|seconds| seconds >= 0.0) && seconds < END as f64 {
        Ok(Some(seconds as u64))
    } else {
        Err("a time out of range")
    }
}

/// Whatever the claims say, an answer is one answer.
fn answers(settled: &Settled<'_, '_>) {
    let Some(claims) = &settled.claims else { return };
    // Also for claims that were refused: what the writers promise does not depend on the decision.
    let identity = Identity {
        subject: claims.sub.unwrap_or(""),
        issuer: claims.iss.unwrap_or(""),
        tenant: "tenant",
        token_id: claims.jti.map_or("", |jti| jti.0),
        owner: claims.own.unwrap_or(""),
        task: claims.task.unwrap_or(""),
        scopes: &claims.scope,
        expires_at: claims.exp.map_or(0, |exp| exp.0),
        remaining_ttl: 0,
        claims_json: claims.json.as_bytes(),
    };
    let mut reply = Vec::new();
    write_forward_reply(&mut reply, &Ok(identity), "", "id", Terms::default(), Connection::KeepAlive);
    let headers = super::token::reply_headers(&reply, 200);
    let names: Vec<&str> =
        headers.iter().map(|(name, _)| name.as_str()).take(IDENTITY_HEADERS.len()).collect();
    assert_eq!(names, IDENTITY_HEADERS);
    for (header, claim) in [(0, identity.subject), (1, identity.issuer), (3, identity.token_id)] {
        assert_eq!(unescape(&headers[header].1), claim.as_bytes(), "{}", headers[header].0);
    }

    let (mut out, mut body) = (Vec::new(), Vec::new());
    let place = Place {
        first: true,
        last: true,
        many: false,
        claims: true,
        receipt: true,
        connection: Connection::KeepAlive,
    };
    AnswerWriter::new(&mut out, &mut body).write(&Ok(identity), "id", Terms::default(), place, None);
    let end = out.windows(4).position(|end| end == b"\r\n\r\n").expect("a reply has a head") + 4;
    let answer: Value = serde_json::from_slice(&out[end..]).expect("an answer is JSON");
    assert_eq!(answer["agent"], identity.subject);
    let scopes: Vec<&str> = claims.scope.to_vec();
    assert_eq!(answer["scope"], serde_json::json!(scopes));
    assert_eq!(answer["claims"], serde_json::from_str::<Value>(claims.json).expect("claims are JSON"));
}

/// What a proxy behind us reads back from a header.
fn unescape(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut parts = value.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or("").as_bytes());
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}
