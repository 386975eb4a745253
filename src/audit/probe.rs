//! For the benches: the sequencer's work without its thread, and recovery without its consequences.

use std::{path::Path, sync::Arc};

use super::{
    AuditError, Event, Hash, Settings, SinkKind, body,
    clock::Clock,
    draft::Draft,
    error::AuditFailure,
    folder::Folder,
    open::resume,
    real::RealMedium,
    recover::{Expected, recover},
    sealed::Seals,
    sha256::Hasher,
    tag::TagKey,
    tag_keys::FIRST_EPOCH,
    writer::{Stamp, Writer},
};

/// A writer on a real folder, driven by hand.
pub struct Probe {
    folder: Folder,
    writer: Writer,
    segment_bytes: u64,
}

impl Probe {
    /// Begins a log in `settings.dir`.
    ///
    /// # Errors
    /// As opening a log.
    pub fn begin(settings: &Settings, sink: SinkKind) -> Result<Self, AuditError> {
        let folder = Folder::new(Box::new(RealMedium::new(&settings.dir, sink)));
        let (writer, _) = resume(&folder, settings, Clock::system())?;
        Ok(Self { folder, writer, segment_bytes: settings.segment_bytes })
    }

    /// Whether `bytes` more fit the active segment.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.writer.has_room(bytes)
    }

    /// Goes on in a new segment; removes the old ones.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn roll(&mut self) -> Result<(), AuditFailure> {
        let failed = |error| AuditFailure::new(super::FailureKind::WriteFailed, error);
        let prepared = self.folder.prepare(self.writer.segment() + 1, self.segment_bytes).map_err(failed)?;
        let old = self.writer.segment();
        self.writer.roll(prepared, FIRST_EPOCH)?;
        let job = self.writer.begin_commit()?;
        job.run().map_err(failed)?;
        self.writer.end_commit(job.head.size);
        self.folder.remove(old).map_err(failed)
    }

    /// Chains and stores a batch made by [`lay_out`]. The same batch can be appended again.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn append(&mut self, batch: &mut [u8]) -> Result<u64, AuditFailure> {
        Ok(self.writer.append(batch)?.records)
    }
}

/// What an appender would hand over for these events.
///
/// # Panics
/// If the body of one is too long.
#[must_use]
pub fn lay_out(events: &[Event<'_>]) -> Vec<u8> {
    let mut draft = Draft::new(Arc::new(TagKey::new(&[0; 32])));
    for (event, core_seq) in events.iter().zip(1..) {
        let stamp = Stamp { kind: event.kind(), flags: 0, core: 0, core_seq, epoch: event.epoch() };
        draft
            .push(|out, tags| body::encode(event, tags, &mut Seals::none(), out), &stamp)
            .expect("the body fits");
    }
    draft.take(Vec::new())
}

/// The reading half of recovery; returns the records found. The folder must not have been torn.
///
/// # Errors
/// As opening a log.
pub fn recover_only(dir: &Path, origin: &str) -> Result<u64, AuditError> {
    let folder = Folder::new(Box::new(RealMedium::new(dir, SinkKind::Map)));
    Ok(recover(&folder, dir, Expected { origin, tag_epoch: u64::MAX }, &mut |_| Ok(()))?.head.size)
}

/// Reads a segment as recovery does.
///
/// # Errors
/// When the disk fails.
pub fn read_only(dir: &Path, index: u64) -> std::io::Result<usize> {
    let folder = Folder::new(Box::new(RealMedium::new(dir, SinkKind::Map)));
    folder.read(index).map(|bytes| bytes.len())
}

/// Hashes messages together, as the log does; for comparison with the `sha2` crate.
pub struct Together(Hasher);

impl Default for Together {
    fn default() -> Self {
        Self(Hasher::new())
    }
}

impl Together {
    /// The hashes of `messages`.
    pub fn hash<'a>(&mut self, messages: impl Iterator<Item = &'a [u8]>) -> &[Hash] {
        self.0.clear();
        messages.for_each(|message| self.0.push(message));
        self.0.finish()
    }
}
