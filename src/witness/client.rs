//! A log's side: each published checkpoint goes to a witness, with the proof that it continues the last one it cosigned.
//!
//! What is asked and what the answers mean is here; `courier.rs` is the thread that does it again and again.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::merkle::CompactRange;
use crate::audit::note::Checkpoint;
use crate::audit::proof::{ConsistencyProof, ProveError, is_consistent, path_between, range, tree_at};
use crate::audit::{CheckpointKey, Cosigned, Hash, WitnessKey, keep_anchor, kept_anchor, own_keys};
use crate::https;

/// A witness that is asked.
#[derive(Debug, Clone)]
pub struct Witness {
    /// Its key.
    pub key: WitnessKey,
    /// Its submission prefix.
    pub url: String,
    /// How long one exchange may take.
    pub timeout: Duration,
}

/// What came of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The witness has the checkpoint and says so; that is kept beside the log.
    Cosigned(Anchored),
    /// No word, or none that can be used. It can be asked again.
    Away(String),
    /// The witness has seen more of this log than there is, or another one of its name.
    RolledBack(String),
}

/// A checkpoint that a witness cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchored {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// When, by the witness's clock.
    pub cosigned: Cosigned,
    /// The line of the signed note.
    pub line: String,
    /// The witness had forgotten a checkpoint of so many records which it had cosigned before.
    pub forgot: Option<u64>,
}

/// Submits the checkpoints of one log to one witness.
pub struct Submitter {
    witness: Witness,
    dir: PathBuf,
    keys: Vec<CheckpointKey>,
    agent: ureq::Agent,
    // What is kept of the witness beside the log. Read once: nobody else changes it while the log is held.
    kept: OnceCell<Option<(Checkpoint, Cosigned)>>,
    // What the witness is believed to have cosigned last, and the tree of it; `None`: to be found out from what is kept.
    known: Option<CompactRange>,
}

/// Exchanges in one submission: the second after a 409 names what the witness has, the third if that moved meanwhile.
const EXCHANGES_MAX: usize = 3;

/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a witness answered.
enum Answer {
    Cosignatures(String),
    Conflict(u64),
    Inconsistent,
}

impl Submitter {
    /// For the log in `dir`, whose checkpoints `keys` sign; whom they name as successors is looked up beside the log.
    #[must_use]
    pub fn new(witness: Witness, dir: &Path, keys: Vec<CheckpointKey>) -> Self {
        let agent = https::agent(witness.timeout);
        Self { witness, dir: dir.to_owned(), keys, agent, kept: OnceCell::new(), known: None }
    }

    /// The witness.
    #[must_use]
    pub const fn witness(&self) -> &Witness {
        &self.witness
    }

    /// When the witness cosigned the checkpoint that is kept of it, if one is.
    #[must_use]
    pub fn kept(&self) -> Option<&(Checkpoint, Cosigned)> {
        self.kept.get_or_init(|| self.read_kept()).as_ref()
    }

    fn read_kept(&self) -> Option<(Checkpoint, Cosigned)> {
        let note = kept_anchor(&self.dir, self.witness.key.id()).ok().flatten()?;
        let checkpoint = Checkpoint::open(&note, &self.keys).ok()?;
        let mut found = crate::audit::cosignatures(&note, std::slice::from_ref(&self.witness.key)).ok()?;
        Some((checkpoint, found.pop()?))
    }

    /// Submits the checkpoint `note`. `since` are records before it that are at hand; what lacks of them is read from the
    /// log. Blocks.
    pub fn submit(&mut self, note: &str, since: Option<&CompactRange>) -> Submitted {
        self.try_submit(note, since).unwrap_or_else(|cause| {
            // Whatever it was, the next one begins with what is kept.
            self.known = None;
            Submitted::Away(cause)
        })
    }

