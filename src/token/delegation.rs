//! Delegations: a key of an issuer says that another key signs tokens too, for an hour at most.
//!
//! A delegation is a compact JWS of its own media type, so that it is never taken for a token nor a token for it. Its claims are
//! the issuer (`iss`), from when (`iat`) and until when (`exp`) tokens may be valid that the other key signed, and that key
//! (`cnf`, RFC 7800 §3.2). It stands whole in the header of each token, so that whoever knows the issuer's key needs no other:
//!
//! ```text
//! token       {"alg":"Ed25519","typ":"att+jwt","kid":KID,"edgate_delegation":DELEGATION}
//! DELEGATION  {"alg":"Ed25519","typ":"edgate-delegation+jwt","kid":KID OF THE ISSUER'S KEY}
//!             {"iss":ISS,"iat":SECONDS,"exp":SECONDS,"cnf":{"jwk":{"kty":"OKP","crv":"Ed25519","x":KEY}}}
//! ```
//!
//! Verifiers that do not know the header member pass over it, and take the key from the issuer's JWKS, which lists it.

use serde::Serialize;

use crate::base64url;
use crate::decision::UnixSeconds;
use crate::json::{self, JsonError, Kind, Reader};
use crate::token::claims::{Claims, ClaimsError, VerifiedJws};
use crate::token::compact::{CompactJws, Padding, ParseError, Scratch, parse_within};
use crate::token::encode::{HeaderText, json_part};
use crate::token::{Algorithm, HEADER_BYTES_MAX};

/// The header member of a token that carries its delegation. A private name (RFC 7515 §4.3) that no other issuer uses by chance.
pub const DELEGATION_MEMBER: &str = "edgate_delegation";

/// The media type of a delegation, without `application/`.
pub const DELEGATION_TYP: &str = "edgate-delegation+jwt";

/// The longest life of a delegation, from `iat` to `exp`, in seconds (D3).
pub const DELEGATION_LIFE_S_MAX: u64 = 3600;

/// What a key of an issuer says of another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// `iss`: for whom it signs.
    pub issuer: String,
    /// `iat`: no token that it signs was issued before.
    pub issued_at: UnixSeconds,
    /// `exp`: no token that it signs is valid after.
    pub expires_at: UnixSeconds,
    /// The key (`cnf.jwk.x`), as it was received.
    pub public_key: [u8; 32],
}

/// A delegation of the right form: parsed, untrusted, nothing of its payload read.
#[derive(Debug)]
pub struct UnverifiedDelegation<'a> {
    /// What is to be verified.
    pub jws: CompactJws<'a>,
    /// Which key is said to have signed it.
    pub kid: String,
    /// How its header spells the algorithm, which must be as the issuer's tokens may (H3, H4).
    pub algorithm: Algorithm,
}

