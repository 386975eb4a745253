//! What the window finds is what a look at the whole segment finds.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::Path,
};

use super::*;
use crate::audit::{
    Ack, Event, Opened, StopEvent,
    folder::{SegmentFile, segment_name},
    stored::{Segments, list_segments},
    verify::{
        Join, Mode, Report,
        files::ending_before,
        segment::scan,
        tests::{SECOND, append, open_log, options, wait_signed},
    },
    walk::prev_end,
};

/// Both reports on the segments of `dir`, and how many of them the window gave up.
fn both(dir: &Path, options: &Options) -> (Report, Report, usize) {
    let files = list_segments(dir).unwrap();
    let segments = Segments::of(dir);
    let mut window = Window::new(stored_len(BODY_BYTES_MAX));
    let mut joins = [Join::new(options, &files, None), Join::new(options, &files, None)];
    let mut given_up = 0;
    for (at, file) in files.iter().enumerate() {
        let path = dir.join(segment_name(file.index));
        let ending =
            || files.get(at + 1).map_or(Ok(Ending::Last), |next| ending_before(segments, next.index));
        let whole = || scan(file, &fs::read(&path).unwrap(), options, ending().unwrap());
        let windowed =
            window.scan(file, &Stored::Segment(File::open(&path).unwrap()), options, ending).unwrap();
        given_up += usize::from(windowed.is_none());
        joins[0].add(whole());
        joins[1].add(windowed.unwrap_or_else(whole));
    }
    let [whole, windowed] = joins.map(|join| join.finish(&HashMap::new()).0);
    (whole, windowed, given_up)
}

fn last_written(dir: &Path) -> SegmentFile {
    let files = list_segments(dir).unwrap();
    *files.iter().rfind(|file| fs::read(dir.join(segment_name(file.index))).unwrap()[0] != 0).unwrap()
}

#[test]
fn a_window_sees_what_the_whole_shows() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut opened = open_log(dir);
    append(&mut opened, &(0..3000).map(|n| format!("event {n}")).collect::<Vec<_>>());
    wait_signed(&opened.log, 3000);
    let size = opened.log.status().durable_size;
    opened.log.close(SECOND).unwrap();
    for mode in [Mode::Full, Mode::Quick] {
        for upto in [None, Some(0), Some(1), Some(700), Some(701), Some(size)] {
            let (whole, windowed, given_up) = both(dir, &Options { upto, mode, ..options() });
            assert_eq!((&windowed, given_up), (&whole, 0), "{mode:?} {upto:?}");
            assert!(upto.is_some() || whole.segments > 3 && whole.breaks.is_empty());
        }
    }
}

#[test]
fn a_torn_tail_and_a_tail_of_zeros_are_seen_through_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let Opened { mut appenders, log, .. } = open_log(dir);
    for _ in 0..40 {
        let id = appenders[0].append(&Event::Stop(StopEvent { reason: "x" }), Ack::Durable).unwrap();
        appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    }
    let path = dir.join(segment_name(last_written(dir).index));
    let mut bytes = fs::read(&path).unwrap();
    log.close(SECOND).unwrap();
    let options = Options { allow_unsigned: true, ..options() };
    let write = |bytes: &[u8]| {
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
    };
    // As it stood while the log ran: zeros behind the last record.
    write(&bytes);
    let (whole, windowed, given_up) = both(dir, &options);
    assert_eq!((&windowed, given_up), (&whole, 0));
    // Torn where nothing was; its digest is compared, far behind the records and just behind them.
    for at in [bytes.len() - 4097, bytes.len() - 1, bytes.len() / 2] {
        let before = std::mem::replace(&mut bytes[at], 1);
        write(&bytes);
        let (torn, windowed, given_up) = both(dir, &options);
        assert_eq!((&windowed, given_up), (&torn, 1), "byte {at}");
        let upto = Some(10);
        let (stopped, windowed, given_up) = both(dir, &Options { upto, ..options.clone() });
        assert_eq!((&windowed, given_up), (&stopped, 0), "byte {at}");
        bytes[at] = before;
    }
}

#[test]
fn the_end_of_a_segment_is_measured_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    for tail in [&[][..], &[1], &[0, 0, 7], &vec![9; 70_000]] {
        for zeros in [0, 1, 4095, 70_000, 140_000] {
            let bytes = [&vec![5; 100][..], &vec![0; zeros], tail, &vec![0; zeros]].concat();
            fs::write(&path, &bytes).unwrap();
            let mut memory = vec![0; 4096];
            let file = Stored::Segment(File::open(&path).unwrap());
            let mut source = Source { memory: &mut memory, file: &file, len: bytes.len(), shrunk: false };
            for end in [0, 96, 100, bytes.len()] {
                assert_eq!(source.ended(end).unwrap(), prev_end(&bytes, end), "{zeros} zeros, from {end}");
            }
            assert!(!source.shrunk);
        }
    }
}
