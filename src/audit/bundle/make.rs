//! Making a bundle from a log, or from a log and its tiles. It is checked as a stranger would before it is given out.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    CHECKPOINT, DECISION_END, DECISIONS, PART_PROOF, POLICY, Part, SEGMENTS, SINCE, SINCE_PROOF,
    STAMP_PROOF_END, STAMPS, STATE, Summary,
    check::{Trust, Verified, verify_bundle},
    container::Writer,
    fault::CheckError,
    manifest::{Manifest, Member},
    policy::Policy,
};
use crate::audit::{
    error::AuditError,
    folder::segment_name,
    id::RecordId,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    proof::{
        ConsistencyProof, ProveError, Prover, State, consistency_path, is_consistent, read_checkpoint,
        same_log_continued, subtrees,
    },
    record::{Hash, Header},
    recover::FIRST_SEGMENT,
    schema::{self, Kind},
    stored::{Stored, list_segments},
    timestamp::stamp_files,
    verify::{Trusted, VerifyProgress, first_header},
    walk::{Depth, Walk, or_erased},
};

/// What a bundle is asked to hold.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The log's folder.
    pub dir: &'a Path,
    /// Its tiles, and the checkpoint to prove against; without them the whole log is read.
    pub tiles: Option<&'a Path>,
    /// Keys that may have signed the checkpoint.
    pub keys: &'a [CheckpointKey],
    /// Which records.
    pub what: What<'a>,
    /// An older checkpoint that the log continues; otherwise the first that the records hold.
    pub since: Option<&'a Path>,
    /// The checkpoint to hold everything to, such as one that witnesses have cosigned; otherwise the latest.
    pub checkpoint: Option<&'a Path>,
    /// When it is made.
    pub made_at: &'a str,
}

/// Which records a bundle is about.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// The segments that hold the records with these numbers.
    Records {
        /// First record wanted.
        from: u64,
        /// First record no longer wanted.
        to: u64,
    },
    /// The segments written from one time up to another, in nanoseconds since 1970.
    Times {
        /// From here on.
        from_ns: u64,
        /// Before here.
        to_ns: u64,
    },
    /// These records by themselves, with their bodies.
    Decisions(&'a [RecordId]),
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The log could not be read, or the bundle not written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What was made does not hold.
    #[error("the bundle was dropped, for it proves nothing: {0}; `edgate audit verify` says more")]
    Dropped(CheckError),
    /// No signed record is among those asked for.
    #[error("{dir} has no such records below its checkpoint of {size}", dir = dir.display())]
    NoRecords {
        /// The log's folder.
        dir: PathBuf,
        /// Records that are signed.
        size: u64,
    },
    /// The log is not what was signed, or not signed.
    #[error(transparent)]
    Prove(#[from] ProveError),
}

/// A bundle that is made and checked, and not yet given out.
pub struct Draft {
    writer: Writer,
    manifest: Manifest,
    verified: Verified,
}

impl Draft {
    /// What checking it established.
    #[must_use]
    pub const fn verified(&self) -> &Verified {
        &self.verified
    }

    /// Gives it the name `out`; `record` is the log's own word that it was made.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn publish(mut self, out: &Path, record: Option<String>) -> Result<(), AuditError> {
        self.manifest.record = record;
        let written = self.writer.put_manifest(&self.manifest.to_text());
        written.and_then(|()| self.writer.publish(out)).map_err(|error| AuditError::io("write", out, error))
    }
}

