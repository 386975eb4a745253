//! HTTP framing: where a request's head and body end.

use edgate::wire::{
    BodyReader, Framing, HEAD_BYTES_MAX, HttpError, RequestHead, Version, forward_token, parse_head,
};

/// A head is the same whatever follows it and however it arrives, and no laxer reader sees another body.
pub fn request_head(bytes: &[u8]) {
    let head = match parse_head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => {
            assert!(bytes.len() < HEAD_BYTES_MAX, "a head that long is refused, not waited for");
            return;
        }
        Err(error) => {
            assert!(matches!(error.status(), 400 | 417 | 431), "{error} is no fault of a head");
            assert!(!error.to_string().contains(['\r', '\n']), "{error:?} would break a reply");
            return;
        }
    };
    let end = head.head_bytes;
    assert!(end <= bytes.len() && end <= HEAD_BYTES_MAX);
    assert!(bytes[..end].ends_with(b"\n"), "a head ends with a line");
    assert!(head.path.starts_with('/') || head.path == "*", "{:?}", head.path);
    assert!(!head.path.contains(['?', ' ', '\r', '\n', '\0']), "{:?}", head.path);
    assert!(!head.query.contains([' ', '\r', '\n', '\0']), "{:?}", head.query);
    assert!(head.authorization.is_none() || !head.authorization_repeated);
    assert!(!head.expects_continue || head.version == Version::Http11);
    if let Ok(token) = forward_token(&head) {
        assert!(!token.is_empty() && !token.contains(&b' '), "{}", token.escape_ascii());
    }

    for cut in [0, 1, end / 2, end - 1] {
        assert!(matches!(parse_head(&bytes[..cut]), Ok(None)), "complete at {cut} of {end} bytes");
    }
    let again = parse_head(&bytes[..end]).expect("parsed before").expect("complete before");
    assert_eq!(summary(&head), summary(&again), "what follows a head is none of its business");
    assert_eq!(lax_framing(&bytes[..end]), Some(head.framing), "another reader may see another body");
}

fn summary<'a>(head: &RequestHead<'a>) -> impl PartialEq + std::fmt::Debug + use<'a> {
    (
        (head.method, head.path, head.query, head.version, head.framing),
        (head.keep_alive, head.expects_continue, head.authorization, head.authorization_repeated),
        (head.if_none_match, head.content_type, head.head_bytes),
    )
}

/// What a proxy that is far too tolerant would take for the framing; `None` where it would see two.
fn lax_framing(head: &[u8]) -> Option<Framing> {
    let mut framing = Framing::Length(0);
    let mut seen = false;
    for line in head.split(|byte| matches!(byte, b'\r' | b'\n')) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = line[..colon].trim_ascii().to_ascii_lowercase();
        let value = line[colon + 1..].trim_ascii().to_ascii_lowercase();
        let found = match name.as_slice() {
            b"content-length" => {
                let digits = std::str::from_utf8(&value).ok()?.trim_start_matches('+');
                Framing::Length(digits.parse().ok()?)
            }
            b"transfer-encoding" if value == b"chunked" => Framing::Chunked,
            b"transfer-encoding" => return None,
            _ => continue,
        };
        if std::mem::replace(&mut seen, true) {
            return None;
        }
        framing = found;
    }
    Some(framing)
}

/// A body is the same however its bytes arrive, and what a reader that has them all at once sees.
///
/// The first two bytes choose how the rest is cut into arrivals, and the limit.
pub fn request_body(input: &[u8]) {
    let [cuts, limit, wire @ ..] = input else { return };
    let bytes_max = 1 + usize::from(*limit) * 16;
    let whole = read_in_steps(wire, bytes_max, |_| wire.len());
    assert_eq!(whole, read_in_steps(wire, bytes_max, |_| 1), "byte by byte");
    let mut state = u64::from(*cuts) | 1 << 32;
    let some = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + usize::try_from(state >> 58).unwrap_or(0)
    };
    assert_eq!(whole, read_in_steps(wire, bytes_max, some), "cut as {cuts} says");

    match (&whole, decode_whole(wire, bytes_max)) {
        (Ok(Some((body, consumed))), Some((expected, rest))) => {
            assert_eq!(body, &expected);
            assert_eq!(*consumed, wire.len() - rest.len());
        }
        // The reference knows no limit on chunk lines: what it reads may be refused, and is then refused for that.
        (Ok(None) | Err(_), None) => {}
        (Err(error), Some(_)) => {
            assert!(matches!(
                error,
                HttpError::BodyTooLarge | HttpError::Malformed("a chunk line is too long")
            ));
        }
        (ours, theirs) => panic!("{ours:?}, by the reference {theirs:?}"),
    }

    let length = u64::from(*limit) * u64::from(*cuts);
    match BodyReader::new(Framing::Length(length), bytes_max) {
        Err(error) => assert!(error == HttpError::BodyTooLarge && length > bytes_max as u64),
        Ok(mut reader) => {
            let body = reader.advance(&mut wire.to_vec()).expect("a length cannot be malformed");
            assert_eq!(body.map(|body| (body.len, body.consumed)).is_some(), wire.len() as u64 >= length);
        }
    }
}

type Read = Result<Option<(Vec<u8>, usize)>, HttpError>;

/// Gives a reader the bytes as they arrive, `step` at a time.
fn read_in_steps(wire: &[u8], bytes_max: usize, mut step: impl FnMut(usize) -> usize) -> Read {
    let mut reader = BodyReader::new(Framing::Chunked, bytes_max)?;
    let mut buffer = Vec::with_capacity(wire.len());
    let mut arrived = 0;
    loop {
        if let Some(body) = reader.advance(&mut buffer)? {
            assert!(body.len <= bytes_max && body.len <= body.consumed && body.consumed <= arrived);
            return Ok(Some((buffer[..body.len].to_vec(), body.consumed)));
        }
        if arrived == wire.len() {
            return Ok(None);
        }
        let next = (arrived + step(arrived).max(1)).min(wire.len());
        buffer.extend_from_slice(&wire[arrived..next]);
        arrived = next;
    }
}

/// RFC 9112 §7.1 over a whole body: what it decodes to, and what is left behind it; `None` if it is malformed, cut off
/// or longer than `bytes_max`.
fn decode_whole(wire: &[u8], bytes_max: usize) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    let mut rest = wire;
    loop {
        let (line, behind) = split_line(rest)?;
        let digits = line.split(|byte| *byte == b';').next()?;
        let digits = std::str::from_utf8(digits).ok()?.trim_end_matches([' ', '\t']);
        if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            rest = behind;
            break;
        }
        let (data, behind) = behind.split_at_checked(size)?;
        body.extend_from_slice(data);
        if body.len() > bytes_max {
            return None;
        }
        rest = behind.strip_prefix(b"\r\n")?;
    }
    loop {
        let (trailer, behind) = split_line(rest)?;
        rest = behind;
        if trailer.is_empty() {
            return Some((body, rest));
        }
    }
}

/// A line that ends with CRLF and contains neither, and what follows it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = bytes[..end].strip_suffix(b"\r")?;
    (!line.contains(&b'\r')).then_some((line, &bytes[end + 1..]))
}
