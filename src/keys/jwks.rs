//! JWK Sets (RFC 7517, 8037): read with every rule of K4, and written.

use std::fmt;

use serde::Serialize;

use crate::base64url;
use crate::json::{self, JsonError, Kind, Reader};
use crate::keys::{KID_BYTES_MAX, PublishedKey, thumbprint};
use crate::verify::{KeyRejection, VerifyingKey};

/// Longest document, in bytes. A set of 204 keys, the largest met in the wild, has about 100 KiB with RSA keys.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Most keys in a set, of whatever type.
pub const KEYS_PER_SET_MAX: usize = 256;

/// The member of a JWK that says that it is a delegated key; in a token's header it carries the same text.
pub const DELEGATION_MEMBER: &str = "edgate_delegation";

/// A parsed set: the keys that can verify, and why the others cannot.
#[derive(Debug, Clone)]
pub struct Jwks {
    /// Usable keys, in the order of the document. May be empty: whether that is acceptable is the caller's question.
    pub keys: Vec<PublishedKey>,
    /// Keys passed over.
    pub skipped: Vec<SkippedKey>,
}

/// A key that cannot verify tokens here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its place in `keys`, from 0.
    pub index: usize,
    /// Its name, if it has one that can be shown.
    pub kid: Option<String>,
    /// Why.
    pub reason: SkipReason,
}

/// Reads a JWK Set.
///
/// Keys of other types are passed over, so that an issuer may publish them; so is each key that breaks a rule, for
/// reasons the caller should show. A key without `kid` is named by its thumbprint.
///
/// # Errors
/// [`JwksError`] where the set as a whole cannot be trusted to mean what it says.
pub fn parse(text: &[u8]) -> Result<Jwks, JwksError> {
    if text.len() > JWKS_BYTES_MAX {
        return Err(JwksError::TooLong);
    }
    let mut scratch = json::Scratch::default();
    let mut found: Option<Vec<Members<'_>>> = None;
    json::read(text, &mut scratch, |reader| {
        reader.object(|reader, name| {
            if name == "keys" {
                found = Some(members_of_keys(reader)?);
            } else {
                reader.skip()?;
            }
            Ok::<_, JwksError>(())
        })
    })?;
    let all = found.ok_or(JwksError::KeysMissing)?;
    let symmetric = all.iter().filter(|members| members.kty == Member::String("oct")).count();
    if symmetric != 0 && symmetric != all.len() {
        return Err(JwksError::MixedSymmetry);
    }
    let mut jwks = Jwks { keys: Vec::new(), skipped: Vec::new() };
    for (index, members) in all.iter().enumerate() {
        match members.verifying_key() {
            Ok((kid, verifying_key)) => jwks.keys.push(PublishedKey { kid, verifying_key }),
            Err(reason) => {
                jwks.skipped.push(SkippedKey { index, kid: members.kid.string().map(str::to_owned), reason });
            }
        }
    }
    jwks.refuse_repeated_kids()?;
    Ok(jwks)
}

/// A key as it is published.
#[derive(Debug, Clone, Copy)]
pub struct JwkOf<'a> {
    /// Its name.
    pub kid: &'a str,
    /// The key.
    pub public_key: &'a [u8; 32],
    /// The text of its delegation, if it is a delegated one.
    pub delegation: Option<&'a str>,
}

/// Writes the set that publishes `keys`: each as `OKP`, `Ed25519`, for signatures. A delegated key has its delegation as a member more,
/// which others pass over (RFC 7517 §4), and which has [`parse`] pass over the key.
///
/// # Errors
/// What `serde_json` reports; no key is known to cause it.
pub fn render<'a>(keys: impl IntoIterator<Item = JwkOf<'a>>) -> Result<String, serde_json::Error> {
    let key = |JwkOf { kid, public_key, delegation }| JwkText {
        kty: "OKP",
        crv: "Ed25519",
        alg: "Ed25519",
        r#use: "sig",
        kid,
        x: base64url::encode(public_key),
        edgate_delegation: delegation,
    };
    serde_json::to_string(&SetText { keys: keys.into_iter().map(key).collect() })
}