    fn try_submit(&mut self, note: &str, since: Option<&CompactRange>) -> Result<Submitted, String> {
        let mut opened = Checkpoint::open(note, &self.keys);
        if opened.is_err() {
            // The log may have another key since.
            self.keys = own_keys(&self.dir).map_err(|error| error.to_string())?;
            opened = Checkpoint::open(note, &self.keys);
        }
        let checkpoint = opened.map_err(|error| format!("our checkpoint: {error}"))?;
        let kept = self.kept().map_or(0, |(kept, _)| kept.size);
        let mut old = match self.known.take() {
            Some(tree) if tree.end() <= checkpoint.size => tree,
            _ if kept <= checkpoint.size => match tree_at(&self.dir, &self.keys, kept) {
                // From there nothing can be proven any more. It says itself what it has.
                Err(ProveError::Retired { .. }) => CompactRange::new(0),
                tree => tree.map_err(|error| error.to_string())?,
            },
            _ => {
                return Ok(Submitted::RolledBack(format!(
                    "{kept} records were cosigned, {} are signed now",
                    checkpoint.size
                )));
            }
        };
        for _ in 0..EXCHANGES_MAX {
            let (new, path) = self.continued(&old, since, checkpoint.size)?;
            if new.root() != Some(checkpoint.root) {
                return Err("the stored records are not those of our own checkpoint".to_owned());
            }
            let old_root = old.root().unwrap_or_default();
            if !is_consistent(old.end(), checkpoint.size, &old_root, &checkpoint.root, &path) {
                return Err("the path does not prove what it must".to_owned());
            }
            let proof = ConsistencyProof { old_size: old.end(), path, note: note.to_owned() };
            let size = checkpoint.size;
            match self.exchange(&proof.to_text())? {
                Answer::Cosignatures(lines) => {
                    let (cosigned, line) = self.own_line(&checkpoint, &lines)?;
                    let anchor = format!("{note}{line}\n");
                    keep_anchor(&self.dir, self.witness.key.id(), &anchor)
                        .map_err(|error| error.to_string())?;
                    self.kept = OnceCell::from(Some((checkpoint.clone(), cosigned.clone())));
                    let forgot = (old.end() < kept).then_some(kept);
                    self.known = Some(new);
                    return Ok(Submitted::Cosigned(Anchored { checkpoint, cosigned, line, forgot }));
                }
                Answer::Conflict(theirs) if theirs > size => {
                    let cause = format!(
                        "witness {} has cosigned {theirs} records, {size} are signed here",
                        self.name()
                    );
                    return Ok(Submitted::RolledBack(cause));
                }
                Answer::Conflict(theirs) if theirs == old.end() && theirs == size => {
                    let cause = format!("witness {} has cosigned other {size} records", self.name());
                    return Ok(Submitted::RolledBack(cause));
                }
                Answer::Conflict(theirs) if theirs == old.end() => {
                    return Err(format!("the witness contradicts itself about {theirs} records"));
                }
                // The proof was checked here: it is what they have cosigned that differs.
                Answer::Inconsistent if old.end() > 0 => {
                    let theirs = old.end();
                    let cause = format!(
                        "the first {theirs} records are not those that witness {} cosigned",
                        self.name()
                    );
                    return Ok(Submitted::RolledBack(cause));
                }
                Answer::Inconsistent => {
                    return Err("the witness refuses the first checkpoint it sees".to_owned());
                }
                Answer::Conflict(theirs) => {
                    let tree = self.tree(theirs);
                    old = tree.map_err(|cause| format!("it has cosigned {theirs} records: {cause}"))?;
                }
            }
        }
        Err("the witness names another size each time".to_owned())
    }

    /// The tree of `size` records, and the path from `old` to it.
    fn continued(
        &self,
        old: &CompactRange,
        since: Option<&CompactRange>,
        size: u64,
    ) -> Result<(CompactRange, Vec<Hash>), String> {
        let at_hand = since.filter(|since| since.begin() == old.end() && since.end() == size);
        let since = match at_hand {
            Some(since) => since.clone(),
            // Every tree continues the empty one, without a path; the first records may not be there any more.
            None if old.end() == 0 => return Ok((self.tree(size)?, Vec::new())),
            None => range(&self.dir, old.end(), size).map_err(|error| error.to_string())?,
        };
        let (mut new, path) = (old.clone(), path_between(old, &since).ok_or("the path cannot be made")?);
        new.merge(&since);
        Ok((new, path))
    }

    fn name(&self) -> &str {
        &self.witness.key.name
    }

    fn tree(&self, size: u64) -> Result<CompactRange, String> {
        tree_at(&self.dir, &self.keys, size).map_err(|error| error.to_string())
    }

    /// The witness's own line among the answer's; those of other keys say nothing.
    fn own_line(&self, checkpoint: &Checkpoint, lines: &str) -> Result<(Cosigned, String), String> {
        for line in lines.lines() {
            match self.witness.key.check(checkpoint, line) {
                Ok(Some(cosigned)) => return Ok((cosigned, line.to_owned())),
                Ok(None) => {}
                Err(error) => return Err(format!("its cosignature: {error}")),
            }
        }
        Err("its answer has no cosignature of its key".to_owned())
    }

    fn exchange(&self, body: &str) -> Result<Answer, String> {
        let url = format!("{}/add-checkpoint", self.witness.url.trim_end_matches('/'));
        let request = self.agent.post(&url).header("Content-Type", "text/plain; charset=utf-8");
        let mut response = request.send(body).map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let sized = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("text/x.tlog.size"));
        let limited = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let text = limited.read_to_string().map_err(|error| format!("its answer: {error}"))?;
        match status {
            200 => Ok(Answer::Cosignatures(text)),
            409 if sized => match text.strip_suffix('\n').map(str::parse::<u64>) {
                Some(Ok(size)) => Ok(Answer::Conflict(size)),
                _ => Err("its answer 409 names no size".to_owned()),
            },
            422 => Ok(Answer::Inconsistent),
            _ => {
                let said: String = text.chars().take(120).flat_map(char::escape_debug).collect();
                Err(format!("it answers {status}: {said}"))
            }
        }
    }
}
