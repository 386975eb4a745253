//! Every kind of drive there may be, as numbers; and the probes on a folder of this machine.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt as _, symlink},
};

use super::{sentence::SENTENCE_BYTES_MAX, *};
use crate::audit::{CheckpointSigner, KeptBy, SignError, SinkKind};

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

fn times(median_us: u64, worst_us: u64) -> Latency {
    Latency { median: us(median_us), worst: us(worst_us), count: 200 }
}

/// An enterprise drive: power-loss protection, so a flush is quick.
fn fast() -> Measured {
    Measured {
        folder: PathBuf::from("/var/lib/edgate/audit"),
        file_system: FileSystem {
            name: "ext4",
            magic: 0xEF53,
            kept_by: KeptBy::Disk,
            sink: SinkKind::Map,
            shares_blocks: false,
        },
        below: Below {
            device: Some(Device { name: "nvme0n1".to_owned(), volatile_cache: Some(false) }),
            unflushed_by: None,
            is_virtual: false,
        },
        flushes: Flushes {
            appended: times(60, 200),
            overwritten: times(25, 90),
            direct: Ok(times(18, 60)),
            committed: times(24, 100),
            written: Written { commits: 200, by_process: Some(200 * 4096), to_device: Some(200 * 4200) },
        },
        room: Room { free: 500 << 30, rate: None },
        signing: Signing::Signs(times(15, 40)),
        clocks: Clocks { step: Duration::from_millis(1), wall_s: 1_800_000_000, synchronised: Some(true) },
    }
}

/// A consumer drive: a flush is what it takes to program flash.
fn slow() -> Measured {
    let mut measured = fast();
    measured.below.device = Some(Device { name: "sda".to_owned(), volatile_cache: Some(true) });
    measured.flushes = Flushes {
        appended: times(2_500, 9_000),
        overwritten: times(1_250, 8_000),
        direct: Ok(times(5_850, 20_000)),
        committed: times(1_300, 9_000),
        ..measured.flushes
    };
    measured
}

fn promise() -> Promise {
    let settings = Settings { flush_interval: Duration::from_millis(20), ..Settings::new("", "") };
    Promise::of(&settings, Duration::from_millis(250))
}

fn judged(measured: &Measured) -> Diagnosis {
    let diagnosis = judge(measured, &promise());
    assert!(diagnosis.sentence.len() <= SENTENCE_BYTES_MAX, "{}", diagnosis.sentence);
    assert!(
        diagnosis.sentence.ends_with('.') && !diagnosis.sentence.contains(". "),
        "{}",
        diagnosis.sentence
    );
    diagnosis
}

/// What failed, by subject, and the sentence.
fn failing(measured: &Measured) -> (Vec<&'static str>, String) {
    let Diagnosis { findings, sentence } = judged(measured);
    let failed = findings.iter().filter(|one| one.verdict == Verdict::Fail).map(|one| one.subject);
    (failed.collect(), sentence)
}

fn detail(measured: &Measured, subject: &str) -> (Verdict, String) {
    let findings = judged(measured).findings;
    let found: BTreeMap<_, _> = findings.into_iter().map(|one| (one.subject, one)).collect();
    (found[subject].verdict, found[subject].detail.clone())
}

#[test]
fn a_fast_drive_and_a_slow_one_keep_what_they_are_believed_to() {
    let (failed, sentence) = failing(&fast());
    assert_eq!(failed, [""; 0]);
    assert_eq!(
        sentence,
        "An answer that waits for the disk survives a power cut if nvme0n1 has no volatile cache, as it says; one that does not \
         survives kill -9, and a power cut takes back those of the last 21 ms, or of 1020 ms while the disk stalls; a checkpoint \
         over all of it is signed every 1 s."
    );
    let (failed, sentence) = failing(&slow());
    assert_eq!(failed, [""; 0]);
    assert!(sentence.contains("if sda honours flushes") && sentence.contains("the last 39 ms"), "{sentence}");
    let mut guest = slow();
    guest.below.is_virtual = true;
    assert!(failing(&guest).1.contains("if the hypervisor passes flushes on and its disk honours them"));
    let mut nameless = slow();
    nameless.below.device = None;
    nameless.signing = Signing::NotMeasured;
    let (failed, sentence) = failing(&nameless);
    assert_eq!(failed, [""; 0]);
    assert!(sentence.contains("if what lies below ext4 honours flushes"), "{sentence}");
    assert!(sentence.contains("how fast checkpoints are signed was not measured"), "{sentence}");
}

