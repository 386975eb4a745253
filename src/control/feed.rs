//! `GET /v1/revocations/feed`: each change as a server-sent event, for whoever keeps a copy of what is revoked.
//!
//! An event's id is the revocation epoch, its data the entry of `GET /v1/revocations`. A client that comes back with
//! `Last-Event-ID` gets what changed since, from the state database, and then what changes; with 0 it gets everything
//! that stands. A change may come twice around that moment, which is harmless: it says what stands, not what to add.
//! One call may make several changes under one epoch, so only the last of them carries the id: a client that was cut
//! off between them gets them again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use http_body_util::channel::{Channel, Sender};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::MissedTickBehavior;

use super::error::{ApiError, ErrorKind, shortened};
use super::revocations::Entry;
use super::state::Shared;
use crate::store::{Cursor, Store, StoredChange};

/// Clients at once, far below what connections there may be.
pub(super) const FEED_CLIENTS_MAX: usize = 32;

/// Announcements a client may be behind; one that falls further back is cut off and resumes from the database.
const ANNOUNCEMENTS_MAX: usize = 1024;

/// Pieces of the stream that wait for the connection.
const PIECES_MAX: usize = 16;

/// How long a client may take none of them before it is cut off.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence is broken this often, so that neither side takes the other for gone.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Rows read from the database at once, and one more.
const PAGE_ROWS: u32 = 256;

/// Where changes are announced: all of one epoch at once, after the view has them. Whoever changes what stands sends here.
pub type Announce = broadcast::Sender<Arc<[StoredChange]>>;

/// A place for announcements that nobody listens to yet.
#[must_use]
pub fn announce() -> Announce {
    broadcast::channel(ANNOUNCEMENTS_MAX).0
}

/// `GET /v1/revocations/feed`
pub(super) async fn feed(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = last_event_id(&headers)?;
    let Ok(permit) = Arc::clone(&shared.feeds).try_acquire_owned() else {
        let description = format!("{FEED_CLIENTS_MAX} clients follow the feed already; that is all it takes");
        return Err(ApiError::new(ErrorKind::Overloaded, description));
    };
    let (pieces, body) = Channel::new(PIECES_MAX);
    let follower = Follower {
        // Before the database is read, so that nothing falls between.
        live: shared.announce.subscribe(),
        stopping: shared.stopping.subscribe(),
        store: shared.store.clone(),
        now: shared.now,
        pieces,
        _permit: permit,
    };
    tokio::spawn(follower.run(after));
    let kind = (header::CONTENT_TYPE, "text/event-stream");
    Ok(([kind], Body::new(body)).into_response())
}

/// The epoch after which the client wants to go on; none: from now on.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let mut values = headers.get_all("last-event-id").iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    let text = value.to_str().unwrap_or("(not text)");
    match text.parse() {
        Ok(epoch) if more.is_none() => Ok(Some(epoch)),
        _ => Err(ApiError::invalid(format!(
            "Last-Event-ID \"{}\" is not the id of an event of this feed: a revocation epoch",
            shortened(text)
        ))),
    }
}

/// One client's stream. It ends when the client does, falls back too far, or the node stops.
struct Follower {
    live: broadcast::Receiver<Arc<[StoredChange]>>,
    stopping: watch::Receiver<bool>,
    store: Store,
    now: fn() -> crate::decision::UnixSeconds,
    pieces: Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
}

/// The stream is over.
struct Ended;

impl Follower {
    async fn run(mut self, after: Option<u64>) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => {}
            _ = self.follow(after) => {}
        }
    }

    async fn follow(&mut self, after: Option<u64>) -> Result<(), Ended> {
        // A client learns at once that it is connected.
        self.send(": revocations of this node, as they happen\n\n".to_owned()).await?;
        if let Some(epoch) = after {
            self.catch_up(epoch).await?;
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            let text = tokio::select! {
                announced = self.live.recv() => match announced {
                    Ok(changes) => written(&changes, None)?,
                    // What it missed is in the database: it comes back and asks.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => return Err(Ended),
                },
                _ = heartbeat.tick() => ":\n\n".to_owned(),
            };
            self.send(text).await?;
        }
    }

    /// Sends what stands and changed after `epoch`, oldest first.
    async fn catch_up(&mut self, epoch: u64) -> Result<(), Ended> {
        let mut cursor = Cursor::after(epoch);
        loop {
            // One more than is sent: an epoch may go on in the next page, and its id comes with its last change.
            let read = self.store.changes_after(&cursor, (self.now)(), PAGE_ROWS + 1).await;
            let page = read.map_err(|error| {
                tracing::error!(%error, "cannot read revocations for the feed");
                Ended
            })?;
            let (page, rest) = page.split_at(page.len().min(PAGE_ROWS as usize));
            let Some(last) = page.last() else { return Ok(()) };
            let text = written(page, rest.first().map(|change| change.epoch))?;
            self.send(text).await?;
            cursor = Cursor::behind(last);
        }
    }

    async fn send(&mut self, text: String) -> Result<(), Ended> {
        match tokio::time::timeout(SLOW_TIMEOUT, self.pieces.send_data(Bytes::from(text))).await {
            Ok(Ok(())) => Ok(()),
            // The client is gone, or takes nothing.
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }
}

/// `changes` as events, in their order; `next` is the epoch of the change after them, where there is one.
fn written(changes: &[StoredChange], next: Option<u64>) -> Result<String, Ended> {
    let mut text = String::new();
    for (at, change) in changes.iter().enumerate() {
        let following = changes.get(at + 1).map(|change| change.epoch).or(next);
        if following != Some(change.epoch) {
            text.push_str(&format!("id: {}\n", change.epoch));
        }
        // JSON has no raw line breaks, so one line of data is enough.
        let entry = serde_json::to_string(&Entry::from(change.clone())).map_err(|_| Ended)?;
        text.push_str("data: ");
        text.push_str(&entry);
        text.push_str("\n\n");
    }
    Ok(text)
}
