//! The HTTP of a witness: POST add-checkpoint, and whether it lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use super::cosigner::{Answer, Cosigner};
use super::judge::Refusal;
use crate::audit::proof::PROOF_BYTES_MAX;
use crate::listener::serve_until;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests judged at once. Each holds a thread while the disk is flushed; more wait their turn.
const REQUESTS_MAX: usize = 32;

/// How long those under way may take after a signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// tlog-witness: the media type of the size in a 409.
const SIZE_MEDIA: &str = "text/x.tlog.size";

/// Why a witness cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The system refuses something every process needs.
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    cosigner: Arc<Cosigner>,
    turns: Arc<Semaphore>,
}

/// Serves at `address` until SIGTERM or SIGINT; `ready` is told where it listens. Blocks.
///
/// # Errors
/// [`ServeError`].
pub fn serve(
    cosigner: Cosigner,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bind = |error| ServeError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        ready(listener.local_addr()?);
        let router = router(Arc::new(cosigner));
        let open = serve_until(listener, |_| router.clone(), stop).await;
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, open.shutdown()).await;
        Ok(())
    })
}

pub(super) fn router(cosigner: Arc<Cosigner>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/livez", get(async || "ok\n"))
        .with_state(Shared { cosigner, turns: Arc::new(Semaphore::new(REQUESTS_MAX)) })
}

async fn add_checkpoint(State(shared): State<Shared>, body: Body) -> Response {
    let body = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, PROOF_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            return text(StatusCode::BAD_REQUEST, "the body ended early, or is longer than any request");
        }
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 seconds"),
    };
    let Ok(turn) = Arc::clone(&shared.turns).acquire_owned().await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the witness is stopping");
    };
    let judge = move |body: Bytes| {
        let answer = shared.cosigner.add_checkpoint(&body, now());
        drop(turn);
        answer
    };
    match tokio::task::spawn_blocking(move || judge(body)).await {
        Ok(answer) => answer.into_response(),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the witness is stopping"),
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Cosigned(line) => (StatusCode::OK, line).into_response(),
            Self::Refused(Refusal::Conflict { size }) => {
                (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE_MEDIA)], format!("{size}\n"))
                    .into_response()
            }
            Self::Refused(refusal) => {
                let status = StatusCode::from_u16(refusal.status());
                text(status.unwrap_or(StatusCode::BAD_REQUEST), &refusal.to_string())
            }
            Self::TooMany => text(StatusCode::TOO_MANY_REQUESTS, "more checkpoints today than are allowed"),
            Self::Unavailable => {
                text(StatusCode::SERVICE_UNAVAILABLE, "the checkpoint cannot be remembered now")
            }
        }
    }
}

fn text(status: StatusCode, what: &str) -> Response {
    (status, format!("{what}\n")).into_response()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
