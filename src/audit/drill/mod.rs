//! The drill: a part of a log is copied, the copy is tampered with in every way we know of, and verification has to say
//! each time what was done, and where. Evidence that the detector works, for somebody who has only its word for it.
//!
//! - `copy.rs`: what is copied: the records from the first up to a signed checkpoint. The log itself is only read.
//! - `ground.rs`: the folder of one case, its segments taken apart; `rewrite.rs`: the chain made anew behind a change.
//! - `cases/`: what is done, and which class it must be called.
//! - `report.rs`: the result as text, the same for the same outcome.

mod cases;
mod copy;
mod ground;
mod report;
mod rewrite;

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    error::AuditError,
    note::{CheckpointKey, NoteError},
    record::Hash,
    verify::{Anchor, Break, Class, Options, Report},
};
use cases::{CASES, Case, Done, Undone};
use copy::Copy;
use ground::Ground;

/// What a drill needs.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// The log's folder; may be in use.
    pub dir: &'a Path,
    /// Keys that may have signed its checkpoints; at least one.
    pub keys: &'a [CheckpointKey],
    /// An empty folder for the copies; room for twice [`Self::copy_bytes_max`].
    pub work: &'a Path,
    /// Bytes copied at most.
    pub copy_bytes_max: u64,
}

/// Verifies a log: `verify_dir`, or, in a test of the drill, something worse.
pub type Verifier<'a> = &'a dyn Fn(&Path, &Options) -> Result<Report, AuditError>;

/// What a drill showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// The log's name.
    pub origin: String,
    /// Records of it that were copied, from the first on.
    pub size: u64,
    /// Root of the tree over them, as signed.
    pub root: Hash,
    /// Segments they stand in.
    pub segments: usize,
    /// Records of the log when it was copied, as its published checkpoint says.
    pub log_size: u64,
    /// Every case, in its order.
    pub cases: Vec<CaseResult>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// Its stable name.
    pub name: &'static str,
    /// What is done to the log, in words.
    pub what: &'static str,
    /// Classes that name it rightly.
    pub expected: &'static [Class],
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Named, where it was.
    Caught {
        /// What was found first.
        found: Break,
    },
    /// Found, but called something else, or somewhere else.
    Misnamed {
        /// Where it was done.
        at: Option<u64>,
        /// What was found first.
        found: Break,
    },
    /// Verification called the log whole.
    Missed,
    /// The copy has nothing to do this to; says what it would take.
    NotDone {
        /// What is missing.
        needs: String,
    },
}

impl Outcome {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Caught { .. } => "caught",
            Self::Misnamed { .. } => "misnamed",
            Self::Missed => "MISSED",
            Self::NotDone { .. } => "not done",
        }
    }
}

/// Why there was no drill.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The log cannot be read or verified.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// There is no signature to hold the copy to.
    #[error("the drill needs a signed checkpoint of the log: {0}")]
    Checkpoint(NoteError),
    /// The copies cannot be written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Copy {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Someone stopped it.
    #[error("interrupted")]
    Interrupted,
    /// A damaged log shows nothing about damage.
    #[error("the log is not whole before anything was done to it: {0}; `edgate audit verify` says more")]
    NotWhole(String),
    /// The beginning of the log is not there, or nothing of it fits.
    #[error("the drill needs {0}")]
    TooLittle(&'static str),
}

impl DrillError {
    fn copy(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Copy { what, path: path.to_owned(), source }
    }
}

/// Runs every case. `progress` gets the cases done and how many there are, and says whether to go on. Blocks.
///
/// # Errors
/// [`DrillError`]: nothing was shown. A case that was not caught is no error; it is in the result.
pub fn drill(
    settings: &Settings<'_>,
    verifier: Verifier<'_>,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Drill, DrillError> {
    if !progress(0, CASES.len()) {
        return Err(DrillError::Interrupted);
    }
    let copy = Copy::make(settings)?;
    let options = Options {
        origin: Some(copy.signed.origin.clone()),
        keys: settings.keys.to_vec(),
        ..Options::default()
    };
    let whole = verifier(&copy.dir, &options)?;
    if let Some(first) = whole.breaks.first() {
        return Err(DrillError::NotWhole(first.to_string()));
    }
    let mut results = Vec::with_capacity(CASES.len());
    for (number, case) in CASES.iter().enumerate() {
        let outcome = run(case, &copy, settings.work, &options, verifier)?;
        results.push(CaseResult { name: case.name, what: case.what, expected: case.expected, outcome });
        if !progress(number + 1, CASES.len()) {
            return Err(DrillError::Interrupted);
        }
    }
    Ok(Drill {
        origin: copy.signed.origin.clone(),
        size: copy.signed.size,
        root: copy.signed.root,
        segments: copy.segments.len(),
        log_size: copy.log_size,
        cases: results,
    })
}

/// Does what the case says to a fresh copy, and looks.
fn run(
    case: &Case,
    copy: &Copy,
    work: &Path,
    options: &Options,
    verifier: Verifier<'_>,
) -> Result<Outcome, DrillError> {
    let ground = Ground::lay(copy, work, case.name).map_err(DrillError::copy("copy the log to", work))?;
    let Done { at, key, anchor, places } = match (case.tamper)(&ground) {
        Ok(done) => done,
        Err(Undone::Io(source)) => return Err(DrillError::copy("change the copy in", work)(source)),
        Err(Undone::Needs(needs)) => return Ok(Outcome::NotDone { needs: needs.to_owned() }),
    };
    let options = Options {
        keys: key.map_or_else(|| options.keys.clone(), |key| vec![key]),
        anchors: anchor.into_iter().map(|note| Anchor { name: "kept elsewhere".to_owned(), note }).collect(),
        ..options.clone()
    };
    let report = verifier(ground.dir(), &options)?;
    let is_named =
        |found: &&Break| case.expected.contains(&found.class) && at.is_none_or(|at| at == found.seq);
    let named = report.breaks.iter().find(is_named).cloned();
    let classes = report.breaks.iter().filter(|found| case.expected.contains(&found.class)).count();
    Ok(match (named, report.breaks.into_iter().next()) {
        (_, None) => Outcome::Missed,
        (Some(found), _) if classes >= places.max(1) => Outcome::Caught { found },
        (_, Some(found)) => Outcome::Misnamed { at, found },
    })
}

#[cfg(test)]
mod tests;
