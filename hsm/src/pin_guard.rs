//! Keeps a restart loop from locking the token.
//!
//! Tokens lock after three to ten wrong PINs. A service that is restarted with a stale PIN file makes those in
//! seconds, so each attempt is written down, durably, before it is made: a PIN that was rejected once is never sent
//! again, by this process or the next, until an operator removes the file or the PIN changes. Processes that share the
//! folder (a service, `edgate hsm` beside it) change the record one after the other, each what the other left.
//!
//! The file holds no PIN but salted PBKDF2 digests (RFC 8018 §5.2) of the PINs tried, for a rejected PIN may be one
//! digit away from the right one:
//!
//! ```text
//! edgate-pin-guard 1
//! salt 00112233445566778899aabbccddeeff
//! rejected <digest> <unix time>
//! attempted <digest> <unix time>
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::hex::{Hex, unhex_exact};
use crate::software::folder_of;

/// Makes guessing a PIN from the file slow: a few milliseconds a guess, paid once per login.
const PBKDF2_ROUNDS: u32 = 10_000;

/// Different PINs on record after which an operator must look, whatever the PIN.
const ENTRIES_MAX: usize = 16;

/// Attempts of one PIN that ended without an answer (the process died in between) before it counts as rejected.
const UNANSWERED_MAX: usize = 2;

/// How long a change of the record waits for another's, which takes two writes to the disk. After that, and where the file
/// system knows no locks, it is made all the same: what it may lose is what the other wrote at that moment.
const TURN_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks: a lock of the system's tells nobody when it is free.
const TURN_TICK: Duration = Duration::from_millis(2);

/// How long the answer to a PIN that another is trying is waited for, before that one is taken for dead.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How often the record is read for it.
const ANSWER_TICK: Duration = Duration::from_millis(20);

const FILE_BYTES_MAX: u64 = 4096;
const HEADER: &str = "edgate-pin-guard 1";

/// The record of rejected PINs of one token.
#[derive(Debug)]
pub struct PinGuard {
    path: PathBuf,
}

/// Why a PIN may not be tried.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The record cannot be read or written; without it no PIN is tried.
    #[error("cannot {action} the PIN guard {path}: {source}; no PIN is tried without it")]
    File {
        /// What was attempted.
        action: &'static str,
        /// The guard file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The record is not one of ours.
    #[error("PIN guard {path} is damaged; look at the token's PIN counters, then remove the file")]
    Malformed {
        /// The guard file.
        path: PathBuf,
    },
    /// This PIN was tried before.
    #[error(
        "this PIN was rejected by the token before and is not tried again; correct the PIN, or remove {path} if the \
         token was changed to accept it"
    )]
    Rejected {
        /// The guard file.
        path: PathBuf,
    },
    /// Too many different PINs were rejected.
    #[error("{ENTRIES_MAX} different PINs were rejected by the token; find out why, then remove {path}")]
    TooMany {
        /// The guard file.
        path: PathBuf,
    },
}

/// A PIN on its way to the token. Dropping it without an answer leaves the attempt on record.
#[must_use]
pub struct Attempt<'a> {
    guard: &'a PinGuard,
    pin: &'a str,
}

/// The record is this one's to change. No file of its own: one that root made would shut the service out.
struct Turn(Option<File>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    salt: [u8; 16],
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    rejected: bool,
    digest: [u8; 32],
    unix_seconds: u64,
}