/// Makes a bundle beside `out`.
///
/// # Errors
/// When there are no such records, they are not what was signed, or `out` cannot be written; nothing is left then.
pub fn make_bundle(
    request: &Request<'_>,
    out: &Path,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Draft, MakeError> {
    let Request { dir, tiles, keys, .. } = *request;
    let prover = Prover { dir, tiles, keys };
    let mut state = match request.checkpoint {
        Some(path) => prover.state_at(path)?,
        None => prover.state()?,
    };
    let cut = request.cut(&state.checkpoint)?;
    let since = match (request.since, &cut) {
        (Some(path), _) => {
            let (since, note) = read_checkpoint(path, keys)?;
            same_log_continued(path, &since, &state.checkpoint)?;
            Some((since, note))
        }
        (None, Some(cut)) => cut.first_checkpoint(dir, keys)?,
        (None, None) => None,
    };
    let mut pack = Pack::begin(out)?;
    let mut plan = Plan { prover, state: &mut state, runs: Vec::new() };
    let since_at =
        since.as_ref().map(|(since, _)| plan.want(consistency_path(since.size, plan.state.checkpoint.size)));
    let cut_at = cut.as_ref().map(|cut| {
        let size = plan.state.checkpoint.size;
        (plan.want(trees_before(cut.records.start)), plan.want(consistency_path(cut.records.end, size)))
    });
    let stamps = request.stamps(cut.as_ref(), plan.state)?;
    let stamps_at: Vec<_> =
        stamps.iter().map(|one| plan.want(consistency_path(one.size, plan.state.checkpoint.size))).collect();
    let heads = plan.heads(progress)?;
    let (log, note) = (state.checkpoint.clone(), state.note.clone());
    pack.put(CHECKPOINT, note.as_bytes())?;
    pack.put(POLICY, Policy { logs: keys.to_vec() }.to_text().as_bytes())?;
    if let (Some((since, text)), Some(at)) = (&since, since_at) {
        let path = heads[at].to_vec();
        if !is_consistent(since.size, log.size, &since.root, &log.root, &path) {
            let cause = format!("the log's first {} records are not those that were signed", since.size);
            return Err(ProveError::Rollback(cause).into());
        }
        let proof = ConsistencyProof { old_size: since.size, path, note: note.clone() };
        pack.put(SINCE, text.as_bytes())?;
        pack.put(SINCE_PROOF, proof.to_text().as_bytes())?;
    }
    for (one, at) in stamps.iter().zip(stamps_at) {
        let proof = ConsistencyProof { old_size: one.size, path: heads[at].to_vec(), note: note.clone() };
        let name = |end: &str| format!("{STAMPS}{}{end}", one.size);
        pack.put(&name(stamp_files::NOTE_END), &one.note)?;
        pack.put(&name(STAMP_PROOF_END), proof.to_text().as_bytes())?;
        pack.put(&name(stamp_files::TOKEN_END), &one.token)?;
    }
    let mut part = None;
    if let (Some(cut), Some((before, behind))) = (cut, cut_at) {
        if cut.segments.0 > FIRST_SEGMENT {
            pack.put(STATE, cut.state(&log.origin, &heads[before]).to_text().as_bytes())?;
        }
        let proof = ConsistencyProof { old_size: cut.records.end, path: heads[behind].to_vec(), note };
        pack.put(PART_PROOF, proof.to_text().as_bytes())?;
        pack.put_segments(dir, &cut)?;
        part = Some(Part { records: cut.records, segments: cut.segments });
    }
    let mut decisions = 0;
    if let What::Decisions(ids) = request.what {
        let proofs = prover.inclusions(&mut state, ids, true, progress)?;
        for (id, proof) in ids.iter().zip(proofs) {
            pack.put(&format!("{DECISIONS}{id}{DECISION_END}"), proof.to_text().as_bytes())?;
            decisions += 1;
        }
    }
    pack.close(Summary { log, part, decisions }, request, progress)
}

impl Request<'_> {
    /// Which segments, and how far of them is signed; `None` where single decisions are wanted.
    fn cut(&self, signed: &Checkpoint) -> Result<Option<Cut>, MakeError> {
        let (from, to, time) = match self.what {
            What::Records { from, to } => (from, to, false),
            What::Times { from_ns, to_ns } => (from_ns, to_ns, true),
            What::Decisions(_) => return Ok(None),
        };
        let dir = self.dir;
        let failed = |error| AuditError::io("read a segment of", dir, error);
        let mut firsts = Vec::new();
        for file in list_segments(dir).map_err(failed)? {
            match first_header(dir, file.index).map_err(failed)? {
                Some(header) if header.seq < signed.size => firsts.push((file.index, header)),
                _ => break,
            }
        }
        let place = |header: &Header| if time { header.wall_ns } else { header.seq };
        let wanted = |at: usize| {
            place(&firsts[at].1) < to && firsts.get(at + 1).is_none_or(|(_, next)| place(next) > from)
        };
        let mut wanted_at = (0..firsts.len()).filter(|at| wanted(*at));
        let none = || MakeError::NoRecords { dir: dir.to_owned(), size: signed.size };
        let first = wanted_at.next().ok_or_else(none)?;
        let last = wanted_at.next_back().unwrap_or(first);
        // A clock that went back does not tear the part: segments between two wanted ones belong to it.
        let end = firsts.get(last + 1).map_or(signed.size, |(_, next)| next.seq);
        if !time && from >= end {
            return Err(none());
        }
        let records = firsts[first].1.seq..end;
        Ok(Some(Cut { records, segments: (firsts[first].0, firsts[last].0), first: firsts[first].1 }))
    }
}

