//! `POST /v1/audit/exports`: somebody takes records out of the log, and the log says so.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;

use super::actions::{Peer, put_on_record, with_body};
use super::body;
use super::error::ApiError;
use super::state::Shared;
use crate::audit::{Event, ExportEvent, unhex_exact};
use crate::json;

/// Longest filter, as text: the tags of one value, of many epochs.
const FILTER_BYTES_MAX: usize = 16 * 1024;

const MEMBERS: &str = "filter, rows, sha256";

/// Records what was exported; answers once that is durable.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, record_export).await
}

async fn record_export(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut filter, mut rows, mut sha256) = (None, None, None);
    body::read_object(&bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "filter" => filter = Some(body::text(reader, name, FILTER_BYTES_MAX)?),
            "rows" => rows = Some(body::count(reader, name)?),
            "sha256" => sha256 = Some(body::text(reader, name, 64)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(filter), Some(rows), Some(sha256)) = (filter, rows, sha256) else {
        return Err(ApiError::invalid(format!("all of these are needed: {MEMBERS}")));
    };
    let digest = unhex_exact(sha256)
        .ok_or_else(|| ApiError::invalid("\"sha256\" must be 64 hexadecimal digits, in lower case"))?;
    let actor = peer.actor();
    let export = ExportEvent { actor: &actor, filter, rows, digest: &digest };
    put_on_record(&shared, &[Event::Export(export)], "the export must not be used").await
}
