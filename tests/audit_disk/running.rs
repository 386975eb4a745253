//! The folder of a running log: read meanwhile, and wanted by two.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use edgate::audit::{
    Ack, AuditError, Opened, open,
    verify::{Options, verify_dir},
};

use crate::{PATIENCE, decision, settings, whole};

#[test]
fn a_log_that_rolls_under_load_verifies_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let mut settings = settings(&dir);
    settings.segment_bytes = 256 << 10;
    let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (appender, stop) = (&mut appenders[0], &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let id = appender.append(&decision(), Ack::Recorded).unwrap();
                appender.wait(id, Ack::Recorded, PATIENCE).unwrap();
            }
        });
        let mut looks = 0;
        while looks < 10 || log.status().segment < 5 {
            let upto = Some(log.status().durable_size);
            let options = Options { allow_unsigned: true, upto, ..Options::default() };
            let report = verify_dir(&dir, &options, &mut |_| {}).unwrap();
            assert_eq!((report.breaks, Some(report.size)), (vec![], upto));
            looks += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    log.close(PATIENCE).unwrap();
    whole(&dir);
}

#[test]
fn a_process_that_is_slow_to_die_is_waited_for_and_one_that_lives_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    drop(open(&settings(&dir), 1).unwrap());
    for (seconds, opens) in [("0.2", true), ("30", false)] {
        // Holds the lock as io_uring may hold a killed process's files.
        let mut holder = Command::new("flock")
            .arg("--no-fork")
            .arg(dir.join("LOCK"))
            .args(["sh", "-c", &format!("echo held; exec sleep {seconds}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        let opened = open(&settings(&dir), 1);
        let locked = matches!(opened, Err(AuditError::Locked { .. }));
        assert_eq!((opened.is_ok(), locked), (opens, !opens), "{:?}", opened.err());
        let _ = holder.kill();
        holder.wait().unwrap();
    }
}