/// A token that lies beside the log.
struct Stamped {
    size: u64,
    note: Vec<u8>,
    token: Vec<u8>,
}

impl Request<'_> {
    /// The tokens beside the log that say something about the records: those whose states end among them, and the first
    /// behind. All of them where single decisions are wanted.
    fn stamps(&self, cut: Option<&Cut>, state: &State) -> Result<Vec<Stamped>, AuditError> {
        let folder = self.dir.join(stamp_files::FOLDER);
        let failed = |error| AuditError::io("read the timestamps in", &folder, error);
        let mut sizes = stamp_files::sizes(&folder).map_err(failed)?;
        sizes.retain(|size| *size <= state.checkpoint.size);
        if let Some(Cut { records, .. }) = cut {
            let behind = sizes.iter().copied().find(|size| *size >= records.end);
            sizes.retain(|size| records.contains(size) && *size > records.start || Some(*size) == behind);
        }
        let read = |size: &u64| -> Result<Stamped, AuditError> {
            let file = |end: &str| fs::read(folder.join(format!("{size}{end}"))).map_err(failed);
            Ok(Stamped {
                size: *size,
                note: file(stamp_files::NOTE_END)?,
                token: file(stamp_files::TOKEN_END)?,
            })
        };
        sizes.iter().map(read).collect()
    }
}

/// The segments that are taken.
struct Cut {
    records: Range<u64>,
    segments: (u64, u64),
    /// The header of the first record.
    first: Header,
}

impl Cut {
    /// The first checkpoint that the records hold, of those that `keys` signed.
    fn first_checkpoint(
        &self,
        dir: &Path,
        keys: &[CheckpointKey],
    ) -> Result<Option<(Checkpoint, String)>, AuditError> {
        let bytes = read_segment(dir, self.segments.0)?;
        let mut walk = Walk::new(&bytes, Depth::Headers);
        let mut offset = 0;
        while let Ok(record) = or_erased(walk.read(offset), &bytes, offset) {
            offset = record.next;
            if record.header.seq >= self.records.end {
                break;
            }
            if record.kind() != Some(Kind::Checkpoint) {
                continue;
            }
            let note = record.read_body().ok().and_then(|body| schema::text(&body, NOTE).map(str::to_owned));
            let opened = note.and_then(|note| Some((Checkpoint::open(&note, keys).ok()?, note)));
            if opened.is_some() {
                return Ok(opened);
            }
        }
        Ok(None)
    }

    /// The tree before the first record, of these perfect subtrees.
    fn state(&self, origin: &str, trees: &[Hash]) -> Trusted {
        let size = self.first.seq;
        let tree = CompactRange::from_bytes(size, &trees.concat()).expect("a head per subtree");
        Trusted {
            origin: origin.to_owned(),
            segment: self.segments.0,
            size,
            hash: self.first.prev_hash,
            tree,
        }
    }
}

