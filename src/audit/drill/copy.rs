//! What the drill works on: a copy of the log's first records, cut where a checkpoint was signed, so that everything in
//! it is signed and every change can be seen.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{DrillError, Settings, ground::Parts};
use crate::audit::{
    error::AuditError,
    folder::{SegmentFile, segment_name},
    note::{Checkpoint, NoteError},
    record::CORE_SEQUENCER,
    recover::FIRST_SEGMENT,
    schema::{self, Kind},
    sealer::CHECKPOINT_FILE,
    stored::{Stored, list_segments},
    verify::published_note,
};

/// The copy, which no case changes.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) dir: PathBuf,
    pub(super) segments: Vec<CopiedSegment>,
    /// What the last record of the copy was signed with.
    pub(super) signed: Checkpoint,
    pub(super) note: String,
    /// Every record below was known to be durable by the copy's last COMMIT: no crash explains a change of it.
    pub(super) durable_size: u64,
    /// Checkpoints that the copy's own records hold, in their order.
    pub(super) older: Vec<OlderCheckpoint>,
    /// Records of the log when it was copied.
    pub(super) log_size: u64,
    // Whether there was room for all that could be read.
    fitted: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CopiedSegment {
    pub(super) index: u64,
    pub(super) first_seq: u64,
    pub(super) records: usize,
    pub(super) finished: bool,
}

/// A CHECKPOINT record.
#[derive(Debug, Clone)]
pub(super) struct OlderCheckpoint {
    pub(super) seq: u64,
    pub(super) signed: Checkpoint,
    pub(super) note: String,
}

impl Copy {
    /// Copies what fits. The note is read first: everything that it covers is in the segments already.
    pub(super) fn make(settings: &Settings<'_>) -> Result<Self, DrillError> {
        let Settings { dir, keys, work, copy_bytes_max } = *settings;
        let io = |what| move |error: io::Error| AuditError::io(what, dir, error);
        let note = published_note(dir).map_err(io("read the checkpoint of"))?;
        let note = note.ok_or(DrillError::Checkpoint(NoteError::Unsigned))?;
        let signed = Checkpoint::open(&note, keys).map_err(DrillError::Checkpoint)?;
        let files = list_segments(dir).map_err(io("list the segments of"))?;
        if files.first().is_none_or(|file| file.index != FIRST_SEGMENT) {
            return Err(DrillError::TooLittle("the log's first segment"));
        }
        let log_size = signed.size;
        let folder = work.join("copy");
        make_folder(&folder).map_err(DrillError::copy("make", &folder))?;
        let mut copy = Self {
            dir: folder,
            segments: Vec::new(),
            signed,
            note,
            durable_size: 0,
            older: Vec::new(),
            log_size,
            fitted: true,
        };
        let mut room = copy_bytes_max;
        for file in files {
            let bytes = Stored::open(dir, file.index)
                .and_then(|stored| stored.read())
                .map_err(io("read a segment of"))?;
            let taken = copy.take(&file, bytes, room).map_err(DrillError::copy("copy a segment to", work))?;
            match taken {
                Some(taken) => room = room.saturating_sub(taken),
                None => break,
            }
        }
        copy.step_back()?;
        copy.end().map_err(DrillError::copy("cut the copy in", work))?;
        Ok(copy)
    }

    /// Records there are.
    pub(super) fn copied(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.first_seq + last.records as u64)
    }

    /// Copies the segment as far as the checkpoint covers it and there is room; `None` where the copy ends.
    fn take(&mut self, file: &SegmentFile, bytes: Vec<u8>, room: u64) -> io::Result<Option<u64>> {
        let mut parts = Parts::of(bytes);
        let size = self.copied();
        let wanted = usize::try_from(self.signed.size - size).unwrap_or(usize::MAX);
        let fits = parts.offsets[1..].iter().take_while(|end| **end as u64 <= room).count();
        let records = parts.records().min(wanted).min(fits);
        self.fitted &= fits >= parts.records().min(wanted);
        if records == 0 {
            return Ok(None);
        }
        let whole = records == parts.records();
        if !whole || self.signed.size == size + records as u64 {
            // Nothing follows what was signed.
            parts.cut(records);
        }
        for at in 0..records {
            if parts.header(at).kind != Kind::Checkpoint.code() {
                continue;
            }
            let record = parts.read(at);
            let Ok(body) = record.read_body() else { continue };
            let note = schema::text(&body, 3).unwrap_or_default().to_owned();
            if let Ok(signed) = Checkpoint::read_unverified(&note) {
                self.older.push(OlderCheckpoint { seq: record.header.seq, signed, note });
            }
        }
        let finished = file.finished && whole;
        write_segment(&self.dir, file.index, &parts.bytes, finished)?;
        self.segments.push(CopiedSegment { index: file.index, first_seq: size, records, finished });
        Ok(whole.then_some(parts.bytes.len() as u64))
    }

    /// Where not all that was signed fits: goes back to the latest checkpoint that covers only what does.
    fn step_back(&mut self) -> Result<(), DrillError> {
        let copied = self.copied();
        if copied < self.signed.size && self.fitted {
            let found = format!("{} records were signed, {copied} can be read", self.signed.size);
            return Err(DrillError::NotWhole(found));
        }
        if copied < self.signed.size {
            let last = self.older.iter().rfind(|older| older.signed.size <= copied);
            let last = last.ok_or(DrillError::TooLittle("more of the log: no checkpoint is in what fits"))?;
            (self.signed, self.note) = (last.signed.clone(), last.note.clone());
        }
        Ok(())
    }

    /// Ends the copy where the checkpoint does, and puts that beside it.
    fn end(&mut self) -> io::Result<()> {
        let size = self.signed.size;
        while let Some(last) = self.segments.last_mut()
            && last.first_seq + last.records as u64 > size
        {
            let name = segment_name(last.index);
            if last.first_seq >= size {
                fs::remove_file(self.dir.join(name))?;
                self.segments.pop();
                continue;
            }
            let mut parts = Parts::of(fs::read(self.dir.join(&name))?);
            last.records = usize::try_from(size - last.first_seq).map_err(io::Error::other)?;
            last.finished = false;
            parts.cut(last.records);
            write_segment(&self.dir, last.index, &parts.bytes, false)?;
        }
        self.older.retain(|older| older.seq < size);
        self.durable_size = self.last_durable()?;
        fs::write(self.dir.join(CHECKPOINT_FILE), &self.note)
    }

    /// What the last COMMIT says; each says more than the one before.
    fn last_durable(&self) -> io::Result<u64> {
        for segment in self.segments.iter().rev() {
            let parts = Parts::of(fs::read(self.dir.join(segment_name(segment.index)))?);
            let commit = |at: &usize| {
                let header = parts.header(*at);
                header.kind == Kind::Commit.code() && header.core == CORE_SEQUENCER
            };
            if let Some(at) = (0..parts.records()).rev().find(commit) {
                let record = parts.read(at);
                return Ok(record.read_body().ok().and_then(|body| schema::uint(&body, 3)).unwrap_or(0));
            }
        }
        Ok(0)
    }
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Puts a segment into a folder, in place of the one that is there: never into it, which another name may lead to.
pub(super) fn write_segment(dir: &Path, index: u64, bytes: &[u8], finished: bool) -> io::Result<()> {
    let path = dir.join(segment_name(index));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(bytes)?;
    if finished {
        file.set_permissions(Permissions::from_mode(0o400))?;
    }
    Ok(())
}