#[test]
fn a_drive_that_answers_sooner_than_any_can_store_is_not_believed() {
    let mut lying = fast();
    lying.flushes.overwritten = times(2, 9);
    lying.flushes.committed = times(1, 9);
    let (failed, sentence) = failing(&lying);
    assert_eq!(failed, ["overwrite", "commit"]);
    assert!(sentence.starts_with("Nothing here is sure to survive a power cut"), "{sentence}");
    assert!(sentence.contains("acknowledges before it stores (1.0 us for 4 KiB)"), "{sentence}");
    assert!(detail(&lying, "commit").1.contains("implausibly fast"));
    // As fast as the fastest there is.
    let mut optane = fast();
    optane.flushes.committed = times(5, 9);
    assert_eq!(failing(&optane).0, [""; 0]);
    // Memory that is kept alive is a device of its own.
    lying.below.device = Some(Device { name: "pmem0".to_owned(), volatile_cache: None });
    assert_eq!(failing(&lying).0, [""; 0]);
}

#[test]
fn a_drive_whose_two_promises_of_the_same_differ_too_much_is_not_believed() {
    let mut lying = slow();
    lying.flushes.overwritten = times(361, 900);
    lying.flushes.committed = times(380, 900);
    lying.flushes.direct = Ok(times(11, 900));
    let (failed, sentence) = failing(&lying);
    assert_eq!(failed, ["o_dsync"]);
    assert!(detail(&lying, "o_dsync").1.contains("33 times as fast as fdatasync"), "{lying:?}");
    assert!(sentence.contains("acknowledges before it stores (11 us for 4 KiB)"), "{sentence}");
    // Slower than a cell is programmed: it may have stored that block and fdatasync all it held.
    lying.flushes.direct = Ok(times(31, 900));
    assert_eq!(failing(&lying).0, [""; 0]);
    // Its memory is kept alive, so all of it is quick.
    lying.flushes.direct = Ok(times(11, 900));
    lying.flushes.overwritten = times(25, 900);
    assert_eq!(failing(&lying).0, [""; 0]);
    // Slower through O_DSYNC, as some are.
    assert_eq!(detail(&slow(), "o_dsync").0, Verdict::Pass);
    let mut without = slow();
    without.flushes.direct = Err("Invalid argument".to_owned());
    assert_eq!(
        detail(&without, "o_dsync"),
        (Verdict::Note, "cannot be tried here: Invalid argument".to_owned())
    );
}

#[test]
fn what_is_no_disk_is_no_place_for_a_log() {
    for (name, kept_by, words) in [
        ("tmpfs", KeptBy::Memory, "tmpfs is memory"),
        ("nfs", KeptBy::Network, "another machine decides what a flush to nfs means"),
        ("fuse", KeptBy::Program, "a program decides what a flush to fuse means"),
        ("unknown", KeptBy::Unknown, "this file system is not known"),
    ] {
        let mut measured = fast();
        measured.file_system =
            FileSystem { name, magic: 0x1234, kept_by, sink: SinkKind::Pwrite, shares_blocks: false };
        // However quick it is: the reason is another.
        measured.flushes.committed = times(1, 2);
        let (failed, sentence) = failing(&measured);
        assert_eq!(failed, ["file system"], "{name}");
        assert!(sentence.contains(words), "{sentence}");
    }
    let mut overlay = fast();
    overlay.file_system = FileSystem { name: "overlay", kept_by: KeptBy::Below, ..overlay.file_system };
    overlay.below.device = None;
    assert_eq!(detail(&overlay, "file system").0, Verdict::Note);
    assert!(failing(&overlay).1.contains("if what lies below overlay honours flushes"));
    overlay.below.unflushed_by = Some("volatile");
    let (failed, sentence) = failing(&overlay);
    assert_eq!(failed, ["device"]);
    assert!(sentence.contains("no flush reaches the disk of a mount with volatile"), "{sentence}");
}

