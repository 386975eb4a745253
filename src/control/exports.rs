//! `POST /v1/audit/exports`: somebody takes records out of the log, and the log says so.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, run};
use super::body;
use super::error::ApiError;
use super::evidence;
use super::state::Shared;
use crate::audit::{Event, ExportEvent, hex, unhex};
use crate::json;

/// Longest filter, as text: the tags of one value, of many epochs.
const FILTER_BYTES_MAX: usize = 16 * 1024;

const MEMBERS: &str = "filter, rows, sha256";

#[derive(Serialize)]
struct Recorded {
    /// The record's name: `edgate audit tail` shows it.
    id: String,
}

/// Records what was exported; answers once that is durable.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::check_content_type(request.headers())?;
    let bytes = body::receive(request.into_body()).await?;
    run(&shared, record_export(Arc::clone(&shared), peer, bytes)).await
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
    let digest = digest(sha256)
        .ok_or_else(|| ApiError::invalid("\"sha256\" must be 64 hexadecimal digits, in lower case"))?;
    let actor = peer.actor();
    let export = ExportEvent { actor: &actor, filter, rows, digest: &digest };
    let id = shared
        .evidence
        .record(&Event::Export(export))
        .await
        .map_err(|error| evidence::unavailable(&error, "the export is not on record"))?;
    Ok(Json(Recorded { id: id.to_string() }).into_response())
}

/// A digest from the one spelling that is written everywhere.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    unhex(text)?.try_into().ok().filter(|digest: &[u8; 32]| hex(digest) == text)
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn a_digest_has_one_spelling() {
        let text = format!("{}ff", "0a".repeat(31));
        let mut expected = [10; 32];
        expected[31] = 255;
        assert_eq!(digest(&text), Some(expected));
        for other in
            [text.to_uppercase(), text[1..].to_owned(), format!("{text}0"), "g".repeat(64), "+f".repeat(32)]
        {
            assert_eq!(digest(&other), None, "{other}");
        }
    }
}