impl PinGuard {
    /// The guard of the token `label`/`serial`, kept in `folder`, which must exist and be durable.
    #[must_use]
    pub fn new(folder: &Path, label: &str, serial: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(label.as_bytes());
        hash.update([0]);
        hash.update(serial.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        Self { path: folder.join(format!("pin-{}.guard", Hex(&digest[..8]))) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down that `pin` is about to be tried. Blocks on the disk, for the digest, and for a second where others are
    /// trying it.
    ///
    /// # Errors
    /// Then it must not be tried.
    pub fn admit<'a>(&'a self, pin: &'a str) -> Result<Attempt<'a>, GuardError> {
        let deadline = Instant::now() + ANSWER_PATIENCE;
        loop {
            let waited = Instant::now() >= deadline;
            if self.admit_beside(pin, if waited { UNANSWERED_MAX - 1 } else { 0 })? {
                return Ok(Attempt { guard: self, pin });
            }
            if waited {
                return Err(GuardError::Rejected { path: self.path.clone() });
            }
            std::thread::sleep(ANSWER_TICK);
        }
    }

    /// Puts an attempt of `pin` on record, unless more than `unanswered` others of it are.
    fn admit_beside(&self, pin: &str, unanswered: usize) -> Result<bool, GuardError> {
        let _turn = self.take_turn();
        let mut record = self.load_or_new()?;
        let digest = record.digest(pin);
        let same = || record.entries.iter().filter(|entry| entry.digest == digest);
        if same().any(|entry| entry.rejected) {
            return Err(GuardError::Rejected { path: self.path.clone() });
        }
        if same().count() > unanswered {
            return Ok(false);
        }
        if record.entries.len() >= ENTRIES_MAX {
            return Err(GuardError::TooMany { path: self.path.clone() });
        }
        record.entries.push(Entry { rejected: false, digest, unix_seconds: unix_seconds() });
        self.store(&record)?;
        Ok(true)
    }

    /// Forgets every rejected PIN: an operator's act.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn clear(&self) -> Result<(), GuardError> {
        let _turn = self.take_turn();
        self.remove()
    }

    fn remove(&self) -> Result<(), GuardError> {
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.file_error("remove", source)),
            _ => self.sync_folder(),
        }
    }