#[test]
fn how_segments_are_written_and_why_is_said() {
    assert_eq!(detail(&fast(), "segments").0, Verdict::Pass);
    let mut reflink = fast();
    reflink.file_system = FileSystem {
        name: "xfs",
        magic: 0x5846_5342,
        sink: SinkKind::Pwrite,
        shares_blocks: true,
        ..reflink.file_system
    };
    let (verdict, why) = detail(&reflink, "segments");
    assert_eq!(verdict, Verdict::Note);
    assert!(why.contains("pwrite") && why.contains("reflink"), "{why}");
}

#[test]
fn a_commit_that_rewrites_megabytes_is_found() {
    let with = |by_process: Option<u64>, to_device: Option<u64>| {
        let mut measured = fast();
        measured.flushes.written = Written { commits: 200, by_process, to_device };
        detail(&measured, "written")
    };
    assert_eq!(with(Some(200 * 4096), Some(200 * 4300)).0, Verdict::Pass);
    assert_eq!(with(Some(200 * 16_384), None).0, Verdict::Note);
    let (verdict, why) = with(Some(200 * (2 << 20)), None);
    assert!(verdict == Verdict::Fail && why.contains("folios"), "{why}");
    let (verdict, why) = with(None, None);
    assert!(verdict == Verdict::Note && why.contains("cannot be read"), "{why}");
}

#[test]
fn how_long_the_room_lasts_is_said_at_the_rate_of_the_log() {
    let with = |free: u64, rate: Option<Rate>| {
        let mut measured = fast();
        measured.room = Room { free, rate };
        detail(&measured, "room")
    };
    assert_eq!(with(500 << 30, None).0, Verdict::Pass);
    assert_eq!(with(3 << 30, None).0, Verdict::Note);
    assert_eq!(with(1 << 30, None).0, Verdict::Fail);
    assert_eq!(with(1 << 20, None).0, Verdict::Fail);
    // A GiB an hour.
    let rate = Some(Rate { bytes: 2 << 30, over: Duration::from_secs(7200) });
    let (verdict, why) = with(10 << 30, rate);
    assert_eq!(verdict, Verdict::Note, "full within a day: {why}");
    assert!(why.contains("low in 2.0 h, scarce in 8.0 h, full in 9.9 h"), "{why}");
    let (_, why) = with(500 << 30, Some(Rate { bytes: 1 << 19, over: Duration::from_secs(600) }));
    assert!(why.contains("of the last 10 min, low in ") && why.contains("full in over ten years"), "{why}");
    let (_, why) = with(600 << 30, Some(Rate { bytes: 2 << 30, over: Duration::from_secs(7200) }));
    assert!(why.contains("of the last 2.0 h, low in 25 days"), "{why}");
    let idle = Some(Rate { bytes: 0, over: Duration::from_secs(7200) });
    assert!(with(500 << 30, idle).1.ends_with("low in never, scarce in never, full in never"));
}

#[test]
fn a_key_that_is_too_slow_or_cannot_sign_is_found() {
    let with = |signing: Signing| {
        let mut measured = fast();
        measured.signing = signing;
        let (failed, sentence) = failing(&measured);
        (failed == ["signing"], detail(&measured, "signing").0, sentence)
    };
    let (failed, _, sentence) = with(Signing::Signs(times(2_500_000, 3_000_000)));
    assert!(failed && sentence.ends_with("checkpoints are 2.5 s apart at best."), "{sentence}");
    assert_eq!(with(Signing::Signs(times(125_000, 1_500_000))).1, Verdict::Note);
    let (failed, _, sentence) = with(Signing::Fails("away".to_owned()));
    assert!(failed && sentence.contains("no checkpoint can be signed"), "{sentence}");

    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let signer =
        |sign: crate::audit::Sign| CheckpointSigner { verifying_key: key.verifying_key().to_bytes(), sign };
    let signing = key.clone();
    let mut good = signer(Box::new(move |message| {
        assert!(message.contains(&0), "no checkpoint");
        Ok(ed25519_dalek::Signer::sign(&signing, message).to_bytes())
    }));
    assert!(matches!(measure_signing(&mut good), Signing::Signs(Latency { count: 50, .. })));
    let mut wrong = signer(Box::new(|_| Ok([0; 64])));
    assert_eq!(measure_signing(&mut wrong), Signing::Fails("a signature of it does not verify".to_owned()));
    let mut away = signer(Box::new(|_| Err(SignError("away".to_owned()))));
    assert_eq!(measure_signing(&mut away), Signing::Fails("away".to_owned()));
}