/// The perfect subtrees that the tree of the first `size` records consists of.
fn trees_before(size: u64) -> Vec<Range<u64>> {
    subtrees(&(0..size)).map(|(level, number)| number << level..(number + 1) << level).collect()
}

/// The tree heads that a bundle needs, got together: the log is read once for all of them.
struct Plan<'a> {
    prover: Prover<'a>,
    state: &'a mut State,
    runs: Vec<Range<u64>>,
}

impl Plan<'_> {
    /// Asks for the heads of these runs; says where they will be.
    fn want(&mut self, runs: Vec<Range<u64>>) -> Range<usize> {
        let at = self.runs.len();
        self.runs.extend(runs);
        at..self.runs.len()
    }

    fn heads(self, progress: &mut dyn FnMut(VerifyProgress)) -> Result<Vec<Hash>, ProveError> {
        self.prover.heads(self.state, &self.runs, progress)
    }
}

/// A bundle that grows.
struct Pack {
    writer: Writer,
    out: PathBuf,
    members: Vec<Member>,
}

impl Pack {
    fn begin(out: &Path) -> Result<Self, AuditError> {
        if fs::symlink_metadata(out).is_ok() {
            return Err(AuditError::io("write", out, io::ErrorKind::AlreadyExists.into()));
        }
        let writer = Writer::create(out).map_err(|error| AuditError::io("write", out, error))?;
        Ok(Self { writer, out: out.to_owned(), members: Vec::new() })
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), AuditError> {
        let member =
            self.writer.put(name, bytes).map_err(|error| AuditError::io("write", &self.out, error))?;
        self.members.push(member);
        Ok(())
    }

    /// The segments as they are; the last one up to its last signed record, so that nothing is there that is not vouched for.
    fn put_segments(&mut self, dir: &Path, cut: &Cut) -> Result<(), AuditError> {
        let (first, last) = cut.segments;
        for index in first..=last {
            let mut bytes = read_segment(dir, index)?;
            if index == last {
                let mut walk = Walk::new(&bytes, Depth::Headers);
                let mut end = 0;
                while let Ok(record) = or_erased(walk.read(end), &bytes, end)
                    && record.header.seq < cut.records.end
                {
                    end = record.next;
                }
                bytes.truncate(end);
            }
            self.put(&format!("{SEGMENTS}{}", segment_name(index)), &bytes)?;
        }
        Ok(())
    }

    /// Writes the manifest, and checks the whole as a stranger with the same keys would.
    fn close(
        mut self,
        summary: Summary,
        request: &Request<'_>,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Draft, MakeError> {
        self.members.sort_by(|one, next| one.name.cmp(&next.name));
        let maker = concat!("edgate ", env!("CARGO_PKG_VERSION")).to_owned();
        let made_at = request.made_at.to_owned();
        let manifest = Manifest { summary, made_at, maker, record: None, members: self.members };
        let written = self.writer.put_manifest(&manifest.to_text());
        written.map_err(|error| AuditError::io("write", &self.out, error))?;
        let trust = Trust {
            keys: request.keys,
            origin: Some(&manifest.summary.log.origin),
            kept: None,
            witnesses: &[],
            authorities: None,
            stamp_policy: None,
        };
        let verified = verify_bundle(self.writer.path(), &trust, progress).map_err(MakeError::Dropped)?;
        Ok(Draft { writer: self.writer, manifest, verified })
    }
}

fn read_segment(dir: &Path, index: u64) -> Result<Vec<u8>, AuditError> {
    let read = Stored::open(dir, index).and_then(|stored| stored.read());
    read.map_err(|error| AuditError::io("read", &dir.join(segment_name(index)), error))
}

/// The field of a CHECKPOINT body that holds the note.
const NOTE: u64 = 3;
