//! Claims, readable only from a verified token (C0-C2).

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

use crate::base64url;
use crate::decision::{Rejection, UnixSeconds};
use crate::json::{self, JsonError, Kind, Number, Reader};
use crate::token::compact::{CompactJws, Scratch};
use crate::verify::SignatureVerified;

/// A compact JWS whose signature was verified; the only way to its payload.
#[derive(Debug)]
pub struct VerifiedJws<'a> {
    jws: CompactJws<'a>,
    proof: SignatureVerified,
}

impl<'a> VerifiedJws<'a> {
    /// Opens `jws`. `proof` comes from `verify` alone and must be that of this token's item.
    #[must_use]
    pub fn new(jws: CompactJws<'a>, proof: SignatureVerified) -> Self {
        Self { jws, proof }
    }

    /// Gives the proof back, for whoever must open the same token once more later.
    #[must_use]
    pub fn into_proof(self) -> SignatureVerified {
        self.proof
    }

    /// The decoded payload, whatever it is.
    ///
    /// # Errors
    /// [`ClaimsError::Encoding`], which parsing has ruled out.
    pub fn payload<'s>(&self, scratch: &'s mut Scratch) -> Result<&'s [u8], ClaimsError> {
        base64url::decode(self.jws.payload, &mut scratch.decoded[..]).map_err(|_| ClaimsError::Encoding)
    }

    /// The decoded payload in memory of its own: for documents that are longer than tokens.
    ///
    /// # Errors
    /// [`ClaimsError::Encoding`], which parsing has ruled out.
    pub fn payload_to_vec(&self) -> Result<Vec<u8>, ClaimsError> {
        let mut buffer = vec![0; self.jws.payload.len()];
        let length =
            base64url::decode(self.jws.payload, &mut buffer).map_err(|_| ClaimsError::Encoding)?.len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Reads the payload as claims, borrowed from `scratch`.
    ///
    /// # Errors
    /// [`ClaimsError::Json`] if the payload is not one strict JSON object, [`ClaimsError::WrongType`] for a
    /// registered claim of another type: a claim with the wrong type is never taken for an absent one.
    pub fn claims<'s>(&self, scratch: &'s mut Scratch) -> Result<Claims<'s>, ClaimsError> {
        let payload = base64url::decode(self.jws.payload, &mut scratch.decoded[..])
            .map_err(|_| ClaimsError::Encoding)?;
        Claims::read(payload, &mut scratch.json)
    }
}

