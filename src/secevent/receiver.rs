//! From the bytes that were pushed to what they say, once it is known who says it.

use super::event::{EventError, Events, Statement, time};
use super::subject::{Subject, SubjectError};
use super::{AGE_S_MAX, JTI_BYTES_MAX, LEEWAY_S, SET_TYP};
use crate::decision::UnixSeconds;
use crate::json::{self, JsonError};
use crate::keys::{IssuerIndex, KeySet, KeySetError, PublishedKey, RegisteredKey};
use crate::token::{self, Claims, ClaimsError, Padding, ParseError, VerifiedJws};
use crate::verify::{Item, ItemKey, Verdict, Verifier};

/// Who may push events.
#[derive(Debug, Clone)]
pub struct Transmitter {
    /// Its name in the configuration, in records and in logs.
    pub name: String,
    /// Its `iss`, compared byte by byte.
    pub issuer: String,
    /// What its tokens must name in `aud`: us.
    pub audience: String,
    /// The `iss` of the tokens it may speak of.
    pub speaks_of: String,
}

/// An accepted token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Place of its transmitter in the list that [`Receiver::new`] was given.
    pub transmitter: usize,
    /// Its own name; with the transmitter its identity.
    pub jti: String,
    /// From when on it would be refused as too old, so that its name need not be remembered.
    pub forget_at: UnixSeconds,
    /// What it says.
    pub statements: Vec<Statement>,
    /// Names of the events that mean nothing here.
    pub ignored: Vec<String>,
}

/// Reads tokens of the configured transmitters. Owns the memory for it; one token at a time.
pub struct Receiver {
    transmitters: Vec<Transmitter>,
    keys: KeySet,
    verifier: Verifier,
    verdicts: Vec<Verdict>,
    scratch: token::Scratch,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// `aud` does not name us.
    #[error("aud does not name this receiver")]
    Audience,
    /// The payload is not a strict JSON object, or a claim has the wrong type.
    #[error("the payload is no set of claims: {0}")]
    Claims(ClaimsError),
    /// An event does not conform to its definition.
    #[error("event {uri:?}: {problem}")]
    Event {
        /// Its name, shortened.
        uri: String,
        /// What is wrong.
        problem: String,
    },
    /// The subject is not one the transmitter may speak of.
    #[error("sub_id is of another issuer than this transmitter may speak of")]
    Foreign,
    /// The text is no compact JWS.
    #[error("not a signed JWT that is accepted here: {0}")]
    Form(ParseError),
    /// `iss` is not the transmitter that the key belongs to.
    #[error("iss is not the transmitter that the signing key belongs to")]
    Issuer,
    /// No transmitter has a key of this name.
    #[error("no configured transmitter has the key that kid names")]
    KeyUnknown,
    /// A claim that must be there is not, or says nothing.
    #[error("{0} is missing, empty or too long")]
    Missing(&'static str),
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// The subject names nothing that tokens carry.
    #[error("sub_id: {0}")]
    Subject(String),
    /// A time is impossible or too long ago.
    #[error("{0}")]
    Time(String),
    /// `typ` says that it is something else.
    #[error("typ is not {SET_TYP}")]
    Type,
}

impl SetError {
    /// The word for a transmitter (RFC 8935 §2.4 and the registry of §7.1).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Audience => "invalid_audience",
            Self::Foreign => "access_denied",
            Self::Issuer => "invalid_issuer",
            Self::KeyUnknown => "invalid_key",
            Self::Signature => "authentication_failed",
            Self::Claims(_)
            | Self::Event { .. }
            | Self::Form(_)
            | Self::Missing(_)
            | Self::Subject(_)
            | Self::Time(_)
            | Self::Type => "invalid_request",
        }
    }
}

impl Receiver {
    /// A receiver for these transmitters and their keys.
    ///
    /// # Errors
    /// [`KeySetError`] where a key could not be looked up.
    pub fn new(
        transmitters: Vec<(Transmitter, Vec<PublishedKey>)>,
        verifier: Verifier,
    ) -> Result<Self, KeySetError> {
        let (transmitters, keys): (Vec<_>, Vec<_>) = transmitters.into_iter().unzip();
        let keys = KeySet::new((0..).map(IssuerIndex).zip(keys).collect())?;
        let scratch = token::Scratch::default();
        Ok(Self { transmitters, keys, verifier, verdicts: Vec::new(), scratch })
    }

    /// The transmitters, in the order of [`Received::transmitter`].
    #[must_use]
    pub fn transmitters(&self) -> &[Transmitter] {
        &self.transmitters
    }