impl Jwks {
    /// A name that stands for two keys would make the order of the document decide.
    fn refuse_repeated_kids(&self) -> Result<(), JwksError> {
        let kids = self.keys.iter().map(|key| key.kid.as_str());
        let mut kids: Vec<&str> =
            kids.chain(self.skipped.iter().filter_map(|key| key.kid.as_deref())).collect();
        kids.sort_unstable();
        match kids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(JwksError::KidRepeated { kid: pair[0].to_owned() }),
            None => Ok(()),
        }
    }
}

/// The members of one JWK that have a meaning here, as they were met.
#[derive(Debug, Default)]
struct Members<'a> {
    kty: Member<'a>,
    crv: Member<'a>,
    kid: Member<'a>,
    alg: Member<'a>,
    r#use: Member<'a>,
    x: Member<'a>,
    key_ops: Option<KeyOps>,
    delegated: bool,
    private: bool,
}

/// A member that should be a string.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Member<'a> {
    #[default]
    Absent,
    OtherKind,
    String(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyOps {
    Malformed,
    WithVerify,
    WithoutVerify,
}

fn members_of_keys<'a>(reader: &mut Reader<'a>) -> Result<Vec<Members<'a>>, JwksError> {
    if reader.kind()? != Kind::Array {
        return Err(JwksError::KeysMissing);
    }
    let mut all = Vec::new();
    reader.array(|reader| {
        if all.len() == KEYS_PER_SET_MAX {
            return Err(JwksError::TooManyKeys);
        }
        let mut members = Members::default();
        reader.object(|reader, name| members.read(reader, name))?;
        all.push(members);
        Ok(())
    })?;
    Ok(all)
}

impl<'a> Members<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, name: &'a str) -> Result<(), JsonError> {
        match name {
            "kty" => self.kty = Member::read(reader)?,
            "crv" => self.crv = Member::read(reader)?,
            "kid" => self.kid = Member::read(reader)?,
            "alg" => self.alg = Member::read(reader)?,
            "use" => self.r#use = Member::read(reader)?,
            "x" => self.x = Member::read(reader)?,
            "key_ops" => self.key_ops = Some(KeyOps::read(reader)?),
            DELEGATION_MEMBER => {
                self.delegated = true;
                reader.skip()?;
            }
            "d" => {
                self.private = true;
                reader.skip()?;
            }
            _ => reader.skip()?,
        }
        Ok(())
    }

    /// The key and its name, if it can verify Ed25519 signatures.
    fn verifying_key(&self) -> Result<(String, VerifyingKey), SkipReason> {
        // First, whatever the rest says: a published private key is no key.
        if self.private {
            return Err(SkipReason::PrivateKey);
        }
        if self.kty != Member::String("OKP") || self.crv != Member::String("Ed25519") {
            return Err(SkipReason::OtherType);
        }
        // Its own word is not enough: what says that it signs comes with each token, and is verified there.
        if self.delegated {
            return Err(SkipReason::Delegated);
        }
        if !matches!(self.r#use, Member::Absent | Member::String("sig")) {
            return Err(SkipReason::UseNotSig);
        }
        match self.key_ops {
            None | Some(KeyOps::WithVerify) => {}
            Some(KeyOps::WithoutVerify) => return Err(SkipReason::KeyOpsWithoutVerify),
            Some(KeyOps::Malformed) => return Err(SkipReason::KeyOpsMalformed),
        }
        if !matches!(self.alg, Member::Absent | Member::String("Ed25519" | "EdDSA")) {
            return Err(SkipReason::AlgMismatch);
        }
        let Member::String(x) = self.x else { return Err(SkipReason::XMalformed) };
        let public_key = base64url::decode_array::<32>(x.as_bytes()).map_err(|_| SkipReason::XMalformed)?;
        let kid = match self.kid {
            Member::String(kid) if kid.is_empty() || kid.len() > KID_BYTES_MAX => {
                return Err(SkipReason::KidMalformed);
            }
            Member::String(kid) => kid.to_owned(),
            Member::OtherKind => return Err(SkipReason::KidMalformed),
            Member::Absent => thumbprint(&public_key),
        };
        let verifying_key = VerifyingKey::register(&public_key).map_err(SkipReason::Point)?;
        Ok((kid, verifying_key))
    }
}

