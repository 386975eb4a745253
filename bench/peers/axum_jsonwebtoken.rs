//! The peer Edgate is measured against: what a team would write today with the usual crates.
//!
//! axum on a current-thread tokio runtime (one core), `jsonwebtoken` with its aws-lc backend, keys parsed once. It
//! verifies the signature, `iss`, `aud`, `exp` and `nbf` and gives Edgate's answers, but keeps no audit log and knows
//! no revocation, unless `--redis` names a server: then each call asks it with one `EXISTS` on a multiplexed connection.
//! `jsonwebtoken` 11 knows the algorithm as `EdDSA` only.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use clap::Parser;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// A small axum + jsonwebtoken service, for comparison with Edgate.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8280")]
    listen: SocketAddr,
    /// JWKS file with the keys to verify with.
    #[arg(long)]
    jwks: PathBuf,
    /// The `iss` a token must have.
    #[arg(long)]
    issuer: String,
    /// The `aud` a token must name.
    #[arg(long)]
    audience: String,
    /// A Redis to ask, for each accepted token, whether its id is a key there: then it is revoked.
    #[arg(long)]
    redis: Option<String>,
}

struct Verifier {
    redis: Option<MultiplexedConnection>,
    keys: HashMap<String, DecodingKey>,
    validation: Validation,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    jti: String,
    exp: u64,
    scope: Vec<String>,
    own: String,
    task: String,
}

#[derive(Deserialize)]
struct VerifyRequest {
    token: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum VerifyAnswer {
    Accepted { valid: bool, agent: String, scope: Vec<String>, remaining_ttl: u64, decision_id: &'static str },
    Refused { valid: bool, error: &'static str, decision_id: &'static str },
}

/// The peer records no decision, so there is nothing to name.
const DECISION_ID: &str = "none";

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-axum: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), String> {
    let mut verifier = Verifier::load(&arguments.jwks, &arguments.issuer, &arguments.audience)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime: {e}"))?;
    runtime.block_on(async {
        if let Some(url) = &arguments.redis {
            let client = redis::Client::open(url.as_str()).map_err(|e| format!("--redis: {e}"))?;
            let connection = client.get_multiplexed_async_connection().await;
            verifier.redis = Some(connection.map_err(|e| format!("cannot connect to Redis: {e}"))?);
        }
        let app = Router::new()
            .route("/auth/nginx", get(forward_auth))
            .route("/v1/tokens/verify", post(verify_token))
            .route("/readyz", get(|| async { StatusCode::OK }))
            .with_state(Arc::new(verifier));
        let listener = TcpListener::bind(arguments.listen)
            .await
            .map_err(|e| format!("cannot listen on {}: {e}", arguments.listen))?
            .tap_io(|stream| {
                // Fails only on a connection that is already gone.
                let _ = stream.set_nodelay(true);
            });
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|e| format!("cannot take SIGTERM: {e}"))?;
        axum::serve(listener, app)
            .with_graceful_shutdown(async move {
                terminate.recv().await;
            })
            .await
            .map_err(|e| format!("cannot serve: {e}"))
    })
}

impl Verifier {
    fn load(jwks: &Path, issuer: &str, audience: &str) -> Result<Self, String> {
        let text = fs::read_to_string(jwks).map_err(|e| format!("cannot read {}: {e}", jwks.display()))?;
        let set: JwkSet =
            serde_json::from_str(&text).map_err(|e| format!("{} is no JWKS: {e}", jwks.display()))?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let kid = jwk.common.key_id.clone().ok_or("a key has no kid")?;
            let key = DecodingKey::from_jwk(jwk).map_err(|e| format!("key {kid} cannot be used: {e}"))?;
            keys.insert(kid, key);
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = 5;
        Ok(Self { redis: None, keys, validation })
    }

    async fn verify(&self, token: &str) -> Option<Claims> {
        let kid = decode_header(token).ok()?.kid?;
        let claims = decode::<Claims>(token, self.keys.get(&kid)?, &self.validation).ok()?.claims;
        if let Some(redis) = &self.redis {
            let mut command = redis::cmd("EXISTS");
            let revoked: bool = command.arg(&claims.jti).query_async(&mut redis.clone()).await.ok()?;
            if revoked {
                return None;
            }
        }
        Some(claims)
    }
}

async fn forward_auth(State(verifier): State<Arc<Verifier>>, headers: HeaderMap) -> Response {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let claims = match token {
        Some(token) => verifier.verify(token).await,
        None => None,
    };
    match claims {
        Some(claims) => identity(claims).map_or_else(
            || StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            |headers| (StatusCode::OK, headers).into_response(),
        ),
        None => {
            let challenge = "Bearer realm=\"edgate\", error=\"invalid_token\"";
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response()
        }
    }
}

/// The identity headers Edgate sends; `None` when a claim cannot stand in a header.
fn identity(claims: Claims) -> Option<[(HeaderName, HeaderValue); 9]> {
    let value = |text: String| HeaderValue::try_from(text).ok();
    Some([
        (HeaderName::from_static("x-auth-subject"), value(claims.sub)?),
        (HeaderName::from_static("x-auth-issuer"), value(claims.iss)?),
        (HeaderName::from_static("x-auth-tenant"), HeaderValue::from_static("default")),
        (HeaderName::from_static("x-auth-token-id"), value(claims.jti)?),
        (HeaderName::from_static("x-auth-scope"), value(claims.scope.join(" "))?),
        (HeaderName::from_static("x-auth-owner"), value(claims.own)?),
        (HeaderName::from_static("x-auth-task"), value(claims.task)?),
        (HeaderName::from_static("x-auth-expires"), HeaderValue::from(claims.exp)),
        (HeaderName::from_static("x-auth-decision-id"), HeaderValue::from_static(DECISION_ID)),
    ])
}

async fn verify_token(
    State(verifier): State<Arc<Verifier>>,
    Json(request): Json<VerifyRequest>,
) -> Json<VerifyAnswer> {
    Json(match verifier.verify(&request.token).await {
        Some(claims) => VerifyAnswer::Accepted {
            valid: true,
            remaining_ttl: claims.exp.saturating_sub(now()),
            agent: claims.sub,
            scope: claims.scope,
            decision_id: DECISION_ID,
        },
        None => VerifyAnswer::Refused { valid: false, error: "invalid_token", decision_id: DECISION_ID },
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
