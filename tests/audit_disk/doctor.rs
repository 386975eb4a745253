//! `edgate audit doctor` on disks of several kinds, and where there is nothing to examine.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::disk::{FileSystem, Mounted, refused};

fn doctor(dir: &Path, more: &[&str]) -> Output {
    command(dir).args(more).output().unwrap()
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgate"));
    command.args(["audit", "doctor", "--unrecorded", "--dir"]).arg(dir);
    command
}

/// Subjects that failed.
fn failed(said: &Value) -> Vec<&str> {
    let findings = said["findings"].as_array().unwrap().iter();
    findings.filter(|one| one["verdict"] == "fail").map(|one| one["subject"].as_str().unwrap()).collect()
}

fn detail<'a>(said: &'a Value, subject: &str) -> &'a str {
    let findings = said["findings"].as_array().unwrap();
    findings.iter().find(|one| one["subject"] == subject).unwrap()["detail"].as_str().unwrap()
}

#[test]
fn the_doctor_says_of_each_file_system_how_a_log_is_written_there_and_leaves_nothing() {
    for (kind, shared, words) in [
        (FileSystem::Ext4, false, "segments are mapped"),
        (FileSystem::XfsWithoutReflink, false, "segments are mapped"),
        (FileSystem::Xfs, true, "reflink"),
    ] {
        let Some(disk) = Mounted::new(kind, 512) else { return };
        let dir = disk.path().join("audit");
        fs::create_dir(&dir).unwrap();
        let examined = doctor(&dir, &["--json"]);
        let said: Value = serde_json::from_slice(&examined.stdout).unwrap();
        // An image of 512 MiB is a small one.
        assert_eq!((examined.status.code(), failed(&said)), (Some(1), vec!["room"]), "{kind:?}: {said}");
        assert!(detail(&said, "segments").contains(words), "{kind:?}: {said}");
        let measured = &said["measured"];
        assert_eq!(
            (&measured["file_system"], &measured["shares_blocks"]),
            (&kind.name().into(), &shared.into())
        );
        for flush in ["append", "overwrite", "o_dsync", "commit"] {
            assert!(measured[flush]["count"].as_u64() > Some(0), "{kind:?}, {flush}: {said}");
        }
        assert!(measured["bytes_by_process"].as_u64() > Some(0), "{said}");
        assert!(measured["bytes_to_device"].as_u64() > Some(0), "{said}");
        assert!(measured["device"].as_str().unwrap().starts_with("loop"), "{said}");
        assert!(
            said["sentence"].as_str().unwrap().starts_with("An answer that waits for the disk"),
            "{said}"
        );
        assert_eq!((&said["record"], &said["fit"]), (&Value::Null, &false.into()));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{kind:?}: nothing is left behind");
    }
}

#[test]
fn the_doctor_calls_memory_not_durable() {
    let shm = Path::new("/dev/shm");
    let Ok(folder) = tempfile::tempdir_in(shm) else {
        return refused("make a folder in /dev/shm").unwrap_or(());
    };
    let shown = doctor(folder.path(), &[]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(1), "{text}");
    assert!(text.contains("tmpfs is not durable: it is memory"), "{text}");
    assert!(text.contains("Nothing here survives a power cut or a restart of the machine"), "{text}");
    assert!(text.contains("not recorded: "), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_doctor_refuses_by_name_where_nothing_can_be_measured() {
    let none = doctor(Path::new("/no/such/folder"), &[]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("no folder /no/such/folder"), "{none:?}");

    let Some(disk) = Mounted::new(FileSystem::Ext4, 512) else { return };
    disk.fill();
    let full = doctor(&disk.path(), &[]);
    assert_eq!(full.status.code(), Some(2), "{full:?}");
    assert!(String::from_utf8_lossy(&full.stderr).contains("not enough room in "), "{full:?}");
    disk.relieve();
    if !disk.remount("ro") {
        return refused("remount").unwrap_or(());
    }
    let read_only = doctor(&disk.path(), &[]);
    assert_eq!(read_only.status.code(), Some(70), "{read_only:?}");
    let said = String::from_utf8_lossy(&read_only.stderr);
    assert!(
        said.contains("cannot make the probes' folder ") && said.contains("Read-only file system"),
        "{said}"
    );
    assert!(!disk.path().join("doctor").exists());
}

#[test]
fn the_doctor_leaves_nothing_when_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let probes = folder.path().join("doctor");
    // It may be done before the signal is there; some time it is not.
    let interrupted = (0..20).any(|_| {
        let mut child = command(folder.path()).stdout(std::process::Stdio::null()).spawn().unwrap();
        while !probes.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(0 | 1 | 70)), "{code:?}");
        assert!(!probes.exists(), "nothing is left behind");
        code == Some(70)
    });
    assert!(interrupted);
}
