//! The memory map of the active segment: the one place of this room with `unsafe`.
//!
//! A store into a map has no error to return: when a page has lost its backing (the file was shortened, or a copy on
//! write needs space on a full disk) the kernel sends SIGBUS. The handler here lays an anonymous page under a fault
//! inside one of our maps and marks the map as lost, so that the store ends and the writer fails closed. A fault
//! anywhere else keeps the action it had before.
#![expect(unsafe_code, reason = "memory-mapped append is the log's write path; see each SAFETY comment")]

use std::{
    cell::UnsafeCell,
    fs::File,
    io,
    mem::MaybeUninit,
    os::unix::fs::FileExt as _,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence},
    },
};

use memmap2::{MmapMut, MmapOptions};

use super::disk::Sink;

/// A writable shared map of a prepared segment.
///
/// What was stored is never stored again. So whole pages that are full become read-only, some at a time: a stray store of this
/// process into the log's past ends it (SIGSEGV) instead of altering history.
///
/// Many pages at once are written by a call instead, into the same page cache: it costs half of what the faults do.
pub(super) struct MapSink {
    map: MmapMut,
    file: File,
    guard: &'static Guard,
    // Bytes before this are read-only; a multiple of the page size.
    sealed: usize,
}

impl MapSink {
    /// Maps `file`, whose `bytes` were written with zeros and synced.
    pub(super) fn new(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: the directory lock makes this process the only writer of the folder, `MapSink` is the only map of
        // this file in it, and no code path shortens a segment before its `MapSink` is dropped. Whoever shortens the
        // file from outside makes the next store raise SIGBUS, never a data race on Rust memory. `write` alone changes the
        // file by calls, and holds no reference into the map while it does.
        let map = unsafe { MmapOptions::new().len(bytes).populate().map_mut(file)? };
        // Without the right to lock memory (RLIMIT_MEMLOCK) the pages are merely likely to stay.
        let _ = map.lock();
        let file = file.try_clone()?;
        let guard = Guard::claim(map.as_ptr() as usize, map.len())?;
        Ok(Self { map, file, guard, sealed: 0 })
    }

    /// Makes the pages before `end` read-only, once there are enough of them for a system call.
    fn seal(&mut self, end: usize) -> io::Result<()> {
        let end = end & !(PAGE_BYTES.load(Ordering::Relaxed) - 1);
        if end < self.sealed + SEAL_BYTES_MIN {
            return Ok(());
        }
        let start = &raw mut self.map[self.sealed];
        // SAFETY: the range lies inside our own map (`end` is at most its length) and starts and ends at pages. Nothing writes
        // there any more: `write` refuses offsets below `sealed`, and the map is lent to nobody. Reading stays allowed.
        if unsafe { libc::mprotect(start.cast(), end - self.sealed, libc::PROT_READ) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.sealed = end;
        Ok(())
    }
}

impl Sink for MapSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(bytes.len()).filter(|end| start >= self.sealed && *end <= self.map.len());
        let end = end.ok_or(io::ErrorKind::WriteZero)?;
        if bytes.len() >= CALL_BYTES_MIN {
            // Where a store into the map would meet a page that is gone, the call would lengthen the file again.
            if self.file.metadata()?.len() < self.map.len() as u64 {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            }
            self.file.write_all_at(bytes, offset)?;
        } else {
            self.map[start..end].copy_from_slice(bytes);
        }
        // The handler runs on this thread, in the middle of those stores: the compiler must not move them below the look.
        compiler_fence(Ordering::SeqCst);
        if self.guard.lost.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        self.seal(end)
    }

    fn name(&self) -> &'static str {
        MAP_SINK
    }
}

impl Drop for MapSink {
    fn drop(&mut self) {
        self.guard.start.store(0, Ordering::Release);
    }
}

/// One guarded range of addresses. `start` is 0 while it is free.
struct Guard {
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

impl Guard {
    /// Puts a range under guard, installing the handler at the first time.
    fn claim(start: usize, len: usize) -> io::Result<&'static Self> {
        INSTALL.call_once(install);
        for guard in &GUARDS {
            let free = guard.start.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                guard.len.store(len, Ordering::Relaxed);
                guard.lost.store(false, Ordering::Relaxed);
                guard.start.store(start, Ordering::Release);
                return Ok(guard);
            }
        }
        Err(io::Error::other("too many mapped segments"))
    }

    fn covers(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::Acquire);
        start > CLAIMED && address >= start && address - start < self.len.load(Ordering::Relaxed)
    }
}