#[test]
fn answers_that_the_disk_keeps_waiting_too_long_are_found() {
    let with = |median_us, worst_us| {
        let mut measured = slow();
        measured.flushes.committed = times(median_us, worst_us);
        detail(&measured, "commit").0
    };
    assert_eq!(with(10_000, 200_000), Verdict::Pass);
    assert_eq!(with(10_000, 260_000), Verdict::Note);
    assert_eq!(with(260_000, 300_000), Verdict::Fail);
}

#[test]
fn a_clock_that_jumps_or_was_never_set_is_said() {
    let with = |clocks: Clocks| {
        let mut measured = fast();
        measured.clocks = clocks;
        detail(&measured, "clock").0
    };
    let good = fast().clocks;
    assert_eq!(with(good), Verdict::Pass);
    assert_eq!(with(Clocks { step: Duration::from_secs(3600), ..good }), Verdict::Note);
    assert_eq!(with(Clocks { synchronised: Some(false), ..good }), Verdict::Note);
    assert_eq!(with(Clocks { wall_s: 100, ..good }), Verdict::Fail);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_probes_leave_nothing_behind_however_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("other"), b"stays").unwrap();
    let probes = dir.join("doctor");
    let examine = |progress: &mut dyn FnMut(usize, usize) -> bool| {
        examine(dir, &promise(), Signing::NotMeasured, progress)
    };
    let mut most = 0;
    let measured = examine(&mut |done, flushes| {
        most = most.max(done);
        assert!(done <= flushes && probes.is_dir());
        true
    });
    let measured = measured.unwrap();
    assert!(most > 4 && measured.flushes.committed.count >= 1, "{measured:?}");
    assert!(measured.flushes.committed.median <= measured.flushes.committed.worst);
    assert_eq!(names(dir), ["other"]);

    // Stopped in the middle.
    let stopped = examine(&mut |done, _| done < 10);
    assert!(matches!(stopped, Err(DoctorError::Interrupted)), "{stopped:?}");
    assert_eq!(names(dir), ["other"]);

    // A run that was killed left its folder; another that goes on is not disturbed.
    fs::DirBuilder::new().mode(0o700).create(&probes).unwrap();
    fs::write(probes.join("growing"), b"of a killed run").unwrap();
    let stopped = examine(&mut |done, _| done < 10);
    assert!(matches!(stopped, Err(DoctorError::Interrupted)), "{stopped:?}");
    assert_eq!(names(dir), ["other"]);
    let scratch = Scratch::make(dir).unwrap();
    assert!(matches!(examine(&mut |_, _| true), Err(DoctorError::Busy { .. })));
    assert!(probes.is_dir(), "the other run's");
    drop(scratch);

    // Nor through a link, nor over a file.
    symlink("/nowhere", &probes).unwrap();
    assert!(matches!(examine(&mut |_, _| true), Err(DoctorError::InTheWay { .. })));
    fs::remove_file(&probes).unwrap();
    assert!(matches!(
        super::examine(&dir.join("none"), &promise(), Signing::NotMeasured, &mut |_, _| true),
        Err(DoctorError::NotFound { .. })
    ));
    let mut greedy = promise();
    greedy.watermarks.full_bytes = u64::MAX;
    let refused = super::examine(dir, &greedy, Signing::NotMeasured, &mut |_, _| true);
    assert!(matches!(refused, Err(DoctorError::NoRoom { .. })), "{refused:?}");
    assert_eq!(names(dir), ["other"]);
}
