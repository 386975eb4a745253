//! `POST /v1/audit/verify-runs`: somebody verified the log with the command, and the log says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::Response;

use super::actions::{Peer, put_on_record, with_body};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::state::Shared;
use crate::audit::verify::{Class, Mode};
use crate::audit::{Event, VerifyRunEvent};
use crate::json;

/// The log that this node writes.
#[derive(Debug, Clone)]
pub struct OwnLog {
    /// Its name.
    pub origin: String,
    /// Its folder.
    pub dir: PathBuf,
}

impl OwnLog {
    /// Whether a log of this name, in this folder if one is named, is ours.
    pub(super) fn check(&self, origin: &str, dir: Option<&Path>) -> Result<(), ApiError> {
        let same = |dir: &Path| {
            dir.canonicalize().is_ok_and(|dir| self.dir.canonicalize().is_ok_and(|own| own == dir))
        };
        if self.origin == origin && dir.is_none_or(same) {
            return Ok(());
        }
        Err(ApiError::new(ErrorKind::OtherLog, "this node writes another log, or not in that folder"))
    }
}

/// Longest name of a log, longest path of its folder.
pub(super) const ORIGIN_BYTES_MAX: usize = 128;
pub(super) const DIR_BYTES_MAX: usize = 4096;

/// Longest name of a mode or class.
const NAME_BYTES_MAX: usize = 32;

const MEMBERS: &str = "origin, mode, from, records, breaks, dir (optional), first_class (with breaks)";

/// Records a verification; answers once that is durable.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, record_run).await
}

async fn record_run(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut origin, mut dir, mut mode, mut first_class) = (None, None, None, None);
    let (mut from, mut records, mut breaks) = (None, None, None);
    body::read_object(&bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "origin" => origin = Some(body::text(reader, name, ORIGIN_BYTES_MAX)?),
            "dir" => dir = Some(body::any_text(reader, name, DIR_BYTES_MAX)?),
            "mode" => mode = Some(body::text(reader, name, NAME_BYTES_MAX)?),
            "from" => from = Some(body::count(reader, name)?),
            "records" => records = Some(body::count(reader, name)?),
            "breaks" => breaks = Some(body::count(reader, name)?),
            "first_class" => first_class = Some(body::text(reader, name, NAME_BYTES_MAX)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(origin), Some(mode), Some(from_seq), Some(records), Some(breaks)) =
        (origin, mode, from, records, breaks)
    else {
        return Err(ApiError::invalid(format!("all of these are needed: {MEMBERS}")));
    };
    if !Mode::NAMES.contains(&mode) {
        return Err(ApiError::invalid(format!("\"mode\" must be one of {}", Mode::NAMES.join(", "))));
    }
    let first_class = first_class.unwrap_or_default();
    let known = Class::ALL.iter().any(|class| class.name() == first_class);
    if (breaks > 0 && !known) || (breaks == 0 && !first_class.is_empty()) {
        return Err(ApiError::invalid(
            "\"first_class\" must name the class of the first break where there are breaks, and nothing where there are none",
        ));
    }
    shared.own_log.check(origin, dir.map(Path::new))?;
    let actor = peer.actor();
    let run = VerifyRunEvent { actor: &actor, mode, from_seq, records, breaks, first_class };
    put_on_record(&shared, &[Event::VerifyRun(run)], "the verification stands without it").await
}