impl<'a> Member<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, JsonError> {
        if reader.kind()? == Kind::String {
            return Ok(Self::String(reader.string()?));
        }
        reader.skip()?;
        Ok(Self::OtherKind)
    }

    fn string(self) -> Option<&'a str> {
        match self {
            Self::String(string) => Some(string),
            Self::Absent | Self::OtherKind => None,
        }
    }
}

impl KeyOps {
    /// RFC 7517 §4.3: an array of distinct strings.
    fn read(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        if reader.kind()? != Kind::Array {
            reader.skip()?;
            return Ok(Self::Malformed);
        }
        let mut operations = Vec::new();
        let mut malformed = false;
        reader.array(|reader| {
            match Member::read(reader)? {
                Member::String(operation) => operations.push(operation),
                Member::Absent | Member::OtherKind => malformed = true,
            }
            Ok::<_, JsonError>(())
        })?;
        operations.sort_unstable();
        malformed |= operations.windows(2).any(|pair| pair[0] == pair[1]);
        Ok(match operations.contains(&"verify") {
            _ if malformed => Self::Malformed,
            true => Self::WithVerify,
            false => Self::WithoutVerify,
        })
    }
}

#[derive(Serialize)]
struct SetText<'a> {
    keys: Vec<JwkText<'a>>,
}

#[derive(Serialize)]
struct JwkText<'a> {
    kty: &'a str,
    crv: &'a str,
    alg: &'a str,
    r#use: &'a str,
    kid: &'a str,
    x: String,
    /// [`DELEGATION_MEMBER`].
    #[serde(skip_serializing_if = "Option::is_none")]
    edgate_delegation: Option<&'a str>,
}

/// Why one key of a set is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// `alg` is neither `Ed25519` nor `EdDSA`.
    AlgMismatch,
    /// `key_ops` is not an array of distinct strings.
    KeyOpsMalformed,
    /// `key_ops` is there without `verify`.
    KeyOpsWithoutVerify,
    /// `kid` is not a string of 1 to [`KID_BYTES_MAX`] bytes.
    KidMalformed,
    /// Not `OKP` with `Ed25519`: for others to use.
    OtherType,
    /// The registry refuses the point.
    Point(KeyRejection),
    /// It is a delegated key: the tokens that it signs carry what makes it one, and are verified by that.
    Delegated,
    /// `d` is there: the issuer published a private key, which must be considered lost.
    PrivateKey,
    /// `use` is not `sig`.
    UseNotSig,
    /// `x` is not 43 characters of canonical base64url.
    XMalformed,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlgMismatch => f.write_str("alg is neither Ed25519 nor EdDSA"),
            Self::Delegated => f.write_str("a delegated key, which its tokens bring themselves"),
            Self::KeyOpsMalformed => f.write_str("key_ops is not an array of distinct strings"),
            Self::KeyOpsWithoutVerify => f.write_str("key_ops does not contain verify"),
            Self::KidMalformed => write!(f, "kid is not a string of 1 to {KID_BYTES_MAX} bytes"),
            Self::OtherType => f.write_str("not an Ed25519 key (kty OKP, crv Ed25519)"),
            Self::Point(rejection) => write!(f, "{rejection}"),
            Self::PrivateKey => f.write_str("contains the private key (d): revoke it"),
            Self::UseNotSig => f.write_str("use is not sig"),
            Self::XMalformed => f.write_str("x is not 43 characters of canonical base64url"),
        }
    }
}

/// Why a set as a whole is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not strict JSON, or a key is not an object.
    #[error("key set: {0}")]
    Json(#[from] JsonError),
    /// No `keys`, or it is no array.
    #[error("key set has no array keys")]
    KeysMissing,
    /// Two keys have the same name.
    #[error("key set has two keys named {kid:?}")]
    KidRepeated {
        /// The name.
        kid: String,
    },
    /// Symmetric and asymmetric keys stand together: someone will take a public key for an HMAC secret.
    #[error("key set mixes symmetric (oct) and public keys")]
    MixedSymmetry,
    /// The document is too long.
    #[error("key set is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// There are too many keys.
    #[error("key set has more than {KEYS_PER_SET_MAX} keys")]
    TooManyKeys,
}
