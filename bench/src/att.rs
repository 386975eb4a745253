//! Mints Agent Task Tokens from a software key: for the benches and for load, never for production.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use serde::Serialize;

/// The `alg` spelling a token carries; both name the same algorithm (RFC 9864 §2.2, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Algorithm {
    /// The name of RFC 9864.
    #[value(name = "Ed25519")]
    Ed25519,
    /// The older, deprecated spelling: the only one `jsonwebtoken` knows.
    #[value(name = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// As it stands in a JWS header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A key with the names its tokens carry.
pub struct Minter {
    signing_key: SigningKey,
    kid: String,
    issuer: String,
    audience: String,
    // The first segment with its dot: the same for every token.
    header: String,
}

/// What differs from one token to the next.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// `iat` and `nbf`, in seconds since 1970.
    pub issued_at: u64,
    /// `exp`, in seconds since 1970.
    pub expires_at: u64,
    /// `jti`.
    pub token_id: &'a str,
    /// Ends up in `sub` and `task`.
    pub number: u64,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    scope: [&'a str; 2],
    task: &'a str,
    cns: Constraints,
    own: &'a str,
}

#[derive(Serialize)]
struct Constraints {
    max_calls: u32,
}

impl Minter {
    /// A minter for `signing_key`, whose tokens carry these names.
    #[must_use]
    pub fn new(
        signing_key: SigningKey,
        algorithm: Algorithm,
        kid: &str,
        issuer: &str,
        audience: &str,
    ) -> Self {
        let header = Header { alg: algorithm.name(), typ: "att+jwt", kid };
        Self {
            signing_key,
            kid: kid.to_owned(),
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            header: format!("{}.", encode_json(&header)),
        }
    }

    /// One compact JWS.
    #[must_use]
    pub fn mint(&self, grant: &Grant<'_>) -> String {
        let claims = Claims {
            iss: &self.issuer,
            sub: &format!("agent:bench-{:06}", grant.number),
            aud: &self.audience,
            iat: grant.issued_at,
            nbf: grant.issued_at,
            exp: grant.expires_at,
            jti: grant.token_id,
            scope: ["mail.read", "calendar.write"],
            task: &format!("task-{:06}", grant.number),
            cns: Constraints { max_calls: 100 },
            own: "user:alice",
        };
        let mut token = self.header.clone();
        token.push_str(&encode_json(&claims));
        let signature = self.signing_key.sign(token.as_bytes()).to_bytes();
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// The JWKS document (RFC 7517 §5, RFC 8037 §2) a server needs to verify these tokens.
    ///
    /// `alg` is left out of the key: then it fits both spellings.
    #[must_use]
    pub fn jwks(&self) -> String {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.signing_key.verifying_key().as_bytes());
        let key =
            serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": x });
        serde_json::json!({ "keys": [key] }).to_string()
    }

    /// The public half of the key.
    #[must_use]
    pub fn verifying_key(&self) -> [u8; 32] {
        self.signing_key.verifying_key().to_bytes()
    }
}

/// Reads an Ed25519 private key from a PKCS#8 PEM file (RFC 8410 §7).
///
/// # Errors
/// The file cannot be read, or is not such a key; the text says which.
pub fn load_signing_key(path: &Path) -> Result<SigningKey, String> {
    let pem = fs::read_to_string(path).map_err(|e| format!("cannot read the key {}: {e}", path.display()))?;
    SigningKey::from_pkcs8_pem(&pem)
        .map_err(|e| format!("{} is not an Ed25519 private key in PKCS#8 PEM: {e}", path.display()))
}

/// Changes one bit of a token's signature, keeping it well-formed: only the signature check can notice.
///
/// # Panics
/// `token` has no signature segment of 86 characters.
#[must_use]
pub fn tamper(token: &str) -> String {
    let (signing_input, signature) = token.rsplit_once('.').expect("a compact JWS has two dots");
    let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("the minter wrote base64url");
    // A low bit of R: S stays below L, so the token dies in the equation and not in a cheaper check before it.
    bytes[7] ^= 0x10;
    format!("{signing_input}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn encode_json(value: &impl Serialize) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("plain strings and numbers serialise"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minter() -> Minter {
        Minter::new(SigningKey::from_bytes(&[7; 32]), Algorithm::Ed25519, "k1", "https://issuer.test", "api")
    }

    fn mint() -> String {
        minter().mint(&Grant { issued_at: 1_000, expires_at: 2_000, token_id: "t-1", number: 1 })
    }

    fn verifies(token: &str) -> bool {
        let (signing_input, signature) = token.rsplit_once('.').unwrap();
        let signature: [u8; 64] = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap().try_into().unwrap();
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        key.verify_strict(signing_input.as_bytes(), &signature.into()).is_ok()
    }

    #[test]
    fn minted_token_verifies_and_a_tampered_one_does_not() {
        assert!(verifies(&mint()));
        let tampered = tamper(&mint());
        assert_eq!(tampered.len(), mint().len());
        assert!(!verifies(&tampered));
    }

    #[test]
    fn header_and_claims_are_those_of_an_agent_task_token() {
        let token = mint();
        let mut segments = token.split('.').map(|s| BASE64_URL_SAFE_NO_PAD.decode(s).unwrap());
        let header: serde_json::Value = serde_json::from_slice(&segments.next().unwrap()).unwrap();
        assert_eq!(header, serde_json::json!({"alg": "Ed25519", "typ": "att+jwt", "kid": "k1"}));
        let claims: serde_json::Value = serde_json::from_slice(&segments.next().unwrap()).unwrap();
        assert_eq!(claims["iss"], "https://issuer.test");
        assert_eq!(claims["aud"], "api");
        assert_eq!((&claims["nbf"], &claims["exp"]), (&1_000.into(), &2_000.into()));
        assert_eq!(claims["jti"], "t-1");
    }

    #[test]
    fn jwks_names_the_public_key_only() {
        let jwks: serde_json::Value = serde_json::from_str(&minter().jwks()).unwrap();
        assert_eq!(jwks["keys"][0]["crv"], "Ed25519");
        assert_eq!(jwks["keys"][0]["x"].as_str().unwrap().len(), 43);
        assert!(jwks["keys"][0].get("d").is_none());
    }
}
