//! Replies to bytes.

/// What becomes of the connection after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// It is closed once the reply is written.
    Close,
    /// It stays open, and an HTTP/1.0 client must be told so.
    KeepAliveHttp10,
    /// It stays open, as is usual in HTTP/1.1.
    KeepAlive,
}

/// The header with which an answer tells the revocation epoch it was given under.
pub const EPOCH_HEADER: &str = "X-Edgate-Epoch";

/// On what terms an answer about a token is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// The revocation epoch it was given under, if the caller asked.
    pub epoch: Option<u64>,
    /// For how many seconds a proxy may keep an acceptance; `None`: nothing is said about that.
    pub max_age_s: Option<u64>,
}

impl Terms {
    /// Appends the header lines that say so.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self.max_age_s {
            None => {}
            Some(0) => out.extend_from_slice(b"Cache-Control: no-store\r\n"),
            Some(seconds) => {
                out.extend_from_slice(b"Cache-Control: private, max-age=");
                write_decimal(out, seconds);
                out.extend_from_slice(b"\r\n");
            }
        }
        if let Some(epoch) = self.epoch {
            out.extend_from_slice(EPOCH_HEADER.as_bytes());
            out.extend_from_slice(b": ");
            write_decimal(out, epoch);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// One reply: status, further header lines, body.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Further header lines, each ending with CRLF.
    pub headers: &'a str,
    /// `Content-Type`, if there is a body.
    pub content_type: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
    /// Whether the request was `HEAD`: the length is told, the body is not sent.
    pub head_only: bool,
    /// What becomes of the connection.
    pub connection: Connection,
}

/// Appends `reply` to `out` (RFC 9112 §4). `Content-Length` is always sent, except with 304.
pub fn write_reply(out: &mut Vec<u8>, reply: &Reply<'_>) {
    write_status_line(out, reply.status);
    out.extend_from_slice(reply.headers.as_bytes());
    if let Some(content_type) = reply.content_type {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(content_type.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if reply.status != 304 {
        out.extend_from_slice(b"Content-Length: ");
        write_decimal(out, reply.body.len() as u64);
        out.extend_from_slice(b"\r\n");
    }
    write_connection(out, reply.connection);
    out.extend_from_slice(b"\r\n");
    if !reply.head_only && reply.status != 304 {
        out.extend_from_slice(reply.body);
    }
}

pub(super) fn write_status_line(out: &mut Vec<u8>, status: u16) {
    let line: &[u8] = match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        408 => b"HTTP/1.1 408 Request Timeout\r\n",
        413 => b"HTTP/1.1 413 Content Too Large\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        417 => b"HTTP/1.1 417 Expectation Failed\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        _ => unreachable!("no reply of ours has status {status}"),
    };
    out.extend_from_slice(line);
}

pub(super) fn write_connection(out: &mut Vec<u8>, connection: Connection) {
    match connection {
        Connection::Close => out.extend_from_slice(b"Connection: close\r\n"),
        Connection::KeepAliveHttp10 => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Connection::KeepAlive => {}
    }
}

/// Appends `number` in decimal, without an allocation.
pub(super) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_written_as_formatted() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn a_head_reply_tells_the_length_and_sends_nothing() {
        let mut out = Vec::new();
        let reply = Reply {
            status: 200,
            headers: "ETag: \"x\"\r\n",
            content_type: Some("application/json"),
            body: b"{}",
            head_only: true,
            connection: Connection::Close,
        };
        write_reply(&mut out, &reply);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        );
    }
}
