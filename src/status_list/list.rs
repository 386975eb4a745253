//! The list itself: an array of 1, 2, 4 or 8 bits per token (§4).

use std::io::Read as _;
use std::io::Write as _;

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::LIST_BYTES_MAX;
use crate::base64url;

/// Bits per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Valid or not.
    One,
    /// Four states.
    Two,
    /// Sixteen.
    Four,
    /// 256.
    Eight,
}

impl Bits {
    /// The width of this many bits, if there is one (§4.2).
    #[must_use]
    pub const fn from_number(bits: u64) -> Option<Self> {
        match bits {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }

    /// How many they are.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    const fn per_byte(self) -> usize {
        8 / self.number() as usize
    }

    const fn mask(self) -> u8 {
        u8::MAX >> (8 - self.number())
    }
}

/// What a list says of one token (§7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u8);

impl Status {
    /// It is valid, correct or legal.
    pub const VALID: Self = Self(0);
    /// It is revoked.
    pub const INVALID: Self = Self(1);
    /// It is not valid for the time being.
    pub const SUSPENDED: Self = Self(2);
}

/// A list, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList {
    bits: Bits,
    bytes: Vec<u8>,
}

/// Why a text is no list, or a list cannot do what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// It does not decompress, or something follows it.
    #[error("lst is not one zlib stream")]
    Compression,
    /// `lst` is not canonical base64url without padding.
    #[error("lst is not base64url")]
    Encoding,
    /// The place is not in the list: nothing can be said of the token, so it must not pass (§8.3).
    #[error("the index is outside the list")]
    OutOfRange,
    /// The status does not fit the width.
    #[error("the status needs more bits than the list has")]
    StatusTooWide,
    /// It is longer than [`LIST_BYTES_MAX`].
    #[error("the list is longer than {LIST_BYTES_MAX} bytes")]
    TooLong,
}

impl StatusList {
    /// A list with room for `count` tokens, all of them valid.
    ///
    /// # Errors
    /// [`ListError::TooLong`]
    pub fn new(bits: Bits, count: u32) -> Result<Self, ListError> {
        let length = usize::try_from(count).map_err(|_| ListError::TooLong)?.div_ceil(bits.per_byte());
        if length > LIST_BYTES_MAX {
            return Err(ListError::TooLong);
        }
        Ok(Self { bits, bytes: vec![0; length] })
    }

    /// Reads `lst`: base64url of a zlib stream (§4.2). No more than the longest list is ever decompressed.
    ///
    /// # Errors
    /// [`ListError`] where it is no list or too long.
    pub fn decode(bits: Bits, lst: &str) -> Result<Self, ListError> {
        let mut compressed = vec![0; lst.len()];
        let compressed =
            base64url::decode(lst.as_bytes(), &mut compressed).map_err(|_| ListError::Encoding)?;
        let mut decoder = ZlibDecoder::new(compressed);
        let mut bytes = Vec::new();
        let limit = LIST_BYTES_MAX as u64 + 1;
        decoder.by_ref().take(limit).read_to_end(&mut bytes).map_err(|_| ListError::Compression)?;
        if bytes.len() > LIST_BYTES_MAX {
            return Err(ListError::TooLong);
        }
        if !decoder.into_inner().is_empty() {
            return Err(ListError::Compression);
        }
        bytes.shrink_to_fit();
        Ok(Self { bits, bytes })
    }

    /// The list as `lst`, compressed as far as it goes (§4.2 recommends the highest level).
    ///
    /// # Errors
    /// [`ListError::Compression`] if the compressor fails, which no list is known to cause.
    pub fn encode(&self) -> Result<String, ListError> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&self.bytes).map_err(|_| ListError::Compression)?;
        let compressed = encoder.finish().map_err(|_| ListError::Compression)?;
        Ok(base64url::encode(&compressed))
    }

    /// Bits per token.
    #[must_use]
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// How many tokens it has room for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() * self.bits.per_byte()
    }

    /// Whether it has room for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What it says of the token at `index`. The first token has the lowest bits of the first byte.
    ///
    /// # Errors
    /// [`ListError::OutOfRange`]
    pub fn status(&self, index: u64) -> Result<Status, ListError> {
        let (at, shift) = self.place(index)?;
        Ok(Status(self.bytes[at] >> shift & self.bits.mask()))
    }

    /// Says `status` of the token at `index`.
    ///
    /// # Errors
    /// [`ListError::OutOfRange`], or [`ListError::StatusTooWide`]
    pub fn set(&mut self, index: u64, status: Status) -> Result<(), ListError> {
        let (at, shift) = self.place(index)?;
        let mask = self.bits.mask();
        if status.0 > mask {
            return Err(ListError::StatusTooWide);
        }
        self.bytes[at] = self.bytes[at] & !(mask << shift) | status.0 << shift;
        Ok(())
    }

    /// The byte of `index`, which is in the list, and where its bits begin.
    fn place(&self, index: u64) -> Result<(usize, u8), ListError> {
        let index = usize::try_from(index).map_err(|_| ListError::OutOfRange)?;
        let (at, within) = (index / self.bits.per_byte(), index % self.bits.per_byte());
        if at >= self.bytes.len() {
            return Err(ListError::OutOfRange);
        }
        let within = u8::try_from(within).expect("at most eight tokens share a byte");
        Ok((at, within * self.bits.number()))
    }
}