/// More maps than a process has: active, next, next but one, and those on their way to being finished.
static GUARDS: [Guard; 256] =
    [const { Guard { start: AtomicUsize::new(0), len: AtomicUsize::new(0), lost: AtomicBool::new(false) } };
        256];

/// A guard that is being filled in. No map starts there.
const CLAIMED: usize = 1;

static INSTALL: Once = Once::new();

/// The action SIGBUS had before ours: written once by `install`, before our handler can run.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: the cell is written once, under `INSTALL`, before the handler that reads it is installed.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));

fn install() {
    PAGE_BYTES.store(rustix::param::page_size(), Ordering::Relaxed);
    // SAFETY: an all-zero sigaction is a valid value; every field that matters is set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: both pointers are valid for the call; nobody else writes PREVIOUS (`INSTALL` runs this once). The
    // first call only reads the present action, so that PREVIOUS is written before our handler can run.
    unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), PREVIOUS.0.get().cast()) };
    // SAFETY: `action` is fully set, and `on_sigbus` does only what a handler may: atomics and two system calls.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if !matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR) {
        // Sent by a process, or not tied to an access of this thread: there is no address to look at.
        restore_previous();
        // SAFETY: `raise` is async-signal-safe; the signal meets the action that was there before ours.
        unsafe { libc::raise(libc::SIGBUS) };
        return;
    }
    // SAFETY: as above; with these codes a SIGBUS carries the address that was accessed.
    let address = unsafe { (*info).si_addr() } as usize;
    for guard in GUARDS.iter().filter(|guard| guard.covers(address)) {
        let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
        let page = address & !(page_bytes - 1);
        // SAFETY: the page lies inside a map that its `MapSink` still owns (`covers`); replacing it by an anonymous
        // one keeps the range mapped and writable, which is all that `MmapMut` relies on.
        let laid = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                page_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if laid != libc::MAP_FAILED {
            guard.lost.store(true, Ordering::Release);
            return;
        }
    }
    // Not ours: the access is repeated on return and meets the action that was there before.
    restore_previous();
}

fn restore_previous() {
    // SAFETY: PREVIOUS was written before the handler, the only caller, was installed.
    unsafe { libc::sigaction(libc::SIGBUS, PREVIOUS.0.get().cast(), std::ptr::null_mut()) };
}

/// What this sink calls itself in SEGMENT_OPEN and in the metrics.
pub(super) const MAP_SINK: &str = "mmap";

/// A batch of this many bytes touches at least three of the smallest pages of any machine.
const CALL_BYTES_MIN: usize = 3 * 4096;

/// One call for so many bytes costs one or two hundredths of storing them.
const SEAL_BYTES_MIN: usize = 1 << 20;

