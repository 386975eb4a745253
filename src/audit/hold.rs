//! Legal holds: records of a stretch of time that nobody may retire or erase, whatever a policy says.
//!
//! What the log records about holds is the truth (`Admin` events `audit-hold` and `audit-release`); the file `holds` in the
//! log's folder is what is asked, and always holds at least what the log says: it is written before a hold is recorded,
//! and after a release is. So a crash in between keeps too much, never too little.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    event::Phase,
    real::replace_file,
    schema::{self, Kind},
    stored::{Stored, list_segments},
    succeed::set_aside,
    walk::{Record, Records},
};

/// One hold in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Its name: a case, a ticket.
    pub name: String,
    /// Records from this time on are held, in nanoseconds since 1970.
    pub from_ns: u64,
    /// Records from this time on are not; `u64::MAX` for a hold without an end.
    pub to_ns: u64,
    /// Who ordered it.
    pub authority: String,
    /// Why.
    pub reason: String,
}

/// The holds in force on one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds(Vec<Hold>);

/// Why a hold was not placed or released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// A hold of that name is in force.
    #[error("a hold named {0:?} is in force; release it, or choose another name")]
    Exists(String),
    /// The file cannot be read or written.
    #[error("cannot use the file {HOLDS_FILE} of the log: {0}")]
    File(#[from] io::Error),
    /// The log records a hold that the file does not have.
    #[error(
        "the log records the hold {0:?}, and its file {HOLDS_FILE} does not have it: another hand was there; place it again"
    )]
    Missing(String),
    /// The name, the time or the words cannot stand in the log.
    #[error("{0}")]
    Invalid(String),
    /// So many are in force that another would be one too many.
    #[error("{HOLDS_MAX} holds are in force; release one first")]
    TooMany,
    /// No hold of that name is in force.
    #[error("no hold named {0:?} is in force")]
    Unknown(String),
}

impl Hold {
    /// Checks that the hold can be placed.
    ///
    /// # Errors
    /// [`HoldError::Invalid`], saying what is wrong.
    pub fn check(&self) -> Result<(), HoldError> {
        let invalid = |cause: String| Err(HoldError::Invalid(cause));
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.bytes().all(named) {
            return invalid(format!(
                "a hold's name has 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes or underscores"
            ));
        }
        if self.from_ns >= self.to_ns {
            return invalid("a hold must end behind its beginning".to_owned());
        }
        if ![&self.authority, &self.reason].iter().all(|words| is_said(words)) {
            return invalid(format!("give an authority and a reason of 1 to {WORDS_BYTES_MAX} bytes each"));
        }
        if self.detail().len() > WORDS_BYTES_MAX {
            return invalid(format!("authority and reason take more than {WORDS_BYTES_MAX} bytes together"));
        }
        Ok(())
    }

    /// The hold as the `detail` of its record says it.
    #[must_use]
    pub fn detail(&self) -> String {
        serde_json::to_string(self).expect("numbers and text are JSON")
    }
}

