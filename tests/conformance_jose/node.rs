//! The path of a token, as a shard walks it: parse, candidate keys, header, signature, issuer, claims.

use ed25519_dalek::{Signer, SigningKey};
use edgate::base64url;
use edgate::decision::{Rejection, UnixSeconds};
use edgate::keys::{IssuerIndex, KeySet, RegisteredKey, jwks};
use edgate::token::{self, Demand, Padding, Profile, ProfileKind, Scratch, VerifiedJws};
use edgate::verify::{Engine, Item, ItemKey, SignatureVerified, Verdict, Verifier};

/// The private key of RFC 8037 A.1: `k1` of the derived cases.
const RFC8037_D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

/// A small node: the keys of issuer 0 and of further issuers, and the RFC 8037 key to sign with.
pub(crate) struct Node {
    pub(crate) keys: KeySet,
    pub(crate) signing_key: SigningKey,
}

impl Node {
    /// The key sets of issuer 0, 1 and so on.
    pub(crate) fn new(sets: &[&str]) -> Self {
        let keys = |set: &&str| jwks::parse(set.as_bytes()).unwrap().keys;
        let issuers = (0..).map(IssuerIndex).zip(sets.iter().map(keys)).collect();
        let d = base64url::decode_array::<32>(RFC8037_D.as_bytes()).unwrap();
        Self { keys: KeySet::new(issuers).unwrap(), signing_key: SigningKey::from_bytes(&d) }
    }

    pub(crate) fn rfc8037(kid: &str) -> Self {
        Self::new(&[&rfc8037_set(kid)])
    }

    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_bytes(header.as_bytes(), claims.as_bytes())
    }

    pub(crate) fn sign_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        sign(&self.signing_key, header, claims)
    }

    pub(crate) fn decide(
        &self,
        token: &[u8],
        profile: &Profile,
        now: UnixSeconds,
    ) -> Result<String, Rejection> {
        self.decide_with(token, profile, now, &Demand::default())
    }

    pub(crate) fn decide_with(
        &self,
        token: &[u8],
        profile: &Profile,
        now: UnixSeconds,
        demand: &Demand<'_>,
    ) -> Result<String, Rejection> {
        self.decide_padded(token, profile, now, demand, Padding::Refused)
    }

    /// `profile` is that of issuer 0; further issuers have the same with another `iss`. Returns the claims.
    pub(crate) fn decide_padded(
        &self,
        token: &[u8],
        profile: &Profile,
        now: UnixSeconds,
        demand: &Demand<'_>,
        padding: Padding,
    ) -> Result<String, Rejection> {
        let mut scratch = Scratch::default();
        let (jws, header) =
            token::parse(token, padding, &mut scratch).map_err(token::ParseError::rejection)?;
        let candidates = self.keys.candidates(header.kid);
        let mut outcome = Err(Rejection::KeyUnknown);
        let mut admitted = Vec::new();
        for key in candidates {
            let profile = match key.issuer() {
                IssuerIndex(0) => profile.clone(),
                IssuerIndex(n) => Profile { issuer: format!("https://as{n}.example"), ..profile.clone() },
            };
            match profile.check_header(&header) {
                Ok(()) => admitted.push((key, profile)),
                Err(rejection) => outcome = Err(rejection),
            }
        }
        for (key, profile) in admitted {
            let proof = match self.verify(&jws, key) {
                Ok(proof) => proof,
                Err(rejection) => {
                    outcome = Err(rejection);
                    continue;
                }
            };
            let verified = VerifiedJws::new(jws, proof);
            let claims = verified.claims(&mut scratch).map_err(token::ClaimsError::rejection)?;
            profile.check_claims(&claims, now, demand)?;
            return Ok(claims.json.to_owned());
        }
        outcome
    }

    pub(crate) fn verify(
        &self,
        jws: &token::CompactJws<'_>,
        key: &RegisteredKey,
    ) -> Result<SignatureVerified, Rejection> {
        let item = Item {
            key: ItemKey::Registered(key.verifying_key()),
            message: jws.signing_input(),
            signature: jws.signature(),
        };
        let mut verdicts = Vec::new();
        Verifier::new(Engine::Auto).verify(&[item], &mut verdicts);
        match verdicts.pop().unwrap() {
            Verdict::Accepted(proof) => Ok(proof),
            Verdict::Rejected(rejection) => Err(rejection.into()),
        }
    }
}

pub(crate) fn sign(signing_key: &SigningKey, header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", base64url::encode(header), base64url::encode(claims));
    let signature = signing_key.sign(input.as_bytes()).to_bytes();
    token::assemble(input, &signature)
}

pub(crate) fn rfc8037_set(kid: &str) -> String {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"{x}"}}]}}"#)
}

pub(crate) fn jwt_profile() -> Profile {
    Profile::new(
        ProfileKind::Jwt,
        "as".into(),
        "t".into(),
        "https://as.example".into(),
        vec!["https://rs.example".into()],
    )
}
