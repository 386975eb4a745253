//! The header of a JWS: what it must say, may say and may not say (H1-H10).

use crate::json;
use crate::token::compact::ParseError;
use crate::token::{DELEGATION_MEMBER, HEADER_BYTES_MAX, KID_BYTES_MAX};

/// The two names of the one algorithm this service verifies; any other `alg` is refused when parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `Ed25519` (RFC 9864 §2.2).
    Ed25519,
    /// `EdDSA` (RFC 8037 §3.1), the older, deprecated spelling.
    EdDsa,
}

impl Algorithm {
    /// The algorithm with exactly this name, case included (H3).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(Self::Ed25519),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// The name as a header spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// Which spellings of the algorithm are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlgorithmSet {
    ed25519: bool,
    eddsa: bool,
}

impl AlgorithmSet {
    /// Both spellings.
    pub const BOTH: Self = Self { ed25519: true, eddsa: true };
    /// Only the fully specified `Ed25519`, as profiles after RFC 9864 demand.
    pub const ED25519: Self = Self { ed25519: true, eddsa: false };
    /// Only `EdDSA`, for issuers that predate RFC 9864.
    pub const EDDSA: Self = Self { ed25519: false, eddsa: true };

    /// Whether `algorithm` is in the set.
    #[must_use]
    pub const fn contains(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Ed25519 => self.ed25519,
            Algorithm::EdDsa => self.eddsa,
        }
    }
}

impl FromIterator<Algorithm> for AlgorithmSet {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(algorithms: I) -> Self {
        let mut set = Self::default();
        for algorithm in algorithms {
            match algorithm {
                Algorithm::Ed25519 => set.ed25519 = true,
                Algorithm::EdDsa => set.eddsa = true,
            }
        }
        set
    }
}

/// What a header said that is of use; untrusted, and of use only to choose key and profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'s> {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`: opaque, compared byte by byte (K1).
    pub kid: Option<&'s str>,
    /// `typ` as received; compare with [`Header::is_type`].
    pub typ: Option<&'s str>,
    /// The delegation of the key that signed, where it is not the issuer's own (D1): its text, whatever that is.
    pub delegation: Option<&'s str>,
    /// Whether any segment was padded with `=` (F6).
    pub padded: bool,
}

impl Header<'_> {
    /// Whether `typ` is the media type `name`, which is given without `application/` (H9).
    ///
    /// Upper and lower case are the same, and `application/` may be there or not (RFC 7515 §4.1.9).
    #[must_use]
    pub fn is_type(&self, name: &str) -> bool {
        self.typ.is_some_and(|typ| is_media_type(typ, name))
    }
}

/// Reads the header from its decoded bytes.
///
/// The JSON is judged whole before its members are, so that what a header says is never believed by halves.
pub(super) fn read<'s>(
    decoded: &'s [u8],
    padded: bool,
    scratch: &'s mut json::Scratch,
) -> Result<Header<'s>, ParseError> {
    debug_assert!(decoded.len() <= HEADER_BYTES_MAX);
    let mut members = Members::default();
    json::read(decoded, scratch, |reader| reader.object(|reader, name| members.read(reader, name)))
        .map_err(ParseError::HeaderJson)?;
    members.judge(padded)
}

/// The members with a meaning, as far as they were met. Unknown ones and `x5t`, `x5t#S256` are ignored (H8).
#[derive(Default)]
struct Members<'s> {
    alg: Option<Text<'s>>,
    kid: Option<Text<'s>>,
    typ: Option<Text<'s>>,
    cty: Option<Text<'s>>,
    delegation: Option<Text<'s>>,
    critical: bool,
    forbidden: Option<&'static str>,
}

/// A member that should be a string.
enum Text<'s> {
    String(&'s str),
    OtherKind,
}

impl<'s> Members<'s> {
    fn read(&mut self, reader: &mut json::Reader<'s>, name: &'s str) -> Result<(), json::JsonError> {
        match name {
            "alg" => self.alg = Some(Text::read(reader)?),
            "kid" => self.kid = Some(Text::read(reader)?),
            "typ" => self.typ = Some(Text::read(reader)?),
            "cty" => self.cty = Some(Text::read(reader)?),
            DELEGATION_MEMBER => self.delegation = Some(Text::read(reader)?),
            "crit" => {
                self.critical = true;
                reader.skip()?;
            }
            _ => {
                self.forbidden = self.forbidden.or_else(|| forbidden_member(name));
                reader.skip()?;
            }
        }
        Ok(())
    }

    fn judge(self, padded: bool) -> Result<Header<'s>, ParseError> {
        if let Some(member) = self.forbidden {
            return Err(ParseError::ForbiddenMember(member));
        }
        // No extension is understood, so any `crit`, well-formed or not, is a refusal (H5, RFC 7515 §4.1.11).
        if self.critical {
            return Err(ParseError::Critical);
        }
        let algorithm = match self.alg {
            Some(Text::String(name)) => Algorithm::from_name(name).ok_or(ParseError::AlgorithmUnknown)?,
            Some(Text::OtherKind) | None => return Err(ParseError::AlgorithmUnknown),
        };
        let typ = match self.typ {
            Some(Text::OtherKind) => return Err(ParseError::TypNotString),
            Some(Text::String(typ)) => Some(typ),
            None => None,
        };
        match self.cty {
            Some(Text::OtherKind) => return Err(ParseError::CtyNotString),
            // A nested token (H10): its claims would be those of an unverified inner one.
            Some(Text::String(cty)) if is_media_type(cty, "jwt") => {
                return Err(ParseError::ForbiddenMember("cty"));
            }
            Some(Text::String(_)) | None => {}
        }
        let kid = match self.kid {
            Some(Text::OtherKind) => return Err(ParseError::KidNotString),
            Some(Text::String(kid)) if kid.len() > KID_BYTES_MAX => return Err(ParseError::KidTooLong),
            Some(Text::String(kid)) => Some(kid),
            None => None,
        };
        let delegation = match self.delegation {
            Some(Text::OtherKind) => return Err(ParseError::DelegationNotString),
            Some(Text::String(text)) => Some(text),
            None => None,
        };
        Ok(Header { algorithm, kid, typ, delegation, padded })
    }
}

impl<'s> Text<'s> {
    fn read(reader: &mut json::Reader<'s>) -> Result<Self, json::JsonError> {
        if reader.kind()? == json::Kind::String {
            Ok(Self::String(reader.string()?))
        } else {
            reader.skip()?;
            Ok(Self::OtherKind)
        }
    }
}

/// Members that bring a key of the sender's choice (CVE-2018-0114), belong to encryption, or change what is signed
/// (RFC 7797 §7: `b64` must not be used in JWTs). Present means refused, and nothing is ever fetched (H6, H7).
fn forbidden_member(name: &str) -> Option<&'static str> {
    ["b64", "enc", "jku", "jwk", "x5c", "x5u", "zip"].into_iter().find(|member| *member == name)
}

fn is_media_type(value: &str, name: &str) -> bool {
    const PREFIX: &str = "application/";
    let short = match value.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &value[PREFIX.len()..],
        _ => value,
    };
    short.eq_ignore_ascii_case(name)
}