impl Holds {
    /// The holds that the file in `dir` has; none without such a file.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else: then nothing may be retired or erased.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(dir.join(HOLDS_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let holds: Vec<Hold> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        if holds.len() > HOLDS_MAX || holds.iter().any(|hold| hold.check().is_err()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a hold in it was made by another hand"));
        }
        Ok(Self(holds))
    }

    /// The holds in force on the log in `dir`: those that its file has, and those that its records place and do not release, as
    /// far as they can be read. A damaged log holds too much rather than too little.
    pub(super) fn in_force(dir: &Path) -> io::Result<Self> {
        let (mut holds, mut log) = (Self::load(dir)?, Self::default());
        for file in list_segments(dir)? {
            let segment = Stored::open(dir, file.index)?.read()?;
            Records::of(&segment).for_each(|record| log.follow(&record));
        }
        for hold in log.0 {
            match holds.0.iter_mut().find(|other| other.name == hold.name) {
                Some(other) => {
                    other.from_ns = other.from_ns.min(hold.from_ns);
                    other.to_ns = other.to_ns.max(hold.to_ns);
                }
                None => holds.0.push(hold),
            }
        }
        Ok(holds)
    }

    /// The first hold in force on the log in `dir`, or beside it on one that was set aside.
    pub(super) fn any(dir: &Path) -> io::Result<Option<Hold>> {
        for dir in std::iter::once(dir.to_owned()).chain(set_aside(dir)?) {
            if let Some(hold) = Self::load(&dir)?.0.into_iter().next() {
                return Ok(Some(hold));
            }
        }
        Ok(None)
    }

    /// Ends a hold beside the log in `dir`, on those that were set aside: it came to their successor with them.
    ///
    /// # Errors
    /// What the system refuses; then it holds there until it is released again.
    pub fn release_aside(dir: &Path, name: &str) -> io::Result<()> {
        for aside in set_aside(dir)? {
            let mut holds = Self::load(&aside)?;
            if holds.release(name).is_ok() {
                holds.store(&aside)?;
            }
        }
        Ok(())
    }

    /// Replaces the file in `dir` whole and durably.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        let lines: String = self.0.iter().map(|hold| hold.detail() + "\n").collect();
        replace_file(dir, HOLDS_FILE, lines.as_bytes())
    }

    /// The hold that covers a record of this wall clock, if one does.
    #[must_use]
    pub fn is_held(&self, wall_ns: u64) -> Option<&Hold> {
        self.over(wall_ns, wall_ns)
    }

    /// A hold that covers any time from `first_ns` to `last_ns`, both included, if one does.
    #[must_use]
    pub fn over(&self, first_ns: u64, last_ns: u64) -> Option<&Hold> {
        self.0.iter().find(|hold| hold.from_ns <= last_ns && first_ns < hold.to_ns)
    }

    /// All of them, in the order in which they were placed.
    #[must_use]
    pub fn all(&self) -> &[Hold] {
        &self.0
    }

    /// Adds a hold; placing the same again changes nothing.
    ///
    /// # Errors
    /// [`HoldError`] if it is none, or another of its name is in force.
    pub fn place(&mut self, hold: Hold) -> Result<(), HoldError> {
        hold.check()?;
        match self.0.iter().find(|other| other.name == hold.name) {
            Some(other) if *other == hold => Ok(()),
            Some(_) => Err(HoldError::Exists(hold.name)),
            None if self.0.len() == HOLDS_MAX => Err(HoldError::TooMany),
            None => {
                self.0.push(hold);
                Ok(())
            }
        }
    }

    /// Takes a hold away.
    ///
    /// # Errors
    /// [`HoldError::Unknown`].
    pub fn release(&mut self, name: &str) -> Result<Hold, HoldError> {
        let at = self.0.iter().position(|hold| hold.name == name);
        at.map(|at| self.0.remove(at)).ok_or_else(|| HoldError::Unknown(name.to_owned()))
    }

    /// Follows what a record of the log says about holds.
    pub(super) fn follow(&mut self, record: &Record<'_>) {
        if record.kind() != Some(Kind::Admin) {
            return;
        }
        let Ok(body) = record.read_body() else { return };
        let done = schema::uint(&body, 1) == Some(Phase::Done.code());
        let (action, target, detail) =
            (schema::text(&body, 3), schema::text(&body, 4), schema::text(&body, 5));
        match (action, target, detail) {
            (Some(ACTION_HOLD), _, Some(detail)) if done => {
                if let Ok(hold) = serde_json::from_str(detail) {
                    let _ = self.place(hold);
                }
            }
            (Some(ACTION_RELEASE), Some(name), _) if done => drop(self.release(name)),
            _ => {}
        }
    }

    /// Whether the file has every hold that the log says is in force.
    pub(super) fn check_against(&self, log: &Self) -> Result<(), HoldError> {
        let missing = log.0.iter().find(|hold| !self.0.contains(hold));
        missing.map_or(Ok(()), |hold| Err(HoldError::Missing(hold.name.clone())))
    }
}

