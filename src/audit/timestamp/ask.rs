//! Getting a token: one question over HTTP (RFC 3161 §3.4), and an answer that is believed once it was checked.

use std::{io, time::Duration};

use der::{
    Any, Decode as _, Encode as _, Sequence,
    asn1::{BitString, Int, Null, ObjectIdentifier, OctetString},
};
use sha2::{Digest as _, Sha256};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::{
    TOKEN_BYTES_MAX,
    chain::Authorities,
    fault::{StampClass, StampFault},
    token::{MessageImprint, SHA_256, Stamp, StampExpected, verify_stamp},
};
use crate::https;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The authority could not be asked.
    #[error("cannot ask {url}: {cause}")]
    Http {
        /// Where.
        url: String,
        /// What went wrong.
        cause: String,
    },
    /// No random number.
    #[error("cannot draw a nonce: {0}")]
    Random(io::Error),
    /// It answered, and what it answered is not believed.
    #[error(transparent)]
    Refused(StampFault),
}

/// RFC 3161 §2.4.1.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct Request {
    version: u8,
    message_imprint: MessageImprint,
    #[asn1(optional = "true")]
    req_policy: Option<ObjectIdentifier>,
    nonce: Int,
    cert_req: bool,
}

/// RFC 3161 §2.4.2.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct Response {
    status: StatusInfo,
    #[asn1(optional = "true")]
    token: Option<Any>,
}

#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct StatusInfo {
    status: Int,
    #[asn1(optional = "true")]
    text: Option<Vec<String>>,
    #[asn1(optional = "true")]
    failure: Option<BitString>,
}

/// An authority, and what is believed of what it answers.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Where it answers.
    pub url: String,
    /// Whose timestamps are believed.
    pub trusted: Authorities,
    /// The policy that is asked for, as a dotted number.
    pub policy: Option<String>,
    /// How long it may take to answer.
    pub timeout: Duration,
}

impl Authority {
    /// Asks for a token about `message`, and checks it as anyone later would, with the nonce and with the clock: what it
    /// states must be within [`SKEW_MAX`] of `now`. Blocks for at most [`Self::timeout`].
    ///
    /// # Errors
    /// [`AskError`]; a token that was not believed is not given out.
    pub fn ask(&self, message: &[u8], now: i64) -> Result<(Vec<u8>, Stamp), AskError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| AskError::Random(io::Error::other(error)))?;
        // A positive number of full length, so that it has one spelling.
        nonce[0] = nonce[0] & 0x7f | 0x40;
        let malformed = |error: der::Error| AskError::Refused(StampClass::Malformed.because(error));
        let policy = self.policy.as_deref();
        let req_policy = policy.map(ObjectIdentifier::new).transpose();
        let request = Request {
            version: 1,
            message_imprint: MessageImprint {
                hash_algorithm: AlgorithmIdentifierOwned { oid: SHA_256, parameters: Some(Null.into()) },
                hashed_message: OctetString::new(Sha256::digest(message).to_vec()).map_err(malformed)?,
            },
            req_policy: req_policy
                .map_err(|error| AskError::Refused(StampClass::WrongPolicy.because(error)))?,
            nonce: Int::new(&nonce).map_err(malformed)?,
            cert_req: true,
        };
        let answer = self
            .post(&request.to_der().map_err(malformed)?)
            .map_err(|cause| AskError::Http { url: self.url.clone(), cause })?;
        let token = token_of(&answer).map_err(AskError::Refused)?;
        let skew = i64::try_from(SKEW_MAX.as_secs()).expect("minutes");
        let expected = StampExpected {
            authorities: &self.trusted,
            policy,
            nonce: Some(&nonce),
            after: Some(now - skew),
            before: Some(now + skew),
        };
        let stamp = verify_stamp(&token, message, &expected).map_err(AskError::Refused)?;
        Ok((token, stamp))
    }

    fn post(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |error: ureq::Error| error.to_string();
        let asked = https::agent(self.timeout).post(&self.url);
        let asked = asked.header("Content-Type", "application/timestamp-query").send(request);
        let mut response = asked.map_err(failed)?;
        if response.status() != 200 {
            return Err(format!("the answer is {}", response.status()));
        }
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/timestamp-reply") {
            return Err("its type is not application/timestamp-reply".to_owned());
        }
        response.body_mut().with_config().limit(TOKEN_BYTES_MAX as u64).read_to_vec().map_err(failed)
    }
}

/// The token in an answer that gives one.
fn token_of(answer: &[u8]) -> Result<Vec<u8>, StampFault> {
    let response = Response::from_der(answer)
        .map_err(|error| StampClass::Malformed.because(format!("not an answer: {error}")))?;
    let StatusInfo { status, text, .. } = &response.status;
    // Granted, or granted with changes: what was changed is checked with everything else.
    if !matches!(status.as_bytes(), [0 | 1]) {
        let said = text.as_deref().unwrap_or_default().join("; ");
        let status = status.as_bytes();
        return Err(
            StampClass::Refused.because(format!("the authority gives none, status {status:?}: {said:?}"))
        );
    }
    let token = response.token.ok_or_else(|| StampClass::Malformed.because("an answer without a token"))?;
    token.to_der().map_err(|error| StampClass::Malformed.because(error))
}

/// How far an authority's clock may be from ours, either way, when it is asked.
const SKEW_MAX: Duration = Duration::from_secs(300);
