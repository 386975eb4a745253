//! `GET /v1/tls`, `POST /v1/tls/reload`: the certificate of the TLS listeners, and the one that takes its place. On record, before and
//! after.
//!
//! The request says nothing about the certificate: who may change the configuration's files may change it, and nobody else.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, blocking, run};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::state::Shared;
use super::tag_keys::{on_record, rotation};
use crate::audit::{ChangeEvent, Phase, hex};
use crate::tls::Certificate;

/// Reads certificate and key again. Blocks; the error is for the operator.
pub type NextCertificate = Arc<dyn Fn() -> Result<Reload, String> + Send + Sync>;

/// A certificate, with all that the record says of it: its chain, and where its key lives.
pub struct InUse {
    /// For the record.
    pub described: String,
    /// The certificate.
    pub certificate: Certificate,
}

/// A certificate that can take the place of the one in use.
pub struct Reload {
    /// The one in use.
    pub before: InUse,
    /// The next.
    pub after: InUse,
    /// Presents the next.
    pub present: Box<dyn FnOnce() + Send>,
}

/// The certificate of the TLS listeners.
#[derive(Clone)]
pub struct Tls {
    /// The one in use.
    pub certificate: Arc<dyn Fn() -> Certificate + Send + Sync>,
    /// The next; `None` without a configuration file that could name it.
    pub next: Option<NextCertificate>,
}

#[derive(Serialize)]
struct Shown {
    /// SHA-256 of the server's certificate.
    certificate: String,
    /// Seconds since 1970.
    not_before: u64,
    not_after: u64,
    seconds_left: i64,
}

#[derive(Serialize)]
struct Reloaded {
    /// The record of the outcome; `null` if chain and key are those that were in use.
    id: Option<String>,
    before: Shown,
    after: Shown,
}

impl Shown {
    fn new(certificate: &Certificate) -> Self {
        let unix = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            certificate: hex(&certificate.fingerprint),
            not_before: unix(certificate.validity.0),
            not_after: unix(certificate.validity.1),
            seconds_left: certificate.seconds_left(SystemTime::now()),
        }
    }
}

/// Tells which certificate is in use.
pub(super) async fn show(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let tls = shared.tls.as_ref().ok_or_else(none)?;
    Ok(Json(Shown::new(&(tls.certificate)())).into_response())
}

/// Has the next handshake begin with what the files hold now.
pub(super) async fn reload(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::receive_nothing(request).await?;
    run(&shared, take_its_place(Arc::clone(&shared), peer)).await
}

async fn take_its_place(shared: Arc<Shared>, peer: Peer) -> Result<Response, ApiError> {
    let tls = shared.tls.clone().ok_or_else(none)?;
    let next = tls.next.ok_or_else(|| {
        ApiError::new(ErrorKind::NotFound, "this node was started without a configuration file (--dev)")
    })?;
    let _turn = shared.changing_tag_keys.lock().await;
    let Reload { before, after, present } = blocking(move || next()).await?.map_err(|cause| {
        tracing::error!(cause, "the next TLS certificate cannot be used");
        ApiError::invalid(format!("the certificate in use stays: {cause}"))
    })?;
    let (shown_before, shown_after) = (Shown::new(&before.certificate), Shown::new(&after.certificate));
    let actor = peer.actor();
    let id = if before.described == after.described {
        None
    } else {
        let change = ChangeEvent {
            phase: Phase::Intent,
            actor: &actor,
            what: "server.tls",
            before: &before.described,
            after: &after.described,
            intent: None,
        };
        Some(
            on_record(&shared, change, rotation, move |_| {
                present();
                Ok(())
            })
            .await?,
        )
    };
    Ok(Json(Reloaded { id, before: shown_before, after: shown_after }).into_response())
}

fn none() -> ApiError {
    ApiError::new(ErrorKind::NotFound, "no listener of this node speaks TLS (server.listen = [\"tls:…\"])")
}