/// The machine's page size, by which faults are handled: set by `install`, before our handler can run.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    fn mapped() -> (File, MapSink) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        let sink = MapSink::new(&file, 16384).unwrap();
        (file, sink)
    }

    #[test]
    fn a_page_without_backing_is_an_error_and_not_the_end_of_the_process() {
        let (file, mut sink) = mapped();
        sink.write(0, b"fine").unwrap();
        file.set_len(4096).unwrap();
        sink.write(100, b"still fine").unwrap();
        assert_eq!(sink.write(8000, &[1; 400]).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert!(sink.write(0, b"never again").is_err());
        let (_other, mut other) = mapped();
        other.write(0, b"another map is not concerned").unwrap();
    }

    #[test]
    fn a_large_batch_does_not_lengthen_a_file_that_was_shortened() {
        for left in [0, 4096, 16383] {
            let (file, mut sink) = mapped();
            file.set_len(left).unwrap();
            let stored = sink.write(0, &[1; CALL_BYTES_MIN]);
            assert_eq!(stored.unwrap_err().raw_os_error(), Some(libc::EFAULT), "{left} bytes left");
            assert_eq!(file.metadata().unwrap().len(), left);
        }
    }

    /// The safe model: a vector, and a file that is written with the usual calls.
    #[test]
    fn a_map_stores_what_a_plain_buffer_and_a_plain_file_would() {
        let mut random = crate::audit::sim::Random(1);
        let mut below = |bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
        for round in 0..200_u32 {
            let (file, mut sink) = mapped();
            let (plain, mut model) = (tempfile::tempfile().unwrap(), vec![0; 16384]);
            plain.set_len(16384).unwrap();
            for _ in 0..below(40) {
                // At any place, also one that ends behind the map; long enough, now and then, to be written by a call.
                let offset = below(16384 + 64);
                let longest = [16, 400, 16384][below(3)];
                let len = below(longest);
                let bytes: Vec<u8> = (0..len).map(|_| u8::try_from(below(256)).unwrap()).collect();
                let stored = sink.write(offset as u64, &bytes);
                match model.get_mut(offset..offset + len) {
                    Some(place) => {
                        stored.unwrap();
                        place.copy_from_slice(&bytes);
                        plain.write_all_at(&bytes, offset as u64).unwrap();
                    }
                    None => assert_eq!(stored.unwrap_err().kind(), io::ErrorKind::WriteZero),
                }
            }
            let read = |file: &File| {
                let mut bytes = vec![0; 16384];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            // Read while it is mapped, and after.
            assert!(read(&file) == model && read(&plain) == model, "round {round}");
            drop(sink);
            assert!(read(&file) == model, "round {round}, unmapped");
        }
    }

    #[test]
    fn writes_beyond_the_map_are_refused() {
        let (_file, mut sink) = mapped();
        assert!(sink.write(16380, b"12345").is_err());
        assert!(sink.write(u64::MAX, b"1").is_err());
    }

    #[test]
    fn a_fault_outside_our_maps_still_kills() {
        if std::env::var_os(CHILD).is_some() {
            let (_file, _sink) = mapped();
            let file = tempfile::tempfile().unwrap();
            file.set_len(4096).unwrap();
            // SAFETY: nothing but this test has the file; the fault is what the test is about.
            let map = unsafe { MmapOptions::new().len(4096).map(&file).unwrap() };
            file.set_len(0).unwrap();
            std::process::exit(i32::from(std::hint::black_box(map[0])));
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::map::tests::a_fault_outside_our_maps_still_kills"])
            .env(CHILD, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status:?}");
    }

    /// A map of a few times what is sealed at once.
    fn mapped_long() -> (File, MapSink) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![0; 4 * SEAL_BYTES_MIN], 0).unwrap();
        let sink = MapSink::new(&file, 4 * SEAL_BYTES_MIN).unwrap();
        (file, sink)
    }

    #[test]
    fn writing_goes_on_behind_what_became_read_only() {
        let (file, mut sink) = mapped_long();
        let bytes: Vec<u8> = (0..4 * SEAL_BYTES_MIN).map(|at| u8::try_from(at % 251).unwrap()).collect();
        // Records of a length that no page is a multiple of.
        for (at, record) in bytes.chunks(1000).enumerate() {
            sink.write(1000 * at as u64, record).unwrap();
        }
        assert_eq!(sink.sealed, 4 * SEAL_BYTES_MIN);
        assert!(sink.map[..] == bytes, "it can be read");
        assert!(sink.write(0, b"x").is_err() && sink.write(sink.sealed as u64 - 1, b"x").is_err());
        drop(sink);
        let mut stored = vec![0; bytes.len()];
        file.read_exact_at(&mut stored, 0).unwrap();
        assert!(stored == bytes);
    }

    #[test]
    fn a_stray_store_into_what_was_written_ends_the_process() {
        if let Ok(at) = std::env::var(CHILD) {
            let (_file, mut sink) = mapped_long();
            sink.write(0, &vec![1; SEAL_BYTES_MIN + 5000]).unwrap();
            // The last page is still being filled.
            sink.map[SEAL_BYTES_MIN + 4999] = 2;
            sink.map[at.parse::<usize>().unwrap()] = 2;
            std::process::exit(0);
        }
        for (at, signal) in
            [(0, Some(libc::SIGSEGV)), (SEAL_BYTES_MIN, Some(libc::SIGSEGV)), (SEAL_BYTES_MIN + 4096, None)]
        {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "audit::map::tests::a_stray_store_into_what_was_written_ends_the_process"])
                .env(CHILD, at.to_string())
                .output()
                .unwrap()
                .status;
            assert_eq!(status.signal(), signal, "a store at {at}: {status:?}");
        }
    }

    const CHILD: &str = "EDGATE_TEST_FAULT";
}
