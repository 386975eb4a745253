//! Segments scanned on several threads, and handed over in order.

use std::{
    io,
    sync::{Condvar, Mutex, PoisonError},
};

use super::{
    Options,
    buffer::SegmentBuffer,
    files::ending_before,
    segment::{Ending, Scan, Window, scan},
};
use crate::audit::{folder::SegmentFile, stored::Segments};

/// Scans segments on several threads and hands the results over in order. At most a few segments are ahead of the
/// join, so that memory stays bounded. `listed` are all there are.
pub(super) fn scan_in_order(
    segments: Segments<'_>,
    options: &Options,
    (files, listed): (&[SegmentFile], &[SegmentFile]),
    mut take: impl FnMut(Scan),
) -> io::Result<()> {
    struct Work {
        next: usize,
        joined: usize,
        done: Vec<Option<io::Result<Scan>>>,
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
    .min(files.len());
    let work = Mutex::new(Work { next: 0, joined: 0, done: files.iter().map(|_| None).collect() });
    let changed = Condvar::new();
    let lock = || work.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || {
        let mut window = Window::new(WINDOW_BYTES);
        let mut buffer = SegmentBuffer::default();
        loop {
            let at = {
                let mut work = lock();
                while work.next < files.len() && work.next >= work.joined + threads * AHEAD {
                    work = changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                if work.next >= files.len() {
                    return;
                }
                work.next += 1;
                work.next - 1
            };
            let ending = || match listed.iter().find(|next| next.index > files[at].index) {
                Some(next) => ending_before(segments, next.index),
                None => Ok(Ending::Last),
            };
            let scanned = scan_file(segments, &files[at], options, ending, &mut window, &mut buffer);
            lock().done[at] = Some(scanned);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
        for at in 0..files.len() {
            let scanned = {
                let mut work = lock();
                loop {
                    if let Some(scanned) = work.done[at].take() {
                        work.joined = at + 1;
                        if scanned.is_err() {
                            work.next = files.len();
                        }
                        break scanned;
                    }
                    work = changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
            };
            changed.notify_all();
            take(scanned?);
        }
        Ok(())
    })
}

/// Scans a segment through `window`, or, where something is wrong, all of it in `buffer`.
fn scan_file(
    segments: Segments<'_>,
    file: &SegmentFile,
    options: &Options,
    ending: impl Fn() -> io::Result<Ending>,
    window: &mut Window,
    buffer: &mut SegmentBuffer,
) -> io::Result<Scan> {
    let stored = segments.open(file.index)?;
    if let Some(scan) = window.scan(file, &stored, options, &ending)? {
        return Ok(scan);
    }
    buffer.fill(&stored)?;
    let ending = ending()?;
    let mut scan = scan(file, buffer.bytes(), options, ending);
    if let Some(damage) = stored.damage() {
        scan.name_damage(damage);
    }
    Ok(scan)
}

/// The part of a segment that is looked at together: it stays in the second-level cache with what is made of it.
const WINDOW_BYTES: usize = 512 << 10;

/// Segments scanned ahead of the join, per thread.
const AHEAD: usize = 2;
