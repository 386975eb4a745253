//! A simulated medium. It keeps apart what a running machine sees (the cache) and what a power cut leaves (the
//! stable state plus any part of what was not synced), counts every operation, and can crash or fail at each.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use super::disk::{Listed, Medium, MediumFile, Sink};

/// What ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process dies: the cache survives.
    Kill,
    /// The machine dies: of what was not synced, any part survives.
    Power,
}

/// An operation that fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fail {
    pub(super) at: u64,
    /// All later operations of the medium fail too.
    pub(super) sticky: bool,
    pub(super) effect: Effect,
    pub(super) error: io::ErrorKind,
}

/// What a failed operation did all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Nothing,
    /// The first half of what was to be written: a short write, and then the error.
    Half,
    All,
}

/// A barrier the medium pretends to keep: what remains when a line of the writer is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Barrier {
    SyncData,
    Names,
    QuarantineNames,
    Overwrite,
}

#[derive(Clone)]
pub(super) struct Sim {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    stable_names: BTreeMap<String, usize>,
    // Changes of names not yet synced, in order.
    pending: Vec<(String, Option<usize>)>,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fail: Option<Fail>,
    skip: Option<Barrier>,
    random: Random,
}

#[derive(Default, Clone)]
struct Inode {
    cache: Vec<u8>,
    stable: Vec<u8>,
    // Writes not yet synced, in order.
    dirty: Vec<(usize, Vec<u8>)>,
    read_only: bool,
}

/// SplitMix64: small, seeded, good enough to choose what a power cut keeps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Sim {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(State { random: Random(seed), ..State::default() })) }
    }

    pub(super) fn crash_at(&self, operation: u64) {
        let mut state = self.lock();
        state.crash_at = Some(state.operations + operation);
    }

    pub(super) fn fail(&self, fail: Fail) {
        let mut state = self.lock();
        let at = state.operations + fail.at;
        state.fail = Some(Fail { at, ..fail });
    }

    pub(super) fn skip(&self, barrier: Option<Barrier>) {
        self.lock().skip = barrier;
    }

    pub(super) fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub(super) fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// What the next start finds.
    pub(super) fn after(&self, crash: Crash) -> Self {
        let mut state = self.lock();
        let mut random = state.random;
        let names = match crash {
            Crash::Kill => state.names.clone(),
            Crash::Power => {
                // Changes of names reach the disk in order; how many did is open.
                let kept = usize::try_from(random.below(state.pending.len() as u64 + 1)).unwrap();
                let mut names = state.stable_names.clone();
                state.pending[..kept].iter().for_each(|change| apply(&mut names, change));
                names
            }
        };
        let inodes = state.inodes.iter().map(|inode| inode.after(crash, &mut random)).collect();
        state.random = random;
        let next = State {
            inodes,
            stable_names: names.clone(),
            names,
            random: Random(random.next()),
            skip: state.skip,
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(next)) }
    }

    /// Whether any file holds exactly these bytes somewhere.
    pub(super) fn keeps(&self, bytes: &[u8]) -> bool {
        let state = self.lock();
        state.names.values().any(|inode| memchr::memmem::find(&state.inodes[*inode].cache, bytes).is_some())
    }

    /// Makes a finished segment an unfinished one, as if the power had failed before that was durable.
    pub(super) fn unfinish(&self, name: &str) {
        let mut state = self.lock();
        let inode = state.names[name];
        state.inodes[inode].read_only = false;
    }

    /// Changes a stored byte behind everyone's back.
    pub(super) fn corrupt(&self, name: &str, offset: usize) {
        self.flip(name, offset, 0);
    }

    /// Changes a stored bit behind everyone's back.
    pub(super) fn flip(&self, name: &str, offset: usize, bit: u32) {
        let mut state = self.lock();
        let inode = state.names[name];
        state.inodes[inode].cache[offset] ^= 1 << bit;
        state.inodes[inode].stable[offset] ^= 1 << bit;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn file(&self, name: &str) -> io::Result<(MutexGuard<'_, State>, usize)> {
        let state = self.lock();
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((state, inode))
    }
}

