//! One connection: HTTP/1.x in, questions to the shard's turn, replies out.
//!
//! A pass over the buffer takes every complete request in it (pipelining); the answers of all of them leave in one
//! write. Requests that decide nothing wait for the questions before them, so that replies keep their order.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::decision::Rejection;
use crate::metrics::bump;
use crate::wire::{
    self, BodyReader, Connection, ForwardAuth, Framing, HEAD_BYTES_MAX, HttpError, Method, Place, Reply,
    RequestHead, Terms, VerifyCallError, Version, write_reply,
};

use super::Shard;
use super::clock::{Clock, Deadline};
use super::outbox::{Outbox, Owed, Release};
use super::stream::Stream;
use super::turn::{Form, Question};

/// The read buffer a connection starts with and returns to: one request with a long token.
const BUFFER_BYTES: usize = 4096;

/// Serves one connection until it ends, by either side, by a deadline or by the drain.
pub(super) async fn serve<S: Stream>(stream: S, peer: Option<IpAddr>, shard: Rc<Shard>) {
    let deadline = shard.clock.watch();
    bump(&shard.metrics.connections);
    bump(&shard.metrics.connections_accepted);
    let mut connection = Session {
        stream,
        peer,
        deadline: Rc::clone(&deadline),
        outbox: Rc::default(),
        buffer: Vec::with_capacity(BUFFER_BYTES),
        body: None,
        began: None,
        arrived: Instant::now(),
        shard: Rc::clone(&shard),
    };
    connection.run().await;
    shard.clock.forget(&deadline);
    crate::metrics::drop_one(&shard.metrics.connections);
}

/// What to do once the buffer holds nothing more that is complete.
enum Next {
    Close,
    Read,
}

struct Session<S> {
    stream: S,
    peer: Option<IpAddr>,
    deadline: Rc<Deadline>,
    outbox: Rc<Outbox>,
    // Bytes received and not yet taken; moved into each read and back.
    buffer: Vec<u8>,
    // The state of the body that is still arriving, if one is.
    body: Option<BodyReader>,
    // When the first byte of the incomplete request in `buffer` arrived.
    began: Option<Instant>,
    // When the bytes of the current pass arrived.
    arrived: Instant,
    shard: Rc<Shard>,
}

/// How a reply must be written.
#[derive(Clone, Copy)]
struct ReplyForm {
    connection: Connection,
    head_only: bool,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    AuthNginx,
    Jwks,
    Livez,
    Readyz,
    Unknown,
    VerifyTokens,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/auth/nginx" => Self::AuthNginx,
            "/v1/tokens/verify" => Self::VerifyTokens,
            "/.well-known/jwks.json" => Self::Jwks,
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            _ => Self::Unknown,
        }
    }

    fn allows(self, method: Method) -> bool {
        match self {
            Self::VerifyTokens => method == Method::Post,
            Self::AuthNginx | Self::Jwks | Self::Livez | Self::Readyz => {
                matches!(method, Method::Get | Method::Head)
            }
            Self::Unknown => true,
        }
    }

    const fn allow_header(self) -> &'static str {
        match self {
            Self::VerifyTokens => "Allow: POST\r\n",
            _ => "Allow: GET, HEAD\r\n",
        }
    }
}

impl<S: Stream> Session<S> {
    async fn run(&mut self) {
        loop {
            let next = self.take_requests().await;
            if !self.flush().await {
                return;
            }
            let draining = self.shard.control.is_draining() && self.buffer.is_empty();
            if matches!(next, Next::Close) || draining || !self.read().await {
                self.shard.clock.set(&self.deadline, self.shard.settings.idle_timeout, true);
                let deadline = Rc::clone(&self.deadline);
                deadline.within(self.stream.shutdown()).await;
                return;
            }
        }
    }

    /// Takes every complete request in the buffer and leaves their replies in the outbox.
    async fn take_requests(&mut self) -> Next {
        let mut taken = 0;
        let next = loop {
            match self.take_request(&mut taken).await {
                Ok(true) => {}
                Ok(false) => break Next::Read,
                Err(Closing::AsAsked) => break Next::Close,
                Err(Closing::Broken(error)) => {
                    bump(&self.shard.metrics.http_errors);
                    self.settle_questions().await;
                    self.plain(error.status(), "", &format!("{error}\n"), ReplyForm::CLOSE);
                    break Next::Close;
                }
            }
        };
        if taken > 0 {
            self.buffer.drain(..taken);
            self.began = None;
        }
        self.settle_questions().await;
        next
    }

