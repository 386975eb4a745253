//! Why a key cannot be used.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::pkcs11::{CallError, Class, LoginRefusal};
use crate::{BackupError, Pkcs11Uri, Purpose, UriError};

/// Why a key could not be created, loaded or used. Messages name the file, what was found and what to do; they never
/// hold key material.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// The agent that has the token cannot be reached, or does not keep to the protocol.
    #[error("cannot use the HSM agent at {socket}: {problem}")]
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The agent and this service do not take one another.
    #[error("the HSM agent at {socket} does not serve this service: {problem}")]
    AgentRefused {
        /// Its socket.
        socket: PathBuf,
        /// Who refuses what, and what to change.
        problem: String,
    },
    /// What an agent says of a failure that has no other form here.
    #[error("{text}")]
    AgentSays {
        /// What to do about it.
        class: Class,
        /// Its words.
        text: String,
    },
    /// The file is no backup that can be believed.
    #[error("backup {path} is not usable: {problem}")]
    Backup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: BackupError,
    },
    /// A PKCS#11 call failed.
    #[error("{0}")]
    Call(#[from] CallError),
    /// The caller's deadline passed before the key was used.
    #[error("no signature by the {purpose} key: the deadline passed before its turn came")]
    DeadlinePassed {
        /// What the key is for.
        purpose: Purpose,
    },
    /// The operating system gave no random bytes.
    #[error("cannot make a {purpose} key: no random bytes from the system: {source}")]
    Entropy {
        /// What the key was to be for.
        purpose: Purpose,
        /// The system's answer.
        source: getrandom::Error,
    },
    /// The operating system keeps no page for a key in memory.
    #[error(
        "cannot make a {purpose} key in memory: the system locks no page for it: {source}; raise the limit (LimitMEMLOCK= in the \
         unit, ulimit -l)"
    )]
    Memory {
        /// What the key was to be for.
        purpose: Purpose,
        /// The system's answer.
        source: io::Error,
    },
    /// A file to be created is already there.
    #[error("cannot create {path}: it exists already and is never overwritten; move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was attempted: `open`, `read`, `write`, `sync`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The name of a key in a token says that it is for something else, or another purpose has it.
    #[error("{key} is a {found} key and may not be used for {wanted}")]
    KeyInUse {
        /// The key.
        key: Box<Pkcs11Uri>,
        /// What it is for.
        found: Purpose,
        /// What the caller wants.
        wanted: Purpose,
    },
    /// A key in a token is not one we use.
    #[error("{key} is refused: {problem}")]
    KeyAttribute {
        /// The key.
        key: Box<Pkcs11Uri>,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The key in the token is not the one that was pinned.
    #[error(
        "{key} has another public key than the one pinned; the key was replaced, or the URI names another one"
    )]
    KeyMismatch {
        /// The key.
        key: Box<Pkcs11Uri>,
    },
    /// No login, and none will be tried: an operator has to act.
    #[error("cannot log in to {token}: {refusal}")]
    Login {
        /// The token.
        token: Box<Pkcs11Uri>,
        /// Why.
        refusal: LoginRefusal,
    },
    /// A token is not taken into a group.
    #[error("{member} is refused as a member of its group: {rule}")]
    MemberRefused {
        /// The token.
        member: Box<Pkcs11Uri>,
        /// The rule it does not keep, and what to do.
        rule: &'static str,
    },
    /// The file is not a key file of ours.
    #[error("key file {path} is not usable: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The file does not exist.
    #[error(
        "key file {path} does not exist; keys are only created on request (`edgate init CONFIG` makes one)"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A PKCS#11 library cannot be used.
    #[error("cannot load PKCS#11 module {path}: {problem}")]
    Module {
        /// The library.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Calls into a module have not returned in time.
    #[error("PKCS#11 module {path} is busy: a call has not returned")]
    ModuleBusy {
        /// The library.
        path: PathBuf,
    },
    /// What was opened in a module is gone since it was initialised anew.
    #[error("PKCS#11 module {path} was initialised anew; the token is found again and logged in to")]
    ModuleRenewed {
        /// The library.
        path: PathBuf,
    },
    /// Every member of a group that was asked failed.
    #[error("no signature by the {purpose} key from any member of its group: {}", Told(failures))]
    NoMember {
        /// What the key is for.
        purpose: Purpose,
        /// Who was asked, and what came of it.
        failures: Vec<MemberFailure>,
    },
    /// A key is not put back into a token.
    #[error("{key} is not restored: {rule}; {left}")]
    NotRestored {
        /// The key.
        key: Box<Pkcs11Uri>,
        /// The rule it does not keep, and what to do.
        rule: String,
        /// What is left in the token.
        left: Leftover,
    },
    /// A key cannot leave its token wrapped.
    #[error("{key} cannot be backed up by wrapping: {problem}; nothing was written")]
    NotWrapped {
        /// The key.
        key: Box<Pkcs11Uri>,
        /// What stands against it, and what to do.
        problem: String,
    },
    /// The path names something other than a plain file.
    #[error("key file {path} is {found}, not a regular file; name the file itself")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// A URI names no key in the token, or several.
    #[error(
        "{matches} keys match {wanted}, exactly one must; `edgate hsm list` shows what is there (a token whose store is \
         away also shows none)"
    )]
    Object {
        /// What was looked for.
        wanted: Box<Pkcs11Uri>,
        /// How many there are.
        matches: usize,
    },
    /// Too many jobs wait already.
    #[error("the queue of {purpose} keys is full")]
    Overloaded {
        /// What the key is for.
        purpose: Purpose,
    },
    /// The file belongs to somebody else.
    #[error(
        "key file {path} belongs to user id {owner}, but this process runs as {ours}: chown {ours} {path}"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// Effective user id of this process.
        ours: u32,
    },
    /// Others than the owner may use the file.
    #[error(
        "key file {path} has mode {mode:04o}, but a private key must be 0600 or 0400: chmod 600 {path} \
         (if others could read it, replace the key)"
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
    /// The key was made for something else.
    #[error("key file {path} is a {found} key and may not be used for {wanted}")]
    Purpose {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: Purpose,
        /// What the caller wants.
        wanted: Purpose,
    },
    /// The agent was told not to use keys of this purpose.
    #[error("the HSM agent serves no {purpose} keys; if it should, name the purpose at agent.purposes there")]
    PurposeNotServed {
        /// What the key is for.
        purpose: Purpose,
    },
    /// The signature made does not verify under the pinned public key; it was discarded.
    #[error(
        "the {purpose} key made a signature that does not verify under its public key; nothing was released"
    )]
    SignatureFault {
        /// What the key is for.
        purpose: Purpose,
    },
    /// The pool is closed.
    #[error("the session pool is closed")]
    Stopped,
    /// Calls into the module do not return.
    #[error(
        "the token is stuck: {workers} calls into its module have not returned; only a restart helps if they never do"
    )]
    Stuck {
        /// How many workers there are.
        workers: usize,
    },
    /// The system gives no thread.
    #[error("cannot start a thread for the session pool: {source}")]
    Thread {
        /// The system's answer.
        source: io::Error,
    },
    /// A URI names no token that is present, or several.
    #[error("{matches} tokens match {wanted}, exactly one must; present: {}", Listed(present))]
    Token {
        /// What was looked for.
        wanted: Box<Pkcs11Uri>,
        /// How many there are.
        matches: usize,
        /// What is there.
        present: Vec<Pkcs11Uri>,
    },
    /// More than an agent takes in one request.
    #[error("{bytes} bytes are too long for one request to an HSM agent, which takes {max}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        max: usize,
    },
    /// The PIN of a token at an agent was handed to somebody else.
    #[error(
        "the PIN was not tried: the token is at an HSM agent, so run `edgate hsm unlock --agent {socket}`"
    )]
    UnlockAtAgent {
        /// The agent's socket.
        socket: PathBuf,
    },
    /// A key without public key object that is not pinned either.
    #[error("{key} shows no public key in the token; pin its public key in the configuration")]
    Unpinned {
        /// The key.
        key: Box<Pkcs11Uri>,
    },
    /// The token cannot be used for now.
    #[error("{token} is not available: {cause}")]
    Unavailable {
        /// The token.
        token: Box<Pkcs11Uri>,
        /// What was found last.
        cause: Arc<HsmError>,
    },
    /// It does not say for which token a PIN is.
    #[error(
        "the PIN was not tried: {waiting} tokens of the group wait for one, and a PIN is tried only where it belongs; \
         put the PIN where the member's pin_source says"
    )]
    UnlockUnclear {
        /// How many wait.
        waiting: usize,
    },
    /// Wrapped data that does not open: altered, cut, or wrapped for something else.
    #[error("the wrapped data does not open: it was altered, or wrapped by another key or for another use")]
    Unsealed,
    /// A key or token is badly named.
    #[error(transparent)]
    Uri(#[from] UriError),
}