/// What to do with an operation.
enum Fate {
    Done,
    /// It fails, before, while or after it took effect.
    Failed {
        effect: Effect,
        error: io::Error,
    },
}

impl State {
    fn operation(&mut self) -> Fate {
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            self.crashed = true;
        }
        if self.crashed {
            // The operation under way when the machine stops may or may not have happened.
            let applied = self.crash_at == Some(self.operations) && self.random.below(2) == 0;
            let effect = if applied { Effect::All } else { Effect::Nothing };
            return Fate::Failed { effect, error: io::Error::other("crashed") };
        }
        match self.fail {
            Some(fail) if fail.at == self.operations || (fail.sticky && self.operations > fail.at) => {
                Fate::Failed { effect: fail.effect, error: fail.error.into() }
            }
            _ => Fate::Done,
        }
    }

    fn run<T: Default>(&mut self, effect: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        match self.operation() {
            Fate::Done => effect(self),
            Fate::Failed { effect: Effect::All, error } => effect(self).and(Err(error)),
            Fate::Failed { error, .. } => Err(error),
        }
    }

    /// A write, which may come to half.
    fn write(&mut self, inode: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        match self.operation() {
            Fate::Done => {
                self.inodes[inode].write(offset, bytes);
                Ok(())
            }
            Fate::Failed { effect, error } => {
                let len = match effect {
                    Effect::Nothing => 0,
                    Effect::Half => bytes.len() / 2,
                    Effect::All => bytes.len(),
                };
                if len > 0 {
                    self.inodes[inode].write(offset, &bytes[..len]);
                }
                Err(error)
            }
        }
    }

    fn rename_to(&mut self, name: &str, inode: Option<usize>) {
        let change = (name.to_owned(), inode);
        apply(&mut self.names, &change);
        self.pending.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, (name, inode): &(String, Option<usize>)) {
    match inode {
        Some(inode) => names.insert(name.clone(), *inode),
        None => names.remove(name),
    };
}

impl Inode {
    /// Only what is marked dirty is written out: a page that a failed flush marked clean stays lost.
    fn sync(&mut self) {
        for (offset, bytes) in self.dirty.drain(..) {
            let end = offset + bytes.len();
            if self.stable.len() < end {
                self.stable.resize(end, 0);
            }
            self.stable[offset..end].copy_from_slice(&bytes);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.dirty.push((offset, bytes.to_vec()));
    }

    /// Each sector that was written since the last sync holds any one of the versions it had since then.
    fn after(&self, crash: Crash, random: &mut Random) -> Self {
        if crash == Crash::Kill {
            // The cache goes on being written back.
            let mut inode = self.clone();
            inode.sync();
            return inode;
        }
        let mut bytes = self.stable.clone();
        if self.cache.len() > bytes.len() && random.below(2) == 0 {
            bytes.resize(self.cache.len(), 0);
        }
        let sectors = bytes.len().div_ceil(SECTOR);
        let mut versions = vec![0; sectors];
        for (offset, written) in &self.dirty {
            // A write may lie behind the end that the file has after the crash.
            let end = (offset + written.len()).div_ceil(SECTOR);
            versions.iter_mut().take(end).skip(offset / SECTOR).for_each(|version| *version += 1);
        }
        for (sector, count) in versions.iter().enumerate().filter(|(_, count)| **count > 0) {
            let mut kept = random.below(count + 1);
            let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(bytes.len()));
            for (offset, written) in &self.dirty {
                let (begin, end) = ((*offset).max(from), (offset + written.len()).min(to));
                if begin < end && kept > 0 {
                    kept -= 1;
                    bytes[begin..end].copy_from_slice(&written[begin - offset..end - offset]);
                }
            }
        }
        Self { cache: bytes.clone(), stable: bytes, dirty: Vec::new(), read_only: self.read_only }
    }
}

