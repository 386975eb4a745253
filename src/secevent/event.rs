//! The events themselves: what is understood of CAEP 1.0 and RISC 1.0.

use super::EVENTS_MAX;
use super::subject::{Subject, Target};
use crate::decision::UnixSeconds;
use crate::json::{self, JsonError, Kind, Reader};

/// One thing that an event says about its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The event's short name, such as `session-revoked`.
    pub event: &'static str,
    /// What it is about.
    pub target: Target,
    /// What became of that.
    pub effect: Effect,
    /// When it happened.
    pub at: UnixSeconds,
}

/// What became of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A user: nothing passes until it is enabled.
    Disabled,
    /// A user: what was disabled passes again.
    Enabled,
    /// What was issued until then no longer passes.
    Ended,
}

/// An event as received: what it is called, and its payload.
pub(super) struct Event {
    pub(super) kind: Kinds,
    at: Option<UnixSeconds>,
    /// Whether a credential was added and nothing else.
    harmless: bool,
}

/// The events that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    AccountDisabled,
    AccountEnabled,
    AccountPurged,
    CredentialChange,
    SessionRevoked,
}

const KNOWN: [(&str, Kinds); 5] = [
    ("https://schemas.openid.net/secevent/risc/event-type/account-disabled", Kinds::AccountDisabled),
    ("https://schemas.openid.net/secevent/risc/event-type/account-enabled", Kinds::AccountEnabled),
    ("https://schemas.openid.net/secevent/risc/event-type/account-purged", Kinds::AccountPurged),
    ("https://schemas.openid.net/secevent/caep/event-type/credential-change", Kinds::CredentialChange),
    ("https://schemas.openid.net/secevent/caep/event-type/session-revoked", Kinds::SessionRevoked),
];

/// The events of one token: those understood, and the names of the others.
#[derive(Default)]
pub(super) struct Events {
    pub(super) known: Vec<Event>,
    pub(super) ignored: Vec<String>,
}

/// What is wrong with an event, and which it is.
pub(super) struct EventError {
    pub(super) uri: String,
    pub(super) problem: String,
}

impl Events {
    /// Reads the JSON text of `events`.
    pub(super) fn read(text: &str) -> Result<Self, EventError> {
        let mut events = Self::default();
        let mut scratch = json::Scratch::default();
        json::read(text.as_bytes(), &mut scratch, |reader| {
            let wrong = |uri: &str, problem: &str| Failed::Event(EventError::new(uri, problem));
            if reader.kind()? != Kind::Object {
                return Err(wrong("", "\"events\" must be an object"));
            }
            reader.object(|reader, uri| {
                if events.known.len() + events.ignored.len() == EVENTS_MAX {
                    return Err(wrong(uri, &format!("there are more than {EVENTS_MAX} events")));
                }
                if reader.kind()? != Kind::Object {
                    return Err(wrong(uri, "its payload must be an object"));
                }
                match KNOWN.iter().find(|(known, _)| *known == uri) {
                    Some((_, kind)) => events.known.push(Event::read(*kind, uri, reader)?),
                    None => {
                        reader.skip()?;
                        events.ignored.push(uri.to_owned());
                    }
                }
                Ok(())
            })
        })
        .map_err(|error| match error {
            Failed::Event(error) => error,
            Failed::Json(error) => EventError::new("", &error.to_string()),
        })?;
        if events.known.is_empty() && events.ignored.is_empty() {
            return Err(EventError::new("", "\"events\" is empty"));
        }
        events.agree()?;
        Ok(events)
    }

    /// Members of an object have no order, so an account disabled and enabled at once is neither.
    fn agree(&self) -> Result<(), EventError> {
        let has = |wanted: &[Kinds]| self.known.iter().any(|event| wanted.contains(&event.kind));
        if has(&[Kinds::AccountEnabled]) && has(&[Kinds::AccountDisabled, Kinds::AccountPurged]) {
            let problem = "the account is said to be enabled and disabled at once";
            return Err(EventError::new(KNOWN[1].0, problem));
        }
        Ok(())
    }
}

