//! What only looks: the audit chain, metrics, liveness and readiness.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::Peer;
use super::error::{ApiError, ErrorKind};
use super::signing_keys;
use super::state::{ChainBreak, Dependency, Shared};
use crate::audit::{Event, VerifyRunEvent};

#[derive(Serialize)]
struct ChainAnswer {
    valid: bool,
    records: u64,
    head: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_break: Option<ChainBreak>,
}

/// `GET /v1/audit/verify-chain`: 200 with `valid` true or false; the question was answered either way.
pub(super) async fn verify_chain(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, ApiError> {
    let Ok(permit) = Arc::clone(&shared.verifications).try_acquire_owned() else {
        let description =
            "another verification of the chain is under way; it reads the whole log, try again later";
        return Err(ApiError::new(ErrorKind::Overloaded, description));
    };
    let verify = Arc::clone(&shared.verify_chain);
    let verified = tokio::task::spawn_blocking(move || {
        let report = verify();
        drop(permit);
        report
    });
    let report = match verified.await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            tracing::error!(error, "cannot verify the audit log");
            let description = "the audit log cannot be read now; `edgate audit verify` says why";
            return Err(ApiError::new(ErrorKind::AuditUnavailable, description));
        }
        Err(_) => return Err(ApiError::new(ErrorKind::AuditUnavailable, "the node is stopping")),
    };
    let run = VerifyRunEvent {
        actor: &peer.actor(),
        mode: "full",
        from_seq: 0,
        records: report.records,
        breaks: u64::from(report.first_break.is_some()),
        first_class: report.first_break.as_ref().map_or("", |first| &first.class),
    };
    // A log that takes no records any more is exactly one to be verified: the answer is given all the same.
    if let Err(error) = shared.evidence.record(&Event::VerifyRun(run)).await {
        tracing::error!(%error, "cannot record a verification of the audit log");
    }
    let answer = ChainAnswer {
        valid: report.first_break.is_none(),
        records: report.records,
        head: report.head,
        first_break: report.first_break,
    };
    Ok(Json(answer).into_response())
}

/// `GET /metrics`: OpenMetrics 1.0 text, which Prometheus reads.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut text = String::with_capacity(8 * 1024);
    (shared.metrics)(&mut text);
    let (counters, view) = (&shared.counters, &shared.view);
    let own: [(&str, &str, &str, u64); 7] = [
        ("tokens_issued", "counter", "Tokens issued.", counters.issued.total()),
        (
            "tokens_revoked",
            "counter",
            "Revocations answered, repeated ones included.",
            counters.revoked.total(),
        ),
        ("control_requests_refused", "counter", "Control requests answered 4xx.", counters.refused.total()),
        (
            "control_requests_failed",
            "counter",
            "Control requests answered 5xx.",
            counters.unavailable.total(),
        ),
        ("revocation_entries", "gauge", "Revocations held in memory.", view.len() as u64),
        ("revocation_view_bytes", "gauge", "Memory the revocation view takes.", view.bytes() as u64),
        ("revocation_epoch", "gauge", "Batches of revocations applied since the start.", view.epoch()),
    ];
    for (name, kind, help, value) in own {
        let suffix = if kind == "counter" { "_total" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# HELP edgate_{name} {help}\n# TYPE edgate_{name} {kind}\nedgate_{name}{suffix} {value}"
        );
    }
    signing_keys::metrics(&shared.keys, &mut text);
    text.push_str("# EOF\n");
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

/// `GET /livez`: this thread answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    dependencies: Vec<Dependency>,
}

/// `GET /readyz`: each dependency by name; 503 if one is missing.
pub(super) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let mut dependencies = (shared.readiness)();
    let store = shared.store.ping().await.err();
    dependencies.push(dependency("store", store.map(|error| error.to_string())));
    let failure = shared.evidence.failure();
    dependencies.push(dependency("audit", failure.map(|failure| failure.to_string())));
    let ready = dependencies.iter().all(|dependency| dependency.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, dependencies })).into_response()
}

fn dependency(name: &'static str, problem: Option<String>) -> Dependency {
    Dependency { name, ready: problem.is_none(), detail: problem.unwrap_or_default() }
}