impl Medium for Sim {
    fn list(&self) -> io::Result<Vec<Listed>> {
        let state = self.lock();
        let listed = |(name, inode): (&String, &usize)| {
            let inode = &state.inodes[*inode];
            Listed { name: name.clone(), bytes: inode.cache.len() as u64, read_only: inode.read_only }
        };
        Ok(state.names.iter().filter(|(name, _)| !name.contains('/')).map(listed).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn MediumFile>> {
        let inode = self.lock().run(|state| {
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.rename_to(name, Some(inode));
            Ok(inode)
        })?;
        Ok(Arc::new(SimFile { sim: self.clone(), inode }))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let (mut state, inode) = self.file(name)?;
        // As the real one: what is dirty is written out first, and then the medium answers, not the cache.
        state.run(|state| {
            state.inodes[inode].sync();
            Ok(state.inodes[inode].stable.clone())
        })
    }

    fn finish(&self, name: &str, len: Option<u64>) -> io::Result<()> {
        let (mut state, inode) = self.file(name)?;
        state.run(|state| {
            let inode = &mut state.inodes[inode];
            inode.read_only = true;
            inode.sync();
            if let Some(len) = len {
                inode.cache.truncate(usize::try_from(len).unwrap());
                inode.stable.truncate(usize::try_from(len).unwrap());
            }
            Ok(())
        })
    }

    fn overwrite(&self, name: &str, ranges: &[Range<u64>]) -> io::Result<()> {
        let (mut state, inode) = self.file(name)?;
        for range in ranges {
            let (from, to) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            state.write(inode, from, &vec![0; to - from])?;
        }
        if state.skip == Some(Barrier::Overwrite) {
            return Ok(());
        }
        state.run(|state| {
            state.inodes[inode].sync();
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, inode) = self.file(from)?;
        state.run(|state| {
            state.rename_to(from, None);
            state.rename_to(to, Some(inode));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, _) = self.file(name)?;
        state.run(|state| {
            state.rename_to(name, None);
            Ok(())
        })
    }

    fn make_folder(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        self.lock().run(|state| {
            let skipped = if folder.is_empty() { Barrier::Names } else { Barrier::QuarantineNames };
            if state.skip == Some(skipped) {
                return Ok(());
            }
            let inside = |name: &str| name.split_once('/').map_or("", |(folder, _)| folder) == folder;
            let (synced, pending) =
                std::mem::take(&mut state.pending).into_iter().partition(|(name, _)| inside(name));
            state.pending = pending;
            let synced: Vec<_> = synced;
            synced.iter().for_each(|change| apply(&mut state.stable_names, change));
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct SimFile {
    sim: Sim,
    inode: usize,
}

impl MediumFile for SimFile {
    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        self.sim.lock().run(|_| Ok(()))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.sim.lock().write(self.inode, usize::try_from(offset).unwrap(), bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sim.lock().run(|state| {
            state.inodes[self.inode].sync();
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.sim.lock();
        if state.skip == Some(Barrier::SyncData) {
            return Ok(());
        }
        let result = state.run(|state| {
            state.inodes[self.inode].sync();
            Ok(())
        });
        if result.is_err() && !state.crashed {
            // As ext4, XFS and btrfs do: after a failed flush the pages are marked clean.
            state.inodes[self.inode].dirty.clear();
        }
        result
    }

    fn sink(self: Arc<Self>, _bytes: u64) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(SimSink { file: self }))
    }

    fn check_named(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
}

struct SimSink {
    file: Arc<SimFile>,
}

impl Sink for SimSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.file.sim.lock();
        let inode = self.file.inode;
        let offset = usize::try_from(offset).unwrap();
        let crashed_before = state.crashed;
        let result = state.write(inode, offset, bytes);
        if result.is_err() && state.crashed && !crashed_before {
            // The process died in the middle of the copy.
            let kept = usize::try_from(state.random.below(bytes.len() as u64)).unwrap();
            state.inodes[inode].write(offset, &bytes[..kept]);
        }
        result
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

/// What a disk writes as one.
const SECTOR: usize = 512;
