//! Fields of a frame: little-endian numbers, and bytes with their length before them.

use std::fmt;

use zeroize::Zeroizing;

/// Text in a frame: names, URIs, words of an error. URIs are the longest.
pub(super) const TEXT_BYTES_MAX: usize = 4096;

/// Why a frame is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameError {
    /// A field of it is cut off.
    Cut,
    /// A number that means nothing.
    Unknown(&'static str),
    /// Bytes after the last field.
    Surplus,
    /// Text that is not UTF-8, or a name that is none.
    Text(&'static str),
    /// More of something than is taken.
    TooMany(&'static str),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => f.write_str("a frame is cut short"),
            Self::Unknown(what) => write!(f, "a frame has an unknown {what}"),
            Self::Surplus => f.write_str("a frame has more bytes than fields"),
            Self::Text(what) => write!(f, "a frame has a malformed {what}"),
            Self::TooMany(what) => write!(f, "a frame has too much: {what}"),
        }
    }
}

/// Writes fields. What it wrote is wiped: there may be a PIN or a secret among it.
pub(super) struct Encoder(Zeroizing<Vec<u8>>);

impl Encoder {
    /// `room` bytes are reserved: what outgrows them leaves a copy behind that is not wiped.
    pub(super) fn new(room: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(room)))
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes, up to 4 GiB; whoever calls bounds them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    /// Text, cut at [`TEXT_BYTES_MAX`].
    pub(super) fn text(&mut self, text: &str) {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        self.bytes(text.get(..end).unwrap_or_default().as_bytes());
    }

    /// Whether something follows.
    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Reads fields; each is checked to be there.
pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn raw(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(FrameError::Cut)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(FrameError::Cut)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things that a `usize` takes on every machine this runs on.
    pub(super) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, FrameError> {
        let count = usize::try_from(self.u32()?).map_err(|_| FrameError::TooMany(what))?;
        if count > max { Err(FrameError::TooMany(what)) } else { Ok(count) }
    }

    pub(super) fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], FrameError> {
        let length = self.count(max, what)?;
        self.raw(length)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.bytes(TEXT_BYTES_MAX, what)?).map_err(|_| FrameError::Text(what))
    }

    /// Text for people, from the other side: it cannot steer a terminal or a log.
    pub(super) fn words(&mut self, what: &'static str) -> Result<String, FrameError> {
        let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Ok(self.text(what)?.chars().map(plain).collect())
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(FrameError::Unknown("mark of a field")),
        }
    }

    /// That this was all.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Surplus) }
    }
}