/// Whether an authority or a reason says something, and fits a record.
#[must_use]
pub fn is_said(words: &str) -> bool {
    !words.trim().is_empty() && words.len() <= WORDS_BYTES_MAX
}

/// The `action` of the record that places a hold; `detail` is [`Hold::detail`].
pub const ACTION_HOLD: &str = "audit-hold";

/// The `action` of the record that releases one; `target` is its name.
pub const ACTION_RELEASE: &str = "audit-release";

/// The file in the log's folder: a JSON object per hold and line.
const HOLDS_FILE: &str = "holds";

/// Holds in force at once.
const HOLDS_MAX: usize = 1024;

/// The longest name.
pub const NAME_BYTES_MAX: usize = 64;

/// The longest authority or reason: they go into a record.
pub const WORDS_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(name: &str, from_ns: u64, to_ns: u64) -> Hold {
        Hold { name: name.into(), from_ns, to_ns, authority: "counsel".into(), reason: "case 7".into() }
    }

    #[test]
    fn a_hold_covers_its_time_and_nothing_else() {
        let mut holds = Holds::default();
        holds.place(hold("a", 100, 200)).unwrap();
        holds.place(hold("open", 1000, u64::MAX)).unwrap();
        let name = |found: Option<&Hold>| found.map(|hold| hold.name.clone());
        assert_eq!([99, 100, 199, 200].map(|at| holds.is_held(at).is_some()), [false, true, true, false]);
        assert_eq!(name(holds.over(0, 99)), None);
        assert_eq!(name(holds.over(0, 100)).as_deref(), Some("a"));
        assert_eq!(name(holds.over(150, 160)).as_deref(), Some("a"));
        assert_eq!(name(holds.over(200, 999)), None);
        assert_eq!(name(holds.over(5000, 6000)).as_deref(), Some("open"));
        holds.release("a").unwrap();
        assert_eq!(name(holds.is_held(150)), None);
        assert!(matches!(holds.release("a"), Err(HoldError::Unknown(_))));
    }

    #[test]
    fn holds_that_cannot_be_understood_later_are_refused() {
        let mut holds = Holds::default();
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "a b", "a\nb", "ü", &long] {
            assert!(matches!(holds.place(hold(bad, 1, 2)), Err(HoldError::Invalid(_))), "{bad}");
        }
        assert!(matches!(holds.place(hold("a", 2, 2)), Err(HoldError::Invalid(_))));
        assert!(holds.place(Hold { reason: " ".into(), ..hold("a", 1, 2) }).is_err());
        holds.place(hold("a", 1, 2)).unwrap();
        holds.place(hold("a", 1, 2)).unwrap();
        assert!(matches!(holds.place(hold("a", 1, 3)), Err(HoldError::Exists(_))));
        assert_eq!(holds.all().len(), 1);
    }

    #[test]
    fn the_file_keeps_what_is_in_force_and_a_file_of_another_hand_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Holds::load(folder.path()).unwrap(), Holds::default());
        let mut holds = Holds::default();
        holds.place(Hold { reason: "a \"quoted\"\nline".into(), ..hold("a", 1, u64::MAX) }).unwrap();
        holds.place(hold("b", 3, 4)).unwrap();
        holds.store(folder.path()).unwrap();
        assert_eq!(Holds::load(folder.path()).unwrap(), holds);
        for bad in
            ["x", "{}", "{\"name\":\"a b\",\"from_ns\":1,\"to_ns\":2,\"authority\":\"a\",\"reason\":\"b\"}"]
        {
            fs::write(folder.path().join(HOLDS_FILE), bad).unwrap();
            assert!(Holds::load(folder.path()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hold_of_the_log_that_the_file_lacks_is_named() {
        let (mut log, mut file) = (Holds::default(), Holds::default());
        log.place(hold("a", 1, 2)).unwrap();
        assert!(matches!(file.check_against(&log), Err(HoldError::Missing(name)) if name == "a"));
        file.place(hold("b", 1, 2)).unwrap();
        file.place(hold("a", 1, 2)).unwrap();
        file.check_against(&log).unwrap();
    }
}
