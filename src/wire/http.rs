//! The head of an HTTP/1.x request (RFC 9112), parsed over `httparse` and held to what cannot be misunderstood.
//!
//! Two parsers that disagree about where a request ends are a smuggling hole, so everything ambiguous is refused:
//! `Content-Length` with `Transfer-Encoding`, repeated or odd lengths, any transfer coding but one `chunked`,
//! folded header lines, white space before a colon, a bare absolute target.

use std::fmt;

/// The longest request head accepted, in bytes: a token of 8 KiB and what proxies add.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The most header lines accepted.
pub const HEADERS_MAX: usize = 96;

/// The request methods that some route knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`: answered as `GET`, without the body.
    Head,
    /// `POST`
    Post,
    /// Any other method.
    Other,
}

/// The protocol versions spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: closes by default, knows no chunked coding.
    Http10,
    /// HTTP/1.1: stays open by default.
    Http11,
}

/// How the body of a request is delimited (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The chunked transfer coding.
    Chunked,
    /// This many bytes, possibly none.
    Length(u64),
}

/// Why a request head is refused; the connection cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpError {
    /// More than [`HEAD_BYTES_MAX`] bytes or [`HEADERS_MAX`] lines: 431.
    HeadTooLarge,
    /// The body is longer than its limit: 413.
    BodyTooLarge,
    /// Not HTTP/1.x, or not unambiguous: 400. The text says what was wrong.
    Malformed(&'static str),
    /// The request did not arrive in time: 408.
    TimedOut,
    /// `Expect` asks for something else than `100-continue`: 417.
    ExpectationUnknown,
}

impl HttpError {
    /// The status that answers it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::Malformed(_) => 400,
            Self::TimedOut => 408,
            Self::ExpectationUnknown => 417,
        }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadTooLarge => {
                write!(f, "request head over {HEAD_BYTES_MAX} bytes or {HEADERS_MAX} lines")
            }
            Self::BodyTooLarge => f.write_str("request body over the limit"),
            Self::Malformed(what) => write!(f, "malformed request: {what}"),
            Self::TimedOut => f.write_str("the request did not arrive in time"),
            Self::ExpectationUnknown => f.write_str("Expect is not 100-continue"),
        }
    }
}

/// One parsed request head; borrows from the connection's buffer.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// The path, as sent, without the query.
    pub path: &'a str,
    /// What follows the first `?`, as sent; empty if there is none.
    pub query: &'a str,
    /// The version.
    pub version: Version,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants the connection kept.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The value of `Authorization`, if exactly one was sent.
    pub authorization: Option<&'a [u8]>,
    /// Whether `Authorization` was sent more than once.
    pub authorization_repeated: bool,
    /// The value of `If-None-Match`, if one was sent.
    pub if_none_match: Option<&'a [u8]>,
    /// The value of `Content-Type`, if one was sent.
    pub content_type: Option<&'a [u8]>,
    /// The number in `X-Edgate-Min-Epoch`, if it was sent.
    pub min_epoch: Option<u64>,
    /// How many bytes of the buffer the head took.
    pub head_bytes: usize,
}

/// Parses the request head at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`HttpError`] names what is wrong; the reply to it must close the connection.
pub fn parse_head(bytes: &[u8]) -> Result<Option<RequestHead<'_>>, HttpError> {
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let head_bytes = match request.parse_with_uninit_headers(window, &mut lines) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
            return Err(HttpError::HeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HeadTooLarge),
        Err(error) => return Err(HttpError::Malformed(describe(error))),
    };
    let version = match request.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        _ => return Err(HttpError::Malformed("unknown HTTP version")),
    };
    let method = match request.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        Some("POST") => Method::Post,
        _ => Method::Other,
    };
    let target = request.path.unwrap_or("");
    if !target.starts_with('/') && target != "*" {
        return Err(HttpError::Malformed("the request target is not a path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));

    let fields = Fields::collect(request.headers)?;
    if version == Version::Http11 && fields.hosts != 1 {
        return Err(HttpError::Malformed("Host must be sent exactly once"));
    }
    let framing = fields.framing(version)?;
    Ok(Some(RequestHead {
        method,
        path,
        query,
        version,
        framing,
        keep_alive: fields.keep_alive(version),
        expects_continue: version == Version::Http11
            && fields.expects_continue
            && framing != Framing::Length(0),
        authorization: fields.authorization.filter(|_| !fields.authorization_repeated),
        authorization_repeated: fields.authorization_repeated,
        if_none_match: fields.if_none_match,
        content_type: fields.content_type,
        min_epoch: fields.min_epoch,
        head_bytes,
    }))
}

fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "invalid header name",
        httparse::Error::HeaderValue => "invalid header value",
        httparse::Error::NewLine => "invalid line ending",
        httparse::Error::Status => "invalid status",
        httparse::Error::Token => "invalid request line",
        httparse::Error::TooManyHeaders => "too many headers",
        httparse::Error::Version => "unknown HTTP version",
    }
}