/// Why a delegation says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    /// D2: it names no key.
    #[error("a delegation without kid")]
    KidMissing,
    /// D3.
    #[error("the claims of a delegation: {0}")]
    Claims(#[from] ClaimsError),
    /// D1.
    #[error("a delegation within a delegation")]
    Nested,
    /// D1.
    #[error("the form of a delegation: {0}")]
    Form(#[from] ParseError),
    /// D3, D4: a claim is missing, has another form, or is not known here.
    #[error("{0} of a delegation is missing, of another form, or not known")]
    Member(&'static str),
    /// D3.
    #[error("a delegation of more than {DELEGATION_LIFE_S_MAX} s, or one that ends before it begins")]
    Life,
    /// D1.
    #[error("the typ of a delegation is not {DELEGATION_TYP}")]
    Typ,
}

impl Delegation {
    /// The `header.payload` to be signed by the issuer's key named `kid`.
    #[must_use]
    pub fn signing_input(&self, kid: &str) -> String {
        format!("{}.{}", Self::header_part(kid), self.payload_part())
    }

    /// The encoded header of delegations by the issuer's key named `kid`.
    #[must_use]
    pub fn header_part(kid: &str) -> String {
        encoded(&HeaderText::new(DELEGATION_TYP, kid, None))
    }

    /// The encoded claims.
    #[must_use]
    pub fn payload_part(&self) -> String {
        let jwk = JwkText { kty: "OKP", crv: "Ed25519", x: base64url::encode(&self.public_key) };
        encoded(&ClaimsText {
            iss: &self.issuer,
            iat: self.issued_at.0,
            exp: self.expires_at.0,
            cnf: ConfirmationText { jwk },
        })
    }

    /// Splits the text of a delegation and reads its header (D1, D2).
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse<'a>(
        text: &'a str,
        scratch: &mut Scratch,
    ) -> Result<UnverifiedDelegation<'a>, DelegationError> {
        let (jws, header) = parse_within(text.as_bytes(), HEADER_BYTES_MAX, Padding::Refused, scratch)?;
        if !header.is_type(DELEGATION_TYP) {
            return Err(DelegationError::Typ);
        }
        if header.delegation.is_some() {
            return Err(DelegationError::Nested);
        }
        let kid = header.kid.ok_or(DelegationError::KidMissing)?.to_owned();
        Ok(UnverifiedDelegation { jws, kid, algorithm: header.algorithm })
    }

    /// Reads what a verified delegation says (D3, D4). Whether its key is one is the registry's to say.
    ///
    /// # Errors
    /// The first rule that is broken. A member that is not known here may be a restriction, and is refused.
    pub fn read(jws: &VerifiedJws<'_>, scratch: &mut Scratch) -> Result<Self, DelegationError> {
        let Claims { iss, iat, exp, json, .. } = jws.claims(scratch)?;
        let issuer = iss.ok_or(DelegationError::Member("iss"))?.to_owned();
        let issued_at = iat.ok_or(DelegationError::Member("iat"))?;
        let expires_at = exp.ok_or(DelegationError::Member("exp"))?;
        if expires_at <= issued_at || expires_at.since(issued_at) > DELEGATION_LIFE_S_MAX {
            return Err(DelegationError::Life);
        }
        let mut x = None;
        let mut resolved = json::Scratch::default();
        json::read(json.as_bytes(), &mut resolved, |reader| {
            only(reader, &["iss", "iat", "exp"], "cnf", |reader| {
                only(reader, &[], "jwk", |reader| key(reader, &mut x))
            })
        })?;
        let x = x.ok_or(DelegationError::Member("cnf"))?;
        let public_key = base64url::decode_array(x.as_bytes()).map_err(|_| DelegationError::Member("cnf"))?;
        Ok(Self { issuer, issued_at, expires_at, public_key })
    }
}

fn encoded(part: &impl Serialize) -> String {
    json_part(part).expect("texts and numbers are written without fail")
}

/// Reads an object of one member that means something here, besides those that were read already, and no other.
fn only<'a>(
    reader: &mut Reader<'a>,
    known: &[&str],
    wanted: &'static str,
    mut value: impl FnMut(&mut Reader<'a>) -> Result<(), DelegationError>,
) -> Result<(), DelegationError> {
    if reader.kind()? != Kind::Object {
        return Err(DelegationError::Member(wanted));
    }
    reader.object(|reader, name| {
        if name == wanted {
            value(reader)
        } else if known.contains(&name) {
            Ok(reader.skip()?)
        } else {
            Err(DelegationError::Member(wanted))
        }
    })
}

/// Reads an Ed25519 public key as a JWK (RFC 8037 §2) of three members.
fn key<'a>(reader: &mut Reader<'a>, x: &mut Option<&'a str>) -> Result<(), DelegationError> {
    let malformed = || DelegationError::Member("cnf");
    if reader.kind()? != Kind::Object {
        return Err(malformed());
    }
    let mut is_ed25519 = [false; 2];
    reader.object(|reader, name| {
        if reader.kind()? != Kind::String {
            return Err(malformed());
        }
        let text = reader.string()?;
        match name {
            "kty" => is_ed25519[0] = text == "OKP",
            "crv" => is_ed25519[1] = text == "Ed25519",
            "x" => *x = Some(text),
            _ => return Err(malformed()),
        }
        Ok(())
    })?;
    if is_ed25519 == [true; 2] { Ok(()) } else { Err(malformed()) }
}

impl From<JsonError> for DelegationError {
    fn from(error: JsonError) -> Self {
        Self::Claims(error.into())
    }
}

/// Member order is the order on the wire.
#[derive(Serialize)]
struct ClaimsText<'a> {
    iss: &'a str,
    iat: u64,
    exp: u64,
    cnf: ConfirmationText<'a>,
}

#[derive(Serialize)]
struct ConfirmationText<'a> {
    jwk: JwkText<'a>,
}

#[derive(Serialize)]
struct JwkText<'a> {
    kty: &'a str,
    crv: &'a str,
    x: String,
}
