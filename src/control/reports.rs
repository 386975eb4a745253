//! `POST /v1/audit/reports`: somebody examined the log or its disk, and the log says what came of it. The report's digest on
//! record stands under the next checkpoint: so the report is signed.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;

use super::actions::{Peer, put_on_record, with_body};
use super::body;
use super::error::ApiError;
use super::state::Shared;
use super::verify_runs::{DIR_BYTES_MAX, ORIGIN_BYTES_MAX};
use crate::audit::{AdminEvent, Event, Phase, unhex_exact};
use crate::json;

/// Reports there are, and the actions they are recorded as.
const REPORTS: &[(&str, &str)] = &[("doctor", "audit.doctor"), ("drill", "audit.drill")];

/// Longest name of a report, longest summary.
const NAME_BYTES_MAX: usize = 32;
const SUMMARY_BYTES_MAX: usize = 512;

const MEMBERS: &str = "origin, report, summary, sha256, dir (optional)";

/// Records a report; answers once that is durable.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, record_report).await
}

async fn record_report(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut origin, mut dir, mut report, mut summary, mut sha256) = (None, None, None, None, None);
    body::read_object(&bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "origin" => origin = Some(body::text(reader, name, ORIGIN_BYTES_MAX)?),
            "dir" => dir = Some(body::any_text(reader, name, DIR_BYTES_MAX)?),
            "report" => report = Some(body::text(reader, name, NAME_BYTES_MAX)?),
            "summary" => summary = Some(body::text(reader, name, SUMMARY_BYTES_MAX)?),
            "sha256" => sha256 = Some(body::text(reader, name, 64)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(origin), Some(report), Some(summary), Some(sha256)) = (origin, report, summary, sha256) else {
        return Err(ApiError::invalid(format!("all of these are needed: {MEMBERS}")));
    };
    let Some((_, action)) = REPORTS.iter().find(|(name, _)| *name == report) else {
        let names: Vec<_> = REPORTS.iter().map(|(name, _)| *name).collect();
        return Err(ApiError::invalid(format!("\"report\" must be one of {}", names.join(", "))));
    };
    if unhex_exact::<32>(sha256).is_none() {
        return Err(ApiError::invalid("\"sha256\" must be 64 hexadecimal digits, in lower case"));
    }
    shared.own_log.check(origin, dir.map(Path::new))?;
    let actor = peer.actor();
    let event = AdminEvent {
        phase: Phase::Done,
        actor: &actor,
        action,
        target: sha256,
        detail: summary,
        intent: None,
    };
    put_on_record(&shared, &[Event::Admin(event)], "the report stands without it").await
}