/// What a verified token says. Borrows from the scratch it was read with; absent claims are `None` or empty.
///
/// Times are whole seconds: a fraction makes `exp` earlier and `nbf`, `iat` later, never the token longer.
#[derive(Clone, Default)]
pub struct Claims<'a> {
    /// Issuer.
    pub iss: Option<&'a str>,
    /// Subject; in an Agent Task Token the agent.
    pub sub: Option<&'a str>,
    /// Audiences, one or many alike.
    pub aud: SmallVec<[&'a str; 4]>,
    /// Expiry.
    pub exp: Option<UnixSeconds>,
    /// Start of validity.
    pub nbf: Option<UnixSeconds>,
    /// When it was issued.
    pub iat: Option<UnixSeconds>,
    /// The token's own name; with `iss` its identity (C7).
    pub jti: Option<Jti<'a>>,
    /// Scopes, from an array or from a string with spaces between them (RFC 6749 §3.3) alike.
    pub scope: SmallVec<[&'a str; 16]>,
    /// OAuth client (RFC 8693 §4.3, RFC 9068 §2.2).
    pub client_id: Option<&'a str>,
    /// Session (OpenID Connect), for revoking a whole session.
    pub sid: Option<&'a str>,
    /// Nonce (OpenID Connect Core §2).
    pub nonce: Option<&'a str>,
    /// Who acts (RFC 8693 §4.1): an object, as received.
    pub act: Option<&'a str>,
    /// Agent Task Token: the task.
    pub task: Option<&'a str>,
    /// Agent Task Token: constraints, an object, as received.
    pub cns: Option<&'a str>,
    /// Agent Task Token: the human principal.
    pub own: Option<&'a str>,
    /// The whole claims object, as received, white space around it included.
    pub json: &'a str,
    /// The claims that are present.
    pub present: ClaimSet,
    /// Whether `task`, `cns` or `own` is present with another type: another issuer's private claim of the same
    /// name, which only an Agent Task Token may not have.
    pub(super) agent_task_malformed: bool,
}

/// A token's own name within its issuer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jti<'a>(pub &'a str);

impl<'a> Claims<'a> {
    /// Reads claims from their JSON text.
    pub(super) fn read(payload: &'a [u8], scratch: &'a mut json::Scratch) -> Result<Self, ClaimsError> {
        let mut claims = Self::default();
        claims.json = json::read(payload, scratch, |reader| {
            reader.object(|reader, name| claims.member(reader, name))?;
            Ok::<_, ClaimsError>(reader.text())
        })?;
        Ok(claims)
    }

    fn member(&mut self, reader: &mut Reader<'a>, name: &'a str) -> Result<(), ClaimsError> {
        let Some(claim) = ClaimName::from_name(name) else { return Ok(reader.skip()?) };
        self.present.insert(claim);
        match claim {
            ClaimName::Iss => self.iss = Some(string(reader, claim)?),
            ClaimName::Sub => self.sub = Some(string(reader, claim)?),
            ClaimName::Aud => self.aud = strings(reader, claim)?,
            ClaimName::Exp => self.exp = Some(time(reader, claim, f64::floor)?),
            ClaimName::Nbf => self.nbf = Some(time(reader, claim, f64::ceil)?),
            ClaimName::Iat => self.iat = Some(time(reader, claim, f64::ceil)?),
            ClaimName::Jti => self.jti = Some(Jti(string(reader, claim)?)),
            ClaimName::Scope => self.scope = scopes(reader)?,
            ClaimName::ClientId => self.client_id = Some(string(reader, claim)?),
            ClaimName::Sid => self.sid = Some(string(reader, claim)?),
            ClaimName::Nonce => self.nonce = Some(string(reader, claim)?),
            ClaimName::Act => {
                self.act = object(reader)?;
                self.act.ok_or(ClaimsError::WrongType(claim))?;
            }
            ClaimName::Task => self.task = self.private(optional_string(reader)?),
            ClaimName::Cns => self.cns = self.private(object(reader)?),
            ClaimName::Own => self.own = self.private(optional_string(reader)?),
        }
        Ok(())
    }

    fn private(&mut self, value: Option<&'a str>) -> Option<&'a str> {
        self.agent_task_malformed |= value.is_none();
        value
    }
}

fn string<'a>(reader: &mut Reader<'a>, claim: ClaimName) -> Result<&'a str, ClaimsError> {
    optional_string(reader)?.ok_or(ClaimsError::WrongType(claim))
}

/// A string; `None` for a value of another kind, which is passed over.
fn optional_string<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>, JsonError> {
    if reader.kind()? == Kind::String {
        return reader.string().map(Some);
    }
    reader.skip()?;
    Ok(None)
}

/// An object as received; `None` for a value of another kind, which is passed over.
fn object<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>, JsonError> {
    let is_object = reader.kind()? == Kind::Object;
    Ok(Some(reader.raw()?).filter(|_| is_object))
}

/// One string or an array of strings.
fn strings<'a, const N: usize>(
    reader: &mut Reader<'a>,
    claim: ClaimName,
) -> Result<SmallVec<[&'a str; N]>, ClaimsError>
where
    [&'a str; N]: smallvec::Array<Item = &'a str>,
{
    let mut all = SmallVec::new();
    if reader.kind()? == Kind::Array {
        reader.array(|reader| {
            all.push(string(reader, claim)?);
            Ok::<_, ClaimsError>(())
        })?;
    } else {
        all.push(string(reader, claim)?);
    }
    Ok(all)
}

/// Scopes from an array or from one space-separated string.
///
/// A scope in an array must be one scope: with a space in it, whoever joins them later would read two.
fn scopes<'a>(reader: &mut Reader<'a>) -> Result<SmallVec<[&'a str; 16]>, ClaimsError> {
    let scopes: SmallVec<[&'a str; 16]> = if reader.kind()? == Kind::Array {
        strings(reader, ClaimName::Scope)?
    } else {
        string(reader, ClaimName::Scope)?.split(' ').filter(|word| !word.is_empty()).collect()
    };
    let well_formed = scopes.iter().all(|scope| !scope.is_empty() && scope.bytes().all(is_scope_byte));
    if well_formed { Ok(scopes) } else { Err(ClaimsError::WrongType(ClaimName::Scope)) }
}

/// RFC 6749 §3.3: `%x21 / %x23-5B / %x5D-7E`.
pub(super) fn is_scope_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)
}