/// The header fields this server acts on.
#[derive(Default)]
struct Fields<'a> {
    authorization: Option<&'a [u8]>,
    authorization_repeated: bool,
    close: bool,
    content_length: Option<u64>,
    content_type: Option<&'a [u8]>,
    expects_continue: bool,
    hosts: u32,
    if_none_match: Option<&'a [u8]>,
    keep: bool,
    min_epoch: Option<u64>,
    transfer_coded: bool,
}

impl<'a> Fields<'a> {
    fn collect(headers: &[httparse::Header<'a>]) -> Result<Self, HttpError> {
        let mut fields = Self::default();
        for header in headers {
            let (name, value) = (header.name, header.value);
            // Sorted by length first: most headers are dismissed by one comparison.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => fields.hosts += 1,
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HttpError::ExpectationUnknown);
                    }
                    fields.expects_continue = true;
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                        fields.close |= option.eq_ignore_ascii_case(b"close");
                        fields.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                12 if name.eq_ignore_ascii_case("content-type") => fields.content_type = Some(value),
                13 if name.eq_ignore_ascii_case("authorization") => {
                    fields.authorization_repeated |= fields.authorization.is_some();
                    fields.authorization = Some(value);
                }
                13 if name.eq_ignore_ascii_case("if-none-match") => fields.if_none_match = Some(value),
                14 if name.eq_ignore_ascii_case("content-length") => {
                    if fields.content_length.is_some() {
                        return Err(HttpError::Malformed("Content-Length sent twice"));
                    }
                    fields.content_length = Some(
                        parse_length(value).ok_or(HttpError::Malformed("Content-Length is not a number"))?,
                    );
                }
                18 if name.eq_ignore_ascii_case("x-edgate-min-epoch") => {
                    if fields.min_epoch.is_some() {
                        return Err(HttpError::Malformed("X-Edgate-Min-Epoch sent twice"));
                    }
                    let number = parse_length(value);
                    fields.min_epoch =
                        Some(number.ok_or(HttpError::Malformed("X-Edgate-Min-Epoch is not a number"))?);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if fields.transfer_coded || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HttpError::Malformed("Transfer-Encoding is not one chunked"));
                    }
                    fields.transfer_coded = true;
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn framing(&self, version: Version) -> Result<Framing, HttpError> {
        match (self.transfer_coded, self.content_length) {
            (true, Some(_)) => Err(HttpError::Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if version == Version::Http10 => {
                Err(HttpError::Malformed("Transfer-Encoding in HTTP/1.0"))
            }
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep && !self.close,
            Version::Http11 => !self.close,
        }
    }
}

/// A `Content-Length` value or an epoch: digits only, below 2^63 (RFC 9110 §8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<RequestHead<'_>>, HttpError> {
        parse_head(text.as_bytes())
    }

    #[test]
    fn a_request_head_is_parsed_once_complete() {
        let text = "GET /auth/nginx?scope=a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\nrest";
        for cut in 0..text.len() - 4 {
            assert!(matches!(head(&text[..cut]), Ok(None)), "cut at {cut}");
        }
        let head = head(text).unwrap().unwrap();
        assert_eq!((head.method, head.path, head.query), (Method::Get, "/auth/nginx", "scope=a"));
        assert_eq!(head.authorization, Some(b"Bearer t".as_slice()));
        assert_eq!(head.framing, Framing::Length(0));
        assert_eq!(head.head_bytes, text.len() - 4);
        assert!(head.keep_alive);
    }

    #[test]
    fn ambiguous_bodies_are_refused() {
        for headers in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length:\r\n",
            "Content-Length: 9999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length : 3\r\n",
            "A: b\r\n c\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            assert!(matches!(head(&text), Err(HttpError::Malformed(_))), "{headers:?}");
        }
        assert!(head("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn keep_alive_follows_the_version_and_the_connection_header() {
        let keeps = |text: &str| head(text).unwrap().unwrap().keep_alive;
        assert!(keeps("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn a_head_over_its_limits_is_refused() {
        let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(head(&long).unwrap_err(), HttpError::HeadTooLarge);
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX));
        assert_eq!(head(&many).unwrap_err(), HttpError::HeadTooLarge);
    }

    #[test]
    fn repeated_authorization_is_remembered_and_not_chosen_from() {
        let head =
            head("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n")
                .unwrap()
                .unwrap();
        assert!(head.authorization_repeated);
        assert_eq!(head.authorization, None);
    }

    #[test]
    fn the_epoch_demanded_is_one_number() {
        let epoch = |lines: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            head(&text).map(|head| head.unwrap().min_epoch)
        };
        assert_eq!(epoch(""), Ok(None));
        assert_eq!(epoch("x-edgate-min-epoch: 42\r\n"), Ok(Some(42)));
        for value in ["", "-1", "4 2", "0x1", "latest", "9999999999999999999"] {
            assert!(epoch(&format!("X-Edgate-Min-Epoch: {value}\r\n")).is_err(), "{value:?}");
        }
        assert!(epoch("X-Edgate-Min-Epoch: 1\r\nX-Edgate-Min-Epoch: 1\r\n").is_err());
    }

    #[test]
    fn a_request_without_one_host_is_refused() {
        assert!(head("GET / HTTP/1.1\r\n\r\n").is_err());
        assert!(head("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").is_err());
        assert!(head("GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    }
}