    /// Reads one token: all of what it says, or why none of it counts.
    ///
    /// # Errors
    /// [`SetError`]: the first rule that is broken.
    pub fn read(&mut self, text: &[u8], now: UnixSeconds) -> Result<Received, SetError> {
        let (jws, header) =
            token::parse(text, Padding::Refused, &mut self.scratch).map_err(SetError::Form)?;
        if !header.is_type(SET_TYP) {
            return Err(SetError::Type);
        }
        let candidates = self.keys.candidates(header.kid);
        if candidates.is_empty() {
            return Err(SetError::KeyUnknown);
        }
        let verifying_keys = candidates.iter().map(RegisteredKey::verifying_key).map(ItemKey::Registered);
        let item = |key| Item { key, message: jws.signing_input(), signature: jws.signature() };
        let items: Vec<Item<'_>> = verifying_keys.map(item).collect();
        self.verifier.verify(&items, &mut self.verdicts);
        let (mut proof, mut verified_by) = (None, Vec::new());
        for (key, verdict) in candidates.iter().zip(self.verdicts.drain(..)) {
            if let Verdict::Accepted(verified) = verdict {
                proof = Some(verified);
                verified_by.push(usize::from(key.issuer().0));
            }
        }
        let proof = proof.ok_or(SetError::Signature)?;
        let claims = VerifiedJws::new(jws, proof).claims(&mut self.scratch).map_err(SetError::Claims)?;
        // Several transmitters may have one key; the one that is named must be among them.
        let named = |index: &usize| claims.iss == Some(self.transmitters[*index].issuer.as_str());
        let transmitter = verified_by.into_iter().find(named).ok_or(SetError::Issuer)?;
        read_claims(&claims, &self.transmitters[transmitter], transmitter, now)
    }
}

fn read_claims(
    claims: &Claims<'_>,
    transmitter: &Transmitter,
    index: usize,
    now: UnixSeconds,
) -> Result<Received, SetError> {
    if !claims.aud.contains(&transmitter.audience.as_str()) {
        return Err(SetError::Audience);
    }
    let jti = claims.jti.map(|jti| jti.0).filter(|jti| (1..=JTI_BYTES_MAX).contains(&jti.len()));
    let jti = jti.ok_or(SetError::Missing("jti"))?;
    let issued_at = claims.iat.ok_or(SetError::Missing("iat"))?;
    let latest = now.saturating_add(LEEWAY_S);
    check_times(claims, issued_at, latest, now)?;

    let mut scratch = json::Scratch::default();
    let parts = Parts::read(claims.json, &mut scratch)?;
    let otherwise = parts.happened_at.unwrap_or(issued_at);
    let events = Events::read(parts.events.ok_or(SetError::Missing("events"))?).map_err(event_error)?;
    let mut statements = Vec::with_capacity(events.known.len());
    if !events.known.is_empty() {
        let subject = parts.subject.ok_or(SetError::Missing("sub_id"))?;
        let subject = Subject::read(subject, &transmitter.speaks_of).map_err(|error| match error {
            SubjectError::Foreign => SetError::Foreign,
            SubjectError::Unusable(problem) => SetError::Subject(problem),
        })?;
        for event in &events.known {
            let Some(statement) = event.statement(&subject, otherwise).map_err(event_error)? else {
                continue;
            };
            if statement.at > latest {
                let problem = "it is said to happen in the future; times are in seconds";
                return Err(event_error(EventError::new(event.uri(), problem)));
            }
            statements.push(statement);
        }
    }
    Ok(Received {
        transmitter: index,
        jti: jti.to_owned(),
        forget_at: issued_at.saturating_add(AGE_S_MAX),
        statements,
        ignored: events.ignored.iter().map(|uri| shortened(uri)).collect(),
    })
}

fn check_times(
    claims: &Claims<'_>,
    issued_at: UnixSeconds,
    latest: UnixSeconds,
    now: UnixSeconds,
) -> Result<(), SetError> {
    if issued_at > latest {
        return Err(SetError::Time("iat is in the future".to_owned()));
    }
    if now >= issued_at.saturating_add(AGE_S_MAX) {
        return Err(SetError::Time(format!("iat is more than {} days ago", AGE_S_MAX / 86_400)));
    }
    // An event has happened, so it should not expire (RFC 8417 §2.2); where it does, that is respected.
    if claims.exp.is_some_and(|exp| now >= exp.saturating_add(LEEWAY_S)) {
        return Err(SetError::Time("exp has passed".to_owned()));
    }
    if claims.nbf.is_some_and(|nbf| nbf > latest) {
        return Err(SetError::Time("nbf is in the future".to_owned()));
    }
    Ok(())
}

/// The claims that only events have, as received.
#[derive(Default)]
struct Parts<'a> {
    events: Option<&'a str>,
    subject: Option<&'a str>,
    /// `toe` (RFC 8417 §2.2).
    happened_at: Option<UnixSeconds>,
}

impl<'a> Parts<'a> {
    fn read(claims: &'a str, scratch: &'a mut json::Scratch) -> Result<Self, SetError> {
        let mut parts = Self::default();
        let mut bad_time = false;
        json::read(claims.as_bytes(), scratch, |reader| {
            reader.object(|reader, name| {
                match name {
                    "events" => parts.events = Some(reader.raw()?),
                    "sub_id" => parts.subject = Some(reader.raw()?),
                    "toe" => {
                        parts.happened_at = time(reader)?;
                        bad_time = parts.happened_at.is_none();
                    }
                    _ => reader.skip()?,
                }
                Ok::<_, JsonError>(())
            })
        })
        .map_err(|error| SetError::Claims(ClaimsError::Json(error)))?;
        if bad_time {
            return Err(SetError::Time("toe is no time in seconds".to_owned()));
        }
        Ok(parts)
    }
}

fn event_error(error: EventError) -> SetError {
    SetError::Event { uri: shortened(&error.uri), problem: error.problem }
}

/// A name from outside, of a length that can be shown.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    text.chars().take(CHARS_MAX).collect()
}