/// A `NumericDate`: a number, not negative, below 2^53 (C2); `round` turns a fraction into whole seconds.
fn time(
    reader: &mut Reader<'_>,
    claim: ClaimName,
    round: fn(f64) -> f64,
) -> Result<UnixSeconds, ClaimsError> {
    if reader.kind()? != Kind::Number {
        reader.skip()?;
        return Err(ClaimsError::WrongType(claim));
    }
    numeric_date(reader.number()?, round).ok_or(ClaimsError::OutOfRange(claim))
}

fn numeric_date(number: Number<'_>, round: fn(f64) -> f64) -> Option<UnixSeconds> {
    /// From here on doubles no longer hold every integer, so issuers and verifiers would disagree.
    const TIME_MAX: u64 = 1 << 53;
    if let Some(seconds) = number.to_u64() {
        return (seconds < TIME_MAX).then_some(UnixSeconds(seconds));
    }
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let in_range = 0.0..TIME_MAX as f64;
    let seconds = number.to_f64();
    if !in_range.contains(&seconds) || !in_range.contains(&round(seconds)) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and in range")]
    let seconds = round(seconds) as u64;
    Some(UnixSeconds(seconds))
}

/// Declares the claims with a meaning here once: variant and name.
macro_rules! claim_names {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A claim with a meaning here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ClaimName {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl ClaimName {
            /// Every claim.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The member name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

claim_names! {
    Iss = "iss", Sub = "sub", Aud = "aud", Exp = "exp", Nbf = "nbf", Iat = "iat", Jti = "jti",
    Scope = "scope", ClientId = "client_id", Sid = "sid", Nonce = "nonce", Act = "act",
    Task = "task", Cns = "cns", Own = "own",
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ClaimName {
    type Err = UnknownClaim;

    fn from_str(name: &str) -> Result<Self, UnknownClaim> {
        Self::from_name(name).ok_or(UnknownClaim)
    }
}

/// The name is not that of a claim with a meaning here, so it cannot be required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a claim that can be required")]
pub struct UnknownClaim;

/// A set of claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClaimSet(u16);

const _: () = assert!(ClaimName::ALL.len() <= 16);

impl ClaimSet {
    /// Puts `claim` in.
    pub fn insert(&mut self, claim: ClaimName) {
        self.0 |= 1 << claim as u16;
    }

    /// Whether `claim` is in.
    #[must_use]
    pub const fn contains(self, claim: ClaimName) -> bool {
        self.0 & 1 << claim as u16 != 0
    }

    /// Whether all of `other` is in.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<ClaimName> for ClaimSet {
    fn from_iter<I: IntoIterator<Item = ClaimName>>(claims: I) -> Self {
        let mut set = Self::default();
        claims.into_iter().for_each(|claim| set.insert(claim));
        set
    }
}

/// Why a verified payload is no claims set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// The payload segment does not decode; parsing rules this out.
    #[error("payload is not canonical base64url")]
    Encoding,
    /// C1.
    #[error("claims: {0}")]
    Json(#[from] JsonError),
    /// C2.
    #[error("claim {0} is negative or not below 2^53")]
    OutOfRange(ClaimName),
    /// C2, C4, C5.
    #[error("claim {0} has the wrong type or form")]
    WrongType(ClaimName),
}

impl ClaimsError {
    /// The outcome word for this cause.
    #[must_use]
    pub const fn rejection(self) -> Rejection {
        match self {
            Self::Encoding => Rejection::TokenMalformed,
            Self::Json(_) | Self::OutOfRange(_) | Self::WrongType(_) => Rejection::ClaimsMalformed,
        }
    }
}

impl fmt::Debug for Claims<'_> {
    /// Which claims, not what they say: values are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present = ClaimName::ALL.iter().filter(|claim| self.present.contains(**claim));
        f.debug_set().entries(present.map(|claim| claim.name())).finish()
    }
}

impl fmt::Debug for Jti<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jti").field("bytes", &self.0.len()).finish()
    }
}
