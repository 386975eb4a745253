//! PKCS#11 URIs (RFC 7512): how tokens, keys and PIN sources are named in configuration.
//!
//! Stricter than the RFC where its freedom hides mistakes: an attribute that we would not match on is refused rather
//! than ignored, duplicates are refused, `pin-value` and `slot-id` (a secret in a file everybody reads, a number that
//! changes when a token is added) only pass in development.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::PinSource;

mod encoding;

use encoding::{Encoded, Place, decode, decode_text};

/// The longest URI read; the longest sensible one has about 400 bytes.
pub const URI_BYTES_MAX: usize = 4096;

/// Names a token, and possibly one object in it and where its PIN comes from.
///
/// `Display` writes the canonical form; a PIN is never written.
#[derive(Clone, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// Label of the token.
    pub token: Option<String>,
    /// Manufacturer of the token.
    pub manufacturer: Option<String>,
    /// Serial number of the token.
    pub serial: Option<String>,
    /// Model of the token.
    pub model: Option<String>,
    /// Slot number; development only.
    pub slot_id: Option<u64>,
    /// `CKA_LABEL` of the object.
    pub object: Option<String>,
    /// `CKA_ID` of the object.
    pub id: Option<Vec<u8>>,
    /// Class of the object.
    pub kind: Option<ObjectKind>,
    /// Where the PIN is found.
    pub pin_source: Option<PinSource>,
    /// The module to load.
    pub module_path: Option<PathBuf>,
    /// The PIN itself; development only.
    pub pin_value: Option<Zeroizing<String>>,
}

/// The `type` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// `cert`
    Certificate,
    /// `private`
    Private,
    /// `public`
    Public,
    /// `secret-key`
    SecretKey,
}

/// How much a URI may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UriRules {
    /// `pin-value` and `slot-id` are read.
    Development,
    /// `pin-value` and `slot-id` are refused.
    Production,
}

