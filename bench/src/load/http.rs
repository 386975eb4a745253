//! Reads HTTP/1.1 answers off a buffer: head by `httparse`, body by its length.

use thiserror::Error;

/// Headers an answer may carry.
const HEADERS_MAX: usize = 64;

/// One whole answer, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Status code.
    pub status: u16,
    /// The body, unchunked.
    pub body: &'a [u8],
    /// Whether the server lets the connection live (RFC 9112 §9.3).
    pub keep_alive: bool,
}

/// What came back is not an answer this client can frame.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// `Transfer-Encoding` is not understood here: verify answers are short and have a length.
    #[error("the answer is chunked; the load generator reads answers with Content-Length only")]
    Chunked,
    /// `Content-Length` is absent where a body may follow, or is not a number.
    #[error("the answer with status {0} has no usable Content-Length")]
    LengthMissing(u16),
    /// Not HTTP/1.x.
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(#[from] httparse::Error),
}

/// Splits the first answer off `bytes`: the answer and how many bytes it took, or `None` while it is incomplete.
///
/// # Errors
/// [`AnswerError`] when the bytes can never become an answer; the connection is of no more use.
pub fn parse(bytes: &[u8]) -> Result<Option<(Answer<'_>, usize)>, AnswerError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes)? else {
        return Ok(None);
    };
    let status = head.code.expect("a complete head has a status");
    let mut keep_alive = head.version == Some(1);
    let mut length = None;
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            length =
                std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep_alive = !header.value.eq_ignore_ascii_case(b"close")
                && (keep_alive || header.value.eq_ignore_ascii_case(b"keep-alive"));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(AnswerError::Chunked);
        }
    }
    // These never have a body (RFC 9112 §6.3).
    if matches!(status, 100..=199 | 204 | 304) {
        length = Some(0);
    }
    let end = head_bytes.saturating_add(length.ok_or(AnswerError::LengthMissing(status))?);
    Ok(bytes.get(head_bytes..end).map(|body| (Answer { status, body, keep_alive }, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Auth-Subject: a\r\n\r\nokHTTP/1.1 401 Unauthorized\r\n\
        WWW-Authenticate: Bearer error=\"invalid_token\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

    #[test]
    fn pipelined_answers_are_split_one_by_one() {
        let (first, used) = parse(TWO).unwrap().unwrap();
        assert_eq!(first, Answer { status: 200, body: b"ok", keep_alive: true });
        let (second, rest) = parse(&TWO[used..]).unwrap().unwrap();
        assert_eq!(second, Answer { status: 401, body: b"", keep_alive: false });
        assert_eq!(used + rest, TWO.len());
    }

    #[test]
    fn answer_is_incomplete_until_its_last_byte() {
        let (_, used) = parse(TWO).unwrap().unwrap();
        for end in 0..used {
            assert!(parse(&TWO[..end]).unwrap().is_none(), "complete after {end} bytes");
        }
    }

    #[test]
    fn no_content_needs_no_length() {
        let (answer, _) = parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!(answer.status, 204);
    }

    #[test]
    fn http_1_0_lives_only_when_it_says_so() {
        let (closing, _) = parse(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap().unwrap();
        assert!(!closing.keep_alive);
        let living = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n";
        assert!(parse(living).unwrap().unwrap().0.keep_alive);
    }

    #[test]
    fn answers_that_cannot_be_framed_are_errors() {
        assert!(matches!(parse(b"SMTP ready\r\n\r\n"), Err(AnswerError::Malformed(_))));
        assert!(matches!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Err(AnswerError::LengthMissing(200))));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(parse(chunked), Err(AnswerError::Chunked)));
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n";
        assert!(parse(huge).unwrap().is_none());
    }
}
