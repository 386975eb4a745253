//! The body of a request, once it has arrived whole.

use super::http::{Framing, HttpError};

/// Where the body lies in the buffer that was given to [`BodyReader::advance`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes of the body: from the start of the buffer, decoded in place.
    pub len: usize,
    /// How many bytes of the buffer the body took on the wire.
    pub consumed: usize,
}

/// Finds the end of a body in a growing buffer, decoding the chunked coding in place (RFC 9112 §7.1).
///
/// Memory is bounded by `bytes_max` for the decoded bytes and by a fixed allowance for chunk lines.
#[derive(Debug)]
pub struct BodyReader {
    framing: Framing,
    bytes_max: usize,
    // Chunked only: decoded bytes so far, bytes of the wire form read so far, and what comes next.
    decoded: usize,
    scanned: usize,
    state: ChunkState,
    overhead: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    SizeLine,
    Data(usize),
    DataEnd,
    Trailer,
}

/// The longest chunk-size line, with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// How many bytes of chunk lines and trailers may come with a body: enough for one-byte chunks of a small body, far
/// too little to keep a connection busy for nothing.
const CHUNK_OVERHEAD_BYTES_MAX: usize = 64 * 1024;

impl BodyReader {
    /// A reader for one body of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`HttpError::BodyTooLarge`] at once if the announced length is over the limit.
    pub fn new(framing: Framing, bytes_max: usize) -> Result<Self, HttpError> {
        if matches!(framing, Framing::Length(length) if length > bytes_max as u64) {
            return Err(HttpError::BodyTooLarge);
        }
        Ok(Self { framing, bytes_max, decoded: 0, scanned: 0, state: ChunkState::SizeLine, overhead: 0 })
    }

    /// Looks at the bytes after the head that have arrived so far; `None` while the body is incomplete.
    ///
    /// `bytes` must begin where it began in the last call and may have grown.
    ///
    /// # Errors
    /// [`HttpError::BodyTooLarge`] or [`HttpError::Malformed`].
    pub fn advance(&mut self, bytes: &mut [u8]) -> Result<Option<Body>, HttpError> {
        match self.framing {
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| HttpError::BodyTooLarge)?;
                Ok((bytes.len() >= length).then_some(Body { len: length, consumed: length }))
            }
            Framing::Chunked => self.advance_chunked(bytes),
        }
    }

    fn advance_chunked(&mut self, bytes: &mut [u8]) -> Result<Option<Body>, HttpError> {
        loop {
            match self.state {
                ChunkState::SizeLine => {
                    let Some(line) = self.line(bytes)? else { return Ok(None) };
                    let size = parse_chunk_size(&bytes[line])?;
                    if self.decoded + size > self.bytes_max {
                        return Err(HttpError::BodyTooLarge);
                    }
                    self.state = if size == 0 { ChunkState::Trailer } else { ChunkState::Data(size) };
                }
                ChunkState::Data(left) => {
                    let arrived = (bytes.len() - self.scanned).min(left);
                    bytes.copy_within(self.scanned..self.scanned + arrived, self.decoded);
                    self.decoded += arrived;
                    self.scanned += arrived;
                    if arrived < left {
                        self.state = ChunkState::Data(left - arrived);
                        return Ok(None);
                    }
                    self.state = ChunkState::DataEnd;
                }
                ChunkState::DataEnd => {
                    let Some(end) = bytes.get(self.scanned..self.scanned + 2) else { return Ok(None) };
                    if end != b"\r\n" {
                        return Err(HttpError::Malformed("a chunk does not end where it said"));
                    }
                    self.scanned += 2;
                    self.state = ChunkState::SizeLine;
                }
                ChunkState::Trailer => {
                    // Trailer fields carry nothing we act on: they are read over, never merged into the head.
                    let Some(line) = self.line(bytes)? else { return Ok(None) };
                    if line.is_empty() {
                        return Ok(Some(Body { len: self.decoded, consumed: self.scanned }));
                    }
                }
            }
        }
    }

    /// The next CRLF-terminated line, without its end; `None` while incomplete.
    fn line(&mut self, bytes: &[u8]) -> Result<Option<std::ops::Range<usize>>, HttpError> {
        let rest = &bytes[self.scanned..];
        let window = &rest[..rest.len().min(CHUNK_LINE_BYTES_MAX)];
        let Some(end) = window.iter().position(|b| *b == b'\n') else {
            return if rest.len() >= CHUNK_LINE_BYTES_MAX {
                Err(HttpError::Malformed("a chunk line is too long"))
            } else {
                Ok(None)
            };
        };
        if end == 0 || window[end - 1] != b'\r' {
            return Err(HttpError::Malformed("a chunk line does not end with CRLF"));
        }
        // A reader that takes a bare CR for the end of a line would see another body (RFC 9112 §2.2).
        if window[..end - 1].contains(&b'\r') {
            return Err(HttpError::Malformed("a chunk line contains a bare CR"));
        }
        self.overhead += end + 1;
        if self.overhead > CHUNK_OVERHEAD_BYTES_MAX {
            return Err(HttpError::BodyTooLarge);
        }
        let line = self.scanned..self.scanned + end - 1;
        self.scanned += end + 1;
        Ok(Some(line))
    }
}

