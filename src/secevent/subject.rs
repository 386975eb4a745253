//! Whom or what an event is about: subject identifiers (RFC 9493), as far as tokens carry the same names.

use crate::json::{self, JsonError, Kind, Reader};

/// What a subject identifier names, as tokens name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A session: `sid`.
    Session(String),
    /// A user or agent: `sub`.
    Subject(String),
    /// One token: `jti`.
    Token(String),
}

/// The parts of a subject. A complex one may have a user and a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) token: Option<String>,
}

/// Why a subject is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubjectError {
    /// It names another issuer than the one whose tokens the transmitter may speak of.
    Foreign,
    /// It is malformed, or names nothing that a token carries.
    Unusable(String),
}

impl From<JsonError> for SubjectError {
    fn from(error: JsonError) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl Subject {
    /// Reads the JSON text of a `sub_id`. `issuer` is the `iss` of the tokens that may be meant.
    ///
    /// A member that the format does not describe makes it malformed (RFC 9493 §3), and so nothing is passed over that
    /// might have narrowed what is meant. A complex subject (SSF 1.0 §3.2) narrows by each of its members: with a session
    /// the rest can be left out, as a session belongs to one user and one device; without one it must be of a user
    /// alone, whom the tenant says nothing new about.
    pub(super) fn read(text: &str, issuer: &str) -> Result<Self, SubjectError> {
        let mut scratch = json::Scratch::default();
        let members = Members::read(text, &mut scratch)?;
        let format = members.text("format")?;
        match format {
            "complex" => {
                let part = |name| -> Result<Option<String>, SubjectError> {
                    let Some(text) = members.object(name)? else { return Ok(None) };
                    let simple = Self::read(text, issuer)?;
                    simple
                        .user
                        .map(Some)
                        .ok_or_else(|| unusable(format!("\"{name}\" must be opaque or iss_sub")))
                };
                let (user, session) = (part("user")?, part("session")?);
                let narrowing = ["application", "device", "group", "org_unit", "tenant"];
                members.only(&[&["format", "user", "session"], &narrowing[..]].concat())?;
                let narrowed =
                    narrowing.iter().find(|name| **name != "tenant" && members.find(name).is_some());
                match (&user, &session, narrowed) {
                    (None, None, _) => Err(unusable("a complex subject must have a user or a session")),
                    (Some(_), None, Some(name)) => Err(unusable(format!(
                        "tokens cannot be told apart by {name}; name the session, or the user alone"
                    ))),
                    _ => Ok(Self { user, session, token: None }),
                }
            }
            "iss_sub" => {
                members.only(&["format", "iss", "sub"])?;
                members.of(issuer)?;
                Ok(Self { user: Some(members.name("sub")?), ..Self::default() })
            }
            // SSF 1.0 §3.4.1.
            "jwt_id" => {
                members.only(&["format", "iss", "jti"])?;
                members.of(issuer)?;
                Ok(Self { token: Some(members.name("jti")?), ..Self::default() })
            }
            "opaque" => {
                members.only(&["format", "id"])?;
                Ok(Self { user: Some(members.name("id")?), ..Self::default() })
            }
            _ => Err(unusable(
                "its format is none that tokens can be found by: use iss_sub, opaque, jwt_id, or complex with these",
            )),
        }
    }
}

/// The members of one identifier, in their order. There are few.
struct Members<'a>(Vec<(&'a str, Member<'a>)>);

enum Member<'a> {
    Text(&'a str),
    /// As received.
    Object(&'a str),
    Other,
}

impl<'a> Members<'a> {
    fn read(text: &'a str, scratch: &'a mut json::Scratch) -> Result<Self, SubjectError> {
        let mut all = Vec::new();
        json::read(text.as_bytes(), scratch, |reader: &mut Reader<'a>| {
            reader.object(|reader, name| {
                let member = match reader.kind()? {
                    Kind::String => Member::Text(reader.string()?),
                    Kind::Object => Member::Object(reader.raw()?),
                    _ => {
                        reader.skip()?;
                        Member::Other
                    }
                };
                all.push((name, member));
                Ok::<_, JsonError>(())
            })
        })?;
        Ok(Self(all))
    }

    fn find(&self, name: &str) -> Option<&Member<'a>> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, member)| member)
    }

    fn text(&self, name: &str) -> Result<&'a str, SubjectError> {
        match self.find(name) {
            Some(Member::Text(text)) => Ok(text),
            Some(_) => Err(unusable(format!("\"{name}\" must be a string"))),
            None => Err(unusable(format!("\"{name}\" is missing"))),
        }
    }

    /// A name that says something.
    fn name(&self, name: &str) -> Result<String, SubjectError> {
        let text = self.text(name)?;
        if text.is_empty() { Err(unusable(format!("\"{name}\" is empty"))) } else { Ok(text.to_owned()) }
    }

    fn object(&self, name: &str) -> Result<Option<&'a str>, SubjectError> {
        match self.find(name) {
            None => Ok(None),
            Some(Member::Object(text)) => Ok(Some(text)),
            Some(_) => Err(unusable(format!("\"{name}\" must be a subject identifier"))),
        }
    }

    /// Whether `iss` is the issuer whose tokens may be meant.
    fn of(&self, issuer: &str) -> Result<(), SubjectError> {
        if self.text("iss")? == issuer { Ok(()) } else { Err(SubjectError::Foreign) }
    }

    fn only(&self, known: &[&str]) -> Result<(), SubjectError> {
        if self.0.iter().all(|(name, _)| known.contains(name)) {
            return Ok(());
        }
        Err(unusable(format!("it has members besides {}", known.join(", "))))
    }
}

fn unusable(problem: impl Into<String>) -> SubjectError {
    SubjectError::Unusable(problem.into())
}