    /// Takes one request from the buffer at `taken`; `false` if none is complete.
    async fn take_request(&mut self, taken: &mut usize) -> Result<bool, Closing> {
        let Some(head) = wire::parse_head(&self.buffer[*taken..])? else { return Ok(false) };
        let body_start = *taken + head.head_bytes;
        if head.framing == Framing::Length(0) {
            let form = ReplyForm::of(&head);
            self.answer(&head, b"", form).await;
            *taken = body_start;
            return form.outcome();
        }
        let mut reader = match self.body.take() {
            Some(reader) => reader,
            None => {
                let reader = BodyReader::new(head.framing, self.shard.settings.body_bytes_max)?;
                if head.expects_continue && self.buffer.len() == body_start {
                    self.settle_questions().await;
                    self.outbox.with_bytes(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
                }
                reader
            }
        };
        let Some(body) = reader.advance(&mut self.buffer[body_start..])? else {
            self.body = Some(reader);
            return Ok(false);
        };
        // The body was decoded in place, so the head is read once more instead of being held across that.
        let Some(head) = wire::parse_head(&self.buffer[*taken..])? else { return Ok(false) };
        let form = ReplyForm::of(&head);
        self.answer(&head, &self.buffer[body_start..body_start + body.len], form).await;
        *taken = body_start + body.consumed;
        form.outcome()
    }

    /// Asks what the request asks, or replies at once where there is nothing to decide.
    async fn answer(&self, head: &RequestHead<'_>, body: &[u8], form: ReplyForm) {
        let route = Route::of(head.path);
        if route.allows(head.method) {
            match route {
                Route::AuthNginx => return self.ask_forward(head, form).await,
                Route::VerifyTokens => return self.ask_verify(head, body, form).await,
                Route::Jwks | Route::Livez | Route::Readyz | Route::Unknown => {}
            }
        }
        // The answers asked for before this request leave before its reply.
        self.settle_questions().await;
        bump(&self.shard.metrics.http_other);
        if !route.allows(head.method) {
            return self.plain(405, route.allow_header(), "this route does not know that method\n", form);
        }
        match route {
            Route::Jwks => {
                let published = &self.shard.policy().published;
                if head.if_none_match.is_some_and(|given| published.matches(given)) {
                    self.reply(304, &published.headers, None, b"", form);
                } else {
                    let media = Some("application/jwk-set+json");
                    self.reply(200, &published.headers, media, published.body.as_bytes(), form);
                }
            }
            Route::Livez => self.plain(200, "Cache-Control: no-store\r\n", "ok\n", form),
            Route::Readyz => {
                let (ready, text) = self.shard.control.readiness();
                self.plain(if ready { 200 } else { 503 }, "Cache-Control: no-store\r\n", &text, form);
            }
            Route::AuthNginx | Route::VerifyTokens | Route::Unknown => {
                self.plain(404, "", "no such route\n", form);
            }
        }
    }

    async fn ask_forward(&self, head: &RequestHead<'_>, form: ReplyForm) {
        let demands = match ForwardAuth::parse(head.query) {
            Ok(demands) => demands,
            Err(message) => {
                // The proxy's configuration is wrong: nothing was asked about the token.
                bump(&self.shard.metrics.http_errors);
                self.settle_questions().await;
                return self.plain(400, "", &format!("{message}\n"), form);
            }
        };
        let token = wire::forward_token(head);
        let question = Question {
            token,
            audience: demands.audience.as_deref(),
            scopes: &demands.scopes,
            form: Form::Forward(form.connection),
            peer: self.peer,
            arrived: self.arrived,
            min_epoch: head.min_epoch,
        };
        self.outbox.expect(Owed::Forward(form.connection));
        self.shard.turn.ask(&question, &self.outbox);
    }

    async fn ask_verify(&self, head: &RequestHead<'_>, body: &[u8], form: ReplyForm) {
        if !head.content_type.is_some_and(wire::is_json) {
            self.settle_questions().await;
            return self.plain(415, "", "send the call as Content-Type: application/json\n", form);
        }
        if let Err(error) = self.ask_call(body, head.min_epoch, form) {
            self.settle_questions().await;
            let text = wire::error_json("invalid_request", &error.to_string());
            let headers = "Cache-Control: no-store\r\n";
            self.reply(400, headers, Some("application/json"), text.as_bytes(), form);
        }
    }

    /// Asks about every token of a verify call.
    fn ask_call(&self, body: &[u8], min_epoch: Option<u64>, form: ReplyForm) -> Result<(), VerifyCallError> {
        let mut scratch = self.shard.json.borrow_mut();
        let call = wire::parse_verify_call(body, &mut scratch)?;
        let count = call.tokens.len();
        // Many tokens are one record and so one release; one token is as well.
        self.outbox.expect(Owed::Verify(form.connection));
        for (i, token) in call.tokens.iter().enumerate() {
            let question = Question {
                token: Ok(token.as_bytes()),
                audience: call.audience,
                scopes: &call.scopes,
                form: Form::Verify(Place {
                    first: i == 0,
                    last: i + 1 == count,
                    many: call.many,
                    claims: call.claims,
                    receipt: call.receipt,
                    connection: form.connection,
                }),
                peer: self.peer,
                arrived: self.arrived,
                min_epoch,
            };
            self.shard.turn.ask(&question, &self.outbox);
        }
        Ok(())
    }

    fn plain(&self, status: u16, headers: &str, body: &str, form: ReplyForm) {
        self.reply(status, headers, Some("text/plain; charset=utf-8"), body.as_bytes(), form);
    }

    fn reply(&self, status: u16, headers: &str, content_type: Option<&str>, body: &[u8], form: ReplyForm) {
        let reply = Reply {
            status,
            headers,
            content_type,
            body,
            head_only: form.head_only,
            connection: form.connection,
        };
        self.outbox.with_bytes(|out| write_reply(out, &reply));
    }

    /// Waits until every question asked so far is answered and recorded; answers 503 to those that could not be.
    async fn settle_questions(&self) {
        if !self.outbox.is_waiting() {
            return;
        }
        Clock::clear(&self.deadline);
        if let Release::Unrecorded(owed) = self.outbox.released().await {
            for owed in owed {
                let rejection = Rejection::AuditUnavailable;
                self.outbox.with_bytes(|out| match owed {
                    Owed::Forward(connection) => {
                        wire::write_forward_reply(out, &Err(rejection), "", "", Terms::default(), connection);
                    }
                    Owed::Verify(connection) => wire::write_unavailable(out, rejection, connection),
                });
            }
        }
    }

    /// Writes what the outbox holds; `false` if the peer is gone or does not take it in time.
    async fn flush(&mut self) -> bool {
        let bytes = self.outbox.take(Vec::new());
        if bytes.is_empty() {
            self.outbox.take(bytes);
            return true;
        }
        self.shard.clock.set(&self.deadline, self.shard.settings.idle_timeout, false);
        let deadline = Rc::clone(&self.deadline);
        let Some((result, mut bytes)) = deadline.within(self.stream.write_all(bytes)).await else {
            return false;
        };
        bytes.clear();
        if bytes.capacity() > HEAD_BYTES_MAX {
            bytes = Vec::with_capacity(BUFFER_BYTES);
        }
        self.outbox.take(bytes);
        result.is_ok()
    }

    /// Reads more bytes; `false` at the end of the stream or of the peer's time.
    async fn read(&mut self) -> bool {
        let idle = self.buffer.is_empty();
        let settings = &self.shard.settings;
        if idle {
            self.shard.clock.set(&self.deadline, settings.idle_timeout, true);
        } else {
            // A request's time runs from its first byte: one more byte does not buy more time.
            let began = *self.began.get_or_insert(self.arrived);
            let wait = settings.header_timeout.saturating_sub(began.elapsed());
            self.shard.clock.set(&self.deadline, wait, false);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let filled = buffer.len();
        if idle && buffer.capacity() > HEAD_BYTES_MAX {
            buffer = Vec::with_capacity(BUFFER_BYTES);
        }
        if buffer.capacity() - filled < BUFFER_BYTES / 2 {
            buffer.reserve(BUFFER_BYTES.max(filled.min(HEAD_BYTES_MAX * 4)));
        }
        let deadline = Rc::clone(&self.deadline);
        let Some((result, buffer)) = deadline.within(self.stream.read(buffer)).await else {
            // The read was dropped with its buffer: only the fact that something had arrived is left.
            if !idle {
                bump(&self.shard.metrics.http_errors);
                self.plain(408, "", "the request did not arrive in time\n", ReplyForm::CLOSE);
                self.flush().await;
            }
            return false;
        };
        self.buffer = buffer;
        self.arrived = Instant::now();
        matches!(result, Ok(received) if received > 0)
    }
}

/// Why no further request is taken from a connection.
enum Closing {
    AsAsked,
    Broken(HttpError),
}

impl From<HttpError> for Closing {
    fn from(error: HttpError) -> Self {
        Self::Broken(error)
    }
}

impl ReplyForm {
    const CLOSE: Self = Self { connection: Connection::Close, head_only: false };

    fn of(head: &RequestHead<'_>) -> Self {
        let connection = match (head.keep_alive, head.version) {
            (false, _) => Connection::Close,
            (true, Version::Http10) => Connection::KeepAliveHttp10,
            (true, Version::Http11) => Connection::KeepAlive,
        };
        Self { connection, head_only: head.method == Method::Head }
    }

    fn outcome(self) -> Result<bool, Closing> {
        if self.connection == Connection::Close { Err(Closing::AsAsked) } else { Ok(true) }
    }
}