/// Why a PKCS#11 URI is refused. Never holds an attribute's value, which may be a PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// An attribute without `=`.
    #[error("PKCS#11 URI: `{attribute}` has no value; write {attribute}=VALUE")]
    Bare {
        /// The attribute.
        attribute: String,
    },
    /// A character that must be percent-encoded.
    #[error("PKCS#11 URI: character {found:?} in `{attribute}` must be percent-encoded (RFC 7512 §2.3)")]
    Character {
        /// The attribute.
        attribute: String,
        /// The character.
        found: char,
    },
    /// An attribute given twice.
    #[error("PKCS#11 URI: `{attribute}` is given twice")]
    Duplicate {
        /// The attribute.
        attribute: String,
    },
    /// An attribute without a value between `=` and the separator.
    #[error("PKCS#11 URI: `{attribute}` is empty; leave it out or name what it must match")]
    Empty {
        /// The attribute.
        attribute: String,
    },
    /// An attribute that the use at hand needs.
    #[error("PKCS#11 URI: `{attribute}` is missing; {advice}")]
    Missing {
        /// The attribute.
        attribute: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A fault in a percent-encoding.
    #[error("PKCS#11 URI: `{attribute}` has a `%` that is not followed by two hex digits")]
    Percent {
        /// The attribute.
        attribute: String,
    },
    /// Another scheme.
    #[error("not a PKCS#11 URI: it must begin with `pkcs11:`")]
    Scheme,
    /// A value that is not text.
    #[error("PKCS#11 URI: `{attribute}` is not UTF-8 once decoded")]
    Text {
        /// The attribute.
        attribute: String,
    },
    /// Longer than [`URI_BYTES_MAX`].
    #[error("PKCS#11 URI: {bytes} bytes long; at most {URI_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// An attribute that we do not know.
    #[error("PKCS#11 URI: unknown attribute `{attribute}`")]
    Unknown {
        /// The attribute.
        attribute: String,
    },
    /// An attribute of the RFC that is not allowed here.
    #[error("PKCS#11 URI: `{attribute}` is not accepted here: {advice}")]
    Unsupported {
        /// The attribute.
        attribute: String,
        /// Why, and what to do.
        advice: &'static str,
    },
    /// A value out of its set.
    #[error("PKCS#11 URI: `{attribute}` must be {expected}")]
    Value {
        /// The attribute.
        attribute: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Pkcs11Uri {
    /// Parses `text`.
    ///
    /// # Errors
    /// The first attribute at fault, by name.
    pub fn parse(text: &str, rules: UriRules) -> Result<Self, UriError> {
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::TooLong { bytes: text.len() });
        }
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(UriError::Scheme),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::empty();
        if !path.is_empty() {
            for attribute in path.split(';') {
                let (name, value) = split(attribute)?;
                uri.set_path(name, value, rules)?;
            }
        }
        if let Some(query) = query {
            for attribute in query.split('&') {
                let (name, value) = split(attribute)?;
                uri.set_query(name, value, rules)?;
            }
        }
        Ok(uri)
    }

    /// A URI that names nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            token: None,
            manufacturer: None,
            serial: None,
            model: None,
            slot_id: None,
            object: None,
            id: None,
            kind: None,
            pin_source: None,
            module_path: None,
            pin_value: None,
        }
    }

    /// Checks that the URI names one token beyond doubt: labels are not unique, slot numbers change.
    ///
    /// # Errors
    /// [`UriError::Missing`] without `token` or `serial`.
    pub fn require_token(&self) -> Result<(), UriError> {
        let advice = "a token is named by both token=LABEL and serial=NUMBER (`edgate hsm list` prints them)";
        match (&self.token, &self.serial) {
            (None, _) => Err(UriError::Missing { attribute: "token", advice }),
            (_, None) => Err(UriError::Missing { attribute: "serial", advice }),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// Checks that the URI names an object in one token.
    ///
    /// # Errors
    /// [`UriError::Missing`] without `token`, `serial`, or both of `object` and `id`.
    pub fn require_object(&self) -> Result<(), UriError> {
        self.require_token()?;
        if self.object.is_none() && self.id.is_none() {
            let advice = "a key is named by id=%XX.. or object=LABEL, or both";
            return Err(UriError::Missing { attribute: "id", advice });
        }
        Ok(())
    }

    /// The same token, without object, PIN and module.
    #[must_use]
    pub fn token_only(&self) -> Self {
        Self {
            token: self.token.clone(),
            manufacturer: self.manufacturer.clone(),
            serial: self.serial.clone(),
            model: self.model.clone(),
            slot_id: self.slot_id,
            ..Self::empty()
        }
    }

    /// The same object, in whichever token: how a key is named that is in several.
    #[must_use]
    pub fn object_only(&self) -> Self {
        Self { object: self.object.clone(), id: self.id.clone(), kind: self.kind, ..Self::empty() }
    }

    fn set_path(&mut self, name: &str, value: Encoded<'_>, rules: UriRules) -> Result<(), UriError> {
        match name {
            "token" => put(&mut self.token, name, decode_text(name, value, Place::Path)?),
            "manufacturer" => put(&mut self.manufacturer, name, decode_text(name, value, Place::Path)?),
            "serial" => put(&mut self.serial, name, decode_text(name, value, Place::Path)?),
            "model" => put(&mut self.model, name, decode_text(name, value, Place::Path)?),
            "object" => put(&mut self.object, name, decode_text(name, value, Place::Path)?),
            "id" => put(&mut self.id, name, decode(name, value, Place::Path)?.to_vec()),
            "type" => {
                let kind = ObjectKind::from_name(&decode_text(name, value, Place::Path)?);
                let expected = "private, public, secret-key or cert";
                let kind = kind.ok_or_else(|| UriError::Value { attribute: name.to_owned(), expected })?;
                put(&mut self.kind, name, kind)
            }
            "slot-id" if rules == UriRules::Development => {
                let text = decode_text(name, value, Place::Path)?;
                let expected = "a decimal number";
                let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
                let number =
                    number.ok_or_else(|| UriError::Value { attribute: name.to_owned(), expected })?;
                put(&mut self.slot_id, name, number)
            }
            "slot-id" => {
                Err(unsupported(name, "slot numbers change between starts; name the token and its serial"))
            }
            "slot-manufacturer" | "slot-description" => {
                Err(unsupported(name, "slots are not matched; name the token and its serial"))
            }
            "library-manufacturer" | "library-description" | "library-version" => {
                Err(unsupported(name, "libraries are not matched; name the module by module-path"))
            }
            _ => Err(UriError::Unknown { attribute: name.to_owned() }),
        }
    }

    fn set_query(&mut self, name: &str, value: Encoded<'_>, rules: UriRules) -> Result<(), UriError> {
        match name {
            "pin-source" => {
                let text = decode_text(name, value, Place::Query)?;
                let expected = "credential:NAME, file:/PATH, fd:NUMBER or operator:";
                let source = PinSource::parse(&text);
                let source =
                    source.ok_or_else(|| UriError::Value { attribute: name.to_owned(), expected })?;
                put(&mut self.pin_source, name, source)
            }
            "pin-value" if rules == UriRules::Development => {
                let pin = Zeroizing::new(decode_text(name, value, Place::Query)?);
                put(&mut self.pin_value, name, pin)
            }
            "pin-value" => Err(unsupported(name, "a PIN does not belong in a URI; use pin-source")),
            "module-path" => {
                let path = PathBuf::from(decode_text(name, value, Place::Query)?);
                if !path.is_absolute() {
                    return Err(UriError::Value { attribute: name.to_owned(), expected: "an absolute path" });
                }
                put(&mut self.module_path, name, path)
            }
            "module-name" => Err(unsupported(name, "modules are not searched for; use module-path")),
            _ => Err(UriError::Unknown { attribute: name.to_owned() }),
        }
    }
}

impl ObjectKind {
    /// The value of the `type` attribute.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "cert",
            Self::Private => "private",
            Self::Public => "public",
            Self::SecretKey => "secret-key",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Certificate, Self::Private, Self::Public, Self::SecretKey]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        let mut separator = "";
        let texts = [
            ("token", &self.token),
            ("manufacturer", &self.manufacturer),
            ("serial", &self.serial),
            ("model", &self.model),
            ("object", &self.object),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", encoding::Text(value))?;
                separator = ";";
            }
        }
        if let Some(number) = self.slot_id {
            write!(f, "{separator}slot-id={number}")?;
            separator = ";";
        }
        if let Some(id) = &self.id {
            write!(f, "{separator}id={}", encoding::Binary(id))?;
            separator = ";";
        }
        if let Some(kind) = self.kind {
            write!(f, "{separator}type={}", kind.name())?;
        }
        let mut separator = "?";
        if let Some(path) = &self.module_path {
            write!(f, "{separator}module-path={}", encoding::Text(&path.to_string_lossy()))?;
            separator = "&";
        }
        if let Some(source) = &self.pin_source {
            write!(f, "{separator}pin-source={}", encoding::Text(&source.to_string()))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pin = if self.pin_value.is_some() { " (pin-value redacted)" } else { "" };
        write!(f, "Pkcs11Uri({self}{pin})")
    }
}

const SCHEME: &str = "pkcs11:";

fn split(attribute: &str) -> Result<(&str, Encoded<'_>), UriError> {
    // A name is echoed in errors, so it is cut: the text may be a PIN in the wrong place.
    let shown =
        |name: &str| name.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').take(32).collect();
    match attribute.split_once('=') {
        None => Err(UriError::Bare { attribute: shown(attribute) }),
        Some((name, _)) if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') => {
            Err(UriError::Unknown { attribute: shown(name) })
        }
        Some((name, "")) => Err(UriError::Empty { attribute: shown(name) }),
        Some((name, value)) => Ok((name, Encoded(value))),
    }
}

fn put<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriError> {
    if place.is_some() {
        return Err(UriError::Duplicate { attribute: name.to_owned() });
    }
    *place = Some(value);
    Ok(())
}

fn unsupported(name: &str, advice: &'static str) -> UriError {
    UriError::Unsupported { attribute: name.to_owned(), advice }
}

#[cfg(test)]
mod tests;