    fn take_turn(&self) -> Turn {
        let take = || {
            let folder = File::open(folder_of(&self.path)).ok()?;
            let deadline = Instant::now() + TURN_PATIENCE;
            loop {
                match folder.try_lock() {
                    Ok(()) => return Some(folder),
                    Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                        std::thread::sleep(TURN_TICK);
                    }
                    Err(_) => return None,
                }
            }
        };
        Turn(take())
    }

    fn load_or_new(&self) -> Result<Record, GuardError> {
        let made = || Record::new().map_err(|source| self.file_error("salt", source));
        self.load()?.map_or_else(made, Ok)
    }

    fn load(&self) -> Result<Option<Record>, GuardError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.file_error("open", errno.into())),
        };
        let mut text = String::new();
        match file.take(FILE_BYTES_MAX).read_to_string(&mut text) {
            Err(source) if source.kind() != io::ErrorKind::InvalidData => {
                Err(self.file_error("read", source))
            }
            Ok(_) if Record::parse(&text).is_some() => Ok(Record::parse(&text)),
            _ => Err(GuardError::Malformed { path: self.path.clone() }),
        }
    }

    /// Replaces the file, durably: complete or not at all.
    fn store(&self, record: &Record) -> Result<(), GuardError> {
        // A name that nobody else has: two that met under one left neither with a record.
        static STORED: AtomicU64 = AtomicU64::new(0);
        let number = STORED.fetch_add(1, Ordering::Relaxed);
        let draft = self.path.with_extension(format!("{}-{number}.new", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let write = || -> io::Result<()> {
            let mut file = File::from(rustix::fs::open(&draft, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(record.to_string().as_bytes())?;
            self.give_to_owner(&file)?;
            file.sync_all()?;
            std::fs::rename(&draft, &self.path)
        };
        write().map_err(|source| {
            // Whatever there is of it.
            let _ = std::fs::remove_file(&draft);
            self.file_error("write", source)
        })?;
        self.sync_folder()
    }

    /// What root leaves while it looks at a token must not shut the service out.
    fn give_to_owner(&self, file: &File) -> io::Result<()> {
        if rustix::process::geteuid().is_root() {
            let folder = std::fs::metadata(folder_of(&self.path))?;
            std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), GuardError> {
        let sync = || File::open(folder_of(&self.path))?.sync_all();
        sync().map_err(|source| self.file_error("sync", source))
    }

    fn file_error(&self, action: &'static str, source: io::Error) -> GuardError {
        GuardError::File { action, path: self.path.clone(), source }
    }
}

impl Attempt<'_> {
    /// The token took the PIN: what was on record is history.
    ///
    /// # Errors
    /// If the record cannot be removed.
    pub fn accepted(self) -> Result<(), GuardError> {
        self.guard.clear()
    }

    /// The token refused the PIN.
    ///
    /// # Errors
    /// If that cannot be written; the attempt itself is on record.
    pub fn rejected(self) -> Result<(), GuardError> {
        let _turn = self.guard.take_turn();
        // Anew: another may have been tried meanwhile, or accepted.
        let mut record = self.guard.load_or_new()?;
        let digest = record.digest(self.pin);
        record.entries.retain(|entry| entry.digest != digest);
        record.entries.push(Entry { rejected: true, digest, unix_seconds: unix_seconds() });
        self.guard.store(&record)
    }

    /// The token did not look at the PIN: it failed for another reason, or somebody was logged in already.
    ///
    /// # Errors
    /// If the attempt cannot be taken off the record.
    pub fn not_looked_at(self) -> Result<(), GuardError> {
        let _turn = self.guard.take_turn();
        let Some(mut record) = self.guard.load()? else { return Ok(()) };
        let digest = record.digest(self.pin);
        let ours = record.entries.iter().rposition(|entry| !entry.rejected && entry.digest == digest);
        let Some(ours) = ours else { return Ok(()) };
        record.entries.remove(ours);
        if record.entries.is_empty() { self.guard.remove() } else { self.guard.store(&record) }
    }
}

impl std::fmt::Debug for Attempt<'_> {
    /// Without the PIN.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").field("guard", self.guard).finish_non_exhaustive()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // By name: the descriptor may live on in a child that some library forked.
        if let Some(folder) = &self.0 {
            let _ = folder.unlock();
        }
    }
}

impl Record {
    fn new() -> io::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)
            .map_err(|error| io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(5)))?;
        Ok(Self { salt, entries: Vec::new() })
    }

    fn digest(&self, pin: &str) -> [u8; 32] {
        let mut digest = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(pin.as_bytes(), &self.salt, PBKDF2_ROUNDS, &mut digest);
        digest
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let salt = unhex_exact(lines.next()?.strip_prefix("salt ")?)?;
        let entries = lines.map(Entry::parse).collect::<Option<Vec<_>>>()?;
        (entries.len() <= ENTRIES_MAX && text.ends_with('\n')).then_some(Self { salt, entries })
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{HEADER}\nsalt {}", Hex(&self.salt))?;
        self.entries.iter().try_for_each(|entry| {
            let word = if entry.rejected { "rejected" } else { "attempted" };
            writeln!(f, "{word} {} {}", Hex(&entry.digest), entry.unix_seconds)
        })
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let rejected = match words.next()? {
            "rejected" => true,
            "attempted" => false,
            _ => return None,
        };
        let digest = unhex_exact(words.next()?)?;
        let unix_seconds = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { rejected, digest, unix_seconds })
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(folder: &tempfile::TempDir) -> PinGuard {
        PinGuard::new(folder.path(), "edgate", "0123")
    }

    #[test]
    fn a_rejected_pin_is_not_tried_again_but_another_is() {
        let folder = tempfile::tempdir().unwrap();
        guard(&folder).admit("1111").unwrap().rejected().unwrap();
        for _ in 0..3 {
            // A new guard each time: what a restart sees.
            assert!(matches!(guard(&folder).admit("1111"), Err(GuardError::Rejected { .. })));
        }
        guard(&folder).admit("2222").unwrap().rejected().unwrap();
        assert!(matches!(guard(&folder).admit("1111"), Err(GuardError::Rejected { .. })));
        guard(&folder).admit("3333").unwrap().accepted().unwrap();
        guard(&folder).admit("1111").unwrap().accepted().unwrap();
    }

    #[test]
    fn a_process_that_dies_while_trying_gets_one_more_try() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..UNANSWERED_MAX {
            let _died = guard(&folder).admit("1111").unwrap();
        }
        assert!(matches!(guard(&folder).admit("1111"), Err(GuardError::Rejected { .. })));
    }

    #[test]
    fn an_attempt_the_token_did_not_look_at_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..UNANSWERED_MAX + 2 {
            guard(&folder).admit("1111").unwrap().not_looked_at().unwrap();
        }
        assert!(!guard(&folder).path().exists());
    }

    #[test]
    fn many_different_wrong_pins_need_an_operator() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..ENTRIES_MAX {
            guard(&folder).admit(&format!("{number}")).unwrap().rejected().unwrap();
        }
        assert!(matches!(guard(&folder).admit("right"), Err(GuardError::TooMany { .. })));
        guard(&folder).clear().unwrap();
        guard(&folder).admit("right").unwrap().accepted().unwrap();
    }

    #[test]
    fn a_damaged_record_stops_every_attempt() {
        let folder = tempfile::tempdir().unwrap();
        guard(&folder).admit("1111").unwrap().rejected().unwrap();
        let path = guard(&folder).path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("1111"));
        for damaged in [
            String::new(),
            text[..text.len() - 1].to_owned(),
            text.replace("rejected", "ejected"),
            "\u{fffd}".into(),
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(guard(&folder).admit("2222"), Err(GuardError::Malformed { .. })));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(guard(&folder).admit("2222").is_err());
    }

    #[test]
    fn without_a_folder_no_pin_is_tried() {
        let guard = PinGuard::new(Path::new("/nonexistent"), "edgate", "0123");
        assert!(matches!(guard.admit("1111"), Err(GuardError::File { action: "write", .. })));
    }

    #[test]
    fn of_two_that_try_at_once_neither_forgets_what_the_other_learned() {
        let folder = tempfile::tempdir().unwrap();
        let guard = guard(&folder);
        let (one, other) = (guard.admit("1111").unwrap(), guard.admit("2222").unwrap());
        one.rejected().unwrap();
        other.rejected().unwrap();
        for pin in ["1111", "2222"] {
            assert!(matches!(guard.admit(pin), Err(GuardError::Rejected { .. })), "{pin}");
        }
        // What a right PIN makes history is not brought back by one that was on its way.
        let (right, wrong) = (guard.admit("3333").unwrap(), guard.admit("4444").unwrap());
        right.accepted().unwrap();
        wrong.rejected().unwrap();
        guard.admit("1111").unwrap().not_looked_at().unwrap();
        assert!(matches!(guard.admit("4444"), Err(GuardError::Rejected { .. })));
    }

    #[test]
    fn who_comes_while_the_same_pin_is_tried_goes_by_the_answer() {
        for right in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let guard = guard(&folder);
            let first = guard.admit("1111").unwrap();
            std::thread::scope(|scope| {
                let second = scope.spawn(|| guard.admit("1111").and_then(Attempt::accepted));
                if right { first.accepted() } else { first.rejected() }.unwrap();
                let second = second.join().unwrap();
                assert!(second.is_ok() == right, "{second:?}");
            });
        }
    }

    #[test]
    fn many_at_once_leave_a_whole_record_and_no_drafts() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let folder = &folder;
            let tried = |pin: String| move || guard(folder).admit(&pin).unwrap().rejected().unwrap();
            let all: Vec<_> = (0..3).map(|number| scope.spawn(tried(format!("{number}")))).collect();
            all.into_iter().for_each(|one| one.join().unwrap());
        });
        for number in 0..3 {
            let error = guard(&folder).admit(&format!("{number}")).unwrap_err();
            assert!(matches!(error, GuardError::Rejected { .. }), "{number}: {error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn whoever_holds_the_folder_keeps_no_pin_from_being_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = File::open(folder.path()).unwrap();
        theirs.lock().unwrap();
        guard(&folder).admit("1111").unwrap().rejected().unwrap();
        assert!(matches!(guard(&folder).admit("1111"), Err(GuardError::Rejected { .. })));
    }

    #[test]
    fn what_root_leaves_is_the_owners_of_the_folder() {
        const NOBODY: u32 = 65534;
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a file away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        guard(&folder).admit("1111").unwrap().rejected().unwrap();
        let record = guard(&folder).path().metadata().unwrap();
        assert_eq!((record.uid(), record.gid(), record.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    }

    #[test]
    fn an_attempt_does_not_show_its_pin() {
        let folder = tempfile::tempdir().unwrap();
        let guard = guard(&folder);
        assert!(!format!("{:?}", guard.admit("13579").unwrap()).contains("13579"));
    }
}