/// Exit code of a service that an operator must help; systemd is told not to restart on it (`EX_NOPERM`).
pub const EXIT_OPERATOR: u8 = 77;

impl HsmError {
    /// What is behind an [`HsmError::Unavailable`]; otherwise the error itself.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Unavailable { cause, .. } => cause.cause(),
            other => other,
        }
    }

    /// Whether trying again is useless until an operator acts: a PIN is wrong, locked or missing.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        matches!(self.cause(), Self::Login { .. })
    }

    /// The exit code of a program that ends on this: [`EXIT_OPERATOR`], 69 when the token is away (`EX_UNAVAILABLE`),
    /// 70 when something failed (`EX_SOFTWARE`), else 78 (`EX_CONFIG`).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unavailable { cause, .. } => cause.exit_code(),
            Self::Login { .. } => EXIT_OPERATOR,
            Self::Call(call) if call.class() == Class::Config => 78,
            Self::AgentSays { class: Class::Config, .. } => 78,
            Self::AgentSays { class: Class::Caller, .. } => 70,
            Self::Agent { .. }
            | Self::AgentSays { .. }
            | Self::Call(_)
            | Self::ModuleBusy { .. }
            | Self::ModuleRenewed { .. }
            | Self::Stuck { .. }
            | Self::Token { matches: 0, .. } => 69,
            Self::NoMember { .. } | Self::DeadlinePassed { .. } | Self::Overloaded { .. } | Self::Stopped => {
                69
            }
            Self::Entropy { .. }
            | Self::Memory { .. }
            | Self::SignatureFault { .. }
            | Self::Thread { .. }
            | Self::TooLong { .. }
            | Self::Unsealed => 70,
            Self::AgentRefused { .. }
            | Self::Backup { .. }
            | Self::Exists { .. }
            | Self::File { .. }
            | Self::KeyAttribute { .. }
            | Self::KeyInUse { .. }
            | Self::KeyMismatch { .. }
            | Self::Malformed { .. }
            | Self::MemberRefused { .. }
            | Self::Missing { .. }
            | Self::Module { .. }
            | Self::NotAFile { .. }
            | Self::NotRestored { .. }
            | Self::NotWrapped { .. }
            | Self::Object { .. }
            | Self::Owner { .. }
            | Self::Permissions { .. }
            | Self::Purpose { .. }
            | Self::PurposeNotServed { .. }
            | Self::Token { .. }
            | Self::UnlockAtAgent { .. }
            | Self::UnlockUnclear { .. }
            | Self::Unpinned { .. }
            | Self::Uri(_) => 78,
        }
    }
}

/// What a restore that failed leaves in the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// What was unwrapped is gone again.
    Destroyed,
    /// It is still there.
    Kept,
    /// It got no further.
    Nothing,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destroyed => "what was unwrapped was destroyed again",
            Self::Kept => {
                "what was unwrapped could not be destroyed: delete the objects of that id with the vendor's tool"
            }
            Self::Nothing => "nothing was put into the token",
        })
    }
}

/// A member that was asked in vain.
#[derive(Debug)]
pub struct MemberFailure {
    /// Its token.
    pub token: Box<Pkcs11Uri>,
    /// What came of it.
    pub cause: Box<HsmError>,
}

struct Told<'a>(&'a [MemberFailure]);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, MemberFailure { token, cause })| {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{token}: {cause}")
        })
    }
}

struct Listed<'a>(&'a [Pkcs11Uri]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        self.0.iter().enumerate().try_for_each(|(index, uri)| {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{uri}")
        })
    }
}