/// `chunk-size [ chunk-ext ]`: one to eight hexadecimal digits; extensions are ignored.
fn parse_chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let behind = line[digits..].iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if digits == 0 || digits > 8 || !matches!(behind, None | Some(b';')) {
        return Err(HttpError::Malformed("a chunk size is not a number"));
    }
    Ok(line[..digits].iter().fold(0, |size, digit| {
        size * 16 + (*digit as char).to_digit(16).expect("hexadecimal digit checked above") as usize
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_steps(
        wire: &[u8],
        step: usize,
        bytes_max: usize,
    ) -> Result<Option<(Vec<u8>, usize)>, HttpError> {
        let mut reader = BodyReader::new(Framing::Chunked, bytes_max)?;
        let mut buffer = Vec::new();
        for part in wire.chunks(step) {
            buffer.extend_from_slice(part);
            if let Some(body) = reader.advance(&mut buffer)? {
                return Ok(Some((buffer[..body.len].to_vec(), body.consumed)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_arrives() {
        let wire = b"4\r\nWiki\r\n6;x=y\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\n";
        for step in 1..=wire.len() {
            let (body, consumed) = read_in_steps(wire, step, 100).unwrap().unwrap();
            assert_eq!(body, b"Wikipedia in \r\n\r\nchunks.", "step {step}");
            assert_eq!(consumed, wire.len());
        }
    }

    #[test]
    fn a_broken_chunked_body_is_refused() {
        for wire in ["x\r\n", "4\nWiki\r\n", "4\r\nWikiX\r\n", "123456789\r\n", "\r\n", "-1\r\n", "4 4\r\n"] {
            let result = read_in_steps(wire.as_bytes(), 1, 100);
            assert!(matches!(result, Err(HttpError::Malformed(_))), "{wire:?} gave {result:?}");
        }
    }

    /// Found by the fuzz body `request_body`: the size line was trimmed of everything ASCII calls white space, so
    /// `4<CR><CR><LF>` was a size, and trailers and extensions could hold a bare CR. A proxy in front that ends lines at a
    /// CR would have seen the body end elsewhere. The other tests only broke lines at their end.
    #[test]
    fn white_space_that_other_readers_take_for_a_line_end_is_refused() {
        for wire in ["4\r\r\nWiki\r\n", "4\x0c\r\nWiki\r\n", "4;a\rb\r\nWiki\r\n", "0\r\na: b\rc: d\r\n\r\n"]
        {
            let result = read_in_steps(wire.as_bytes(), 1, 100);
            assert!(matches!(result, Err(HttpError::Malformed(_))), "{wire:?} gave {result:?}");
        }
        let (body, _) = read_in_steps(b"4 \t;x\r\nWiki\r\n0 \r\n\r\n", 1, 100).unwrap().unwrap();
        assert_eq!(body, b"Wiki");
    }

    #[test]
    fn a_body_over_its_limit_is_refused_before_it_is_kept() {
        assert!(matches!(BodyReader::new(Framing::Length(11), 10), Err(HttpError::BodyTooLarge)));
        assert_eq!(read_in_steps(b"B\r\n", 1, 10), Err(HttpError::BodyTooLarge));
        assert_eq!(read_in_steps(b"9\r\n123456789\r\n2\r\n", 1, 10), Err(HttpError::BodyTooLarge));
    }

    #[test]
    fn endless_one_byte_chunks_are_bounded() {
        let wire = b"1\r\nx\r\n".repeat(1 << 16);
        assert_eq!(read_in_steps(&wire, 4096, 1 << 20), Err(HttpError::BodyTooLarge));
    }
}