impl Event {
    fn read(kind: Kinds, uri: &str, reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let wrong = |problem: &str| Failed::Event(EventError::new(uri, problem));
        let mut event = Self { kind, at: None, harmless: false };
        let (mut change, mut credential) = (None, false);
        reader.object(|reader, name| {
            match name {
                "event_timestamp" => {
                    let at =
                        time(reader)?.ok_or_else(|| wrong("\"event_timestamp\" is no time in seconds"))?;
                    event.at = Some(at);
                }
                "change_type" if kind == Kinds::CredentialChange => {
                    if reader.kind()? != Kind::String {
                        return Err(wrong("\"change_type\" must be a string"));
                    }
                    change = Some(reader.string()?);
                }
                "credential_type" if kind == Kinds::CredentialChange => {
                    if reader.kind()? != Kind::String {
                        return Err(wrong("\"credential_type\" must be a string"));
                    }
                    reader.string()?;
                    credential = true;
                }
                _ => reader.skip()?,
            }
            Ok(())
        })?;
        // CAEP 1.0 §3.3.1: both are required.
        if kind == Kinds::CredentialChange {
            if !credential {
                return Err(wrong("\"credential_type\" is missing"));
            }
            match change {
                Some("create") => event.harmless = true,
                Some("delete" | "revoke" | "update") => {}
                Some(_) => return Err(wrong("\"change_type\" must be create, revoke, update or delete")),
                None => return Err(wrong("\"change_type\" is missing")),
            }
        }
        Ok(event)
    }

    /// What the event says about `subject`; `otherwise` is when it happened where it does not say itself.
    pub(super) fn statement(
        &self,
        subject: &Subject,
        otherwise: UnixSeconds,
    ) -> Result<Option<Statement>, EventError> {
        if self.harmless {
            return Ok(None);
        }
        let Subject { user, session, token } = subject;
        let user = || user.clone().map(Target::Subject);
        let (target, effect) = match self.kind {
            Kinds::SessionRevoked => {
                let narrow =
                    token.clone().map(Target::Token).or_else(|| session.clone().map(Target::Session));
                (narrow.or_else(user), Effect::Ended)
            }
            Kinds::CredentialChange => (user(), Effect::Ended),
            Kinds::AccountDisabled | Kinds::AccountPurged => (user(), Effect::Disabled),
            Kinds::AccountEnabled => (user(), Effect::Enabled),
        };
        let Some(target) = target else {
            return Err(EventError::new(
                self.uri(),
                "its subject must be a user, which \"sub_id\" does not name",
            ));
        };
        Ok(Some(Statement { event: self.name(), target, effect, at: self.at.unwrap_or(otherwise) }))
    }

    pub(super) fn uri(&self) -> &'static str {
        KNOWN.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(uri, _)| uri)
    }

    fn name(&self) -> &'static str {
        self.uri().rsplit('/').next().unwrap_or("")
    }
}

impl EventError {
    pub(super) fn new(uri: &str, problem: &str) -> Self {
        Self { uri: uri.to_owned(), problem: problem.to_owned() }
    }
}

enum Failed {
    Event(EventError),
    Json(JsonError),
}

impl From<JsonError> for Failed {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// A `NumericDate` in whole seconds; a fraction counts up, so that what was issued in that second is meant too.
pub(super) fn time(reader: &mut Reader<'_>) -> Result<Option<UnixSeconds>, JsonError> {
    /// As for the times of tokens: from here on doubles no longer hold every integer.
    const TIME_MAX: u64 = 1 << 53;
    if reader.kind()? != Kind::Number {
        reader.skip()?;
        return Ok(None);
    }
    let number = reader.number()?;
    if let Some(seconds) = number.to_u64() {
        return Ok((seconds < TIME_MAX).then_some(UnixSeconds(seconds)));
    }
    let seconds = number.to_f64().ceil();
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let in_range = (0.0..TIME_MAX as f64).contains(&seconds);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and in range")]
    Ok(in_range.then_some(UnixSeconds(seconds as u64)))
}
