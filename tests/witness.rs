//! `edgate audit witness` over a real socket, and what the kernel sees of it: nothing is cosigned before it is on the disk,
//! and a witness that is killed anywhere forgets nothing that it cosigned.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edgate::audit::note::Checkpoint;
use edgate::audit::{Ack, CheckpointKey, Event, Settings, StopEvent, WitnessKey, cosignatures, open_signed};

#[path = "support/logs.rs"]
#[allow(dead_code, reason = "each test program uses a part of this")]
mod logs;

#[path = "support/witness.rs"]
mod witness;

use logs::{signer, signing_key};
use witness::{Witness, WitnessFolder};

const PATIENCE: Duration = Duration::from_secs(30);
const ORIGIN: &str = "test.example/log";
const EDGATE: &str = env!("CARGO_BIN_EXE_edgate");

fn key() -> CheckpointKey {
    CheckpointKey::new(ORIGIN, signing_key().verifying_key().to_bytes())
}

/// Adds events to the log in `dir` and closes it; returns its checkpoint.
fn grow(dir: &Path, events: usize) -> String {
    let settings = Settings { segment_bytes: 160 * 1024, create: true, ..Settings::new(dir, ORIGIN) };
    let mut opened = open_signed(&settings, 1, Some(signer())).unwrap();
    for n in 0..events {
        let reason = format!("event {n}");
        let id =
            opened.appenders[0].append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap();
        opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    }
    opened.log.close(PATIENCE).unwrap();
    fs::read_to_string(dir.join("checkpoint")).unwrap()
}

/// The request that leads from a checkpoint to the log's, as `audit prove` makes it.
fn request(dir: &Path, old: Option<&str>) -> Vec<u8> {
    let Some(old) = old else {
        return format!("old 0\n\n{}", fs::read_to_string(dir.join("checkpoint")).unwrap()).into_bytes();
    };
    let file = dir.join("old");
    fs::write(&file, old).unwrap();
    let made = Command::new(EDGATE)
        .args(["audit", "prove", "--consistency", file.to_str().unwrap(), "--dir", dir.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    made.stdout
}

struct Setting {
    folder: tempfile::TempDir,
    witness: WitnessFolder,
}

impl Setting {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), witness: WitnessFolder::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, wrapper: &[&str]) -> Witness {
        self.witness.start(&key(), "127.0.0.1:0", wrapper)
    }
}

/// Status, content type and body; `None` if there was no answer.
fn post(at: SocketAddr, body: &[u8]) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Some((status, kind.to_owned(), body.to_owned()))
}

fn size(note: &str) -> u64 {
    Checkpoint::read_unverified(note).unwrap().size
}

#[test]
fn a_log_is_cosigned_over_http_and_the_cosigned_checkpoint_anchors_it() {
    let setting = Setting::new();
    let dir = setting.path("audit");
    let witness = setting.start(&[]);
    let first = grow(&dir, 5);
    let (status, _, line) = post(witness.at, &request(&dir, None)).unwrap();
    assert_eq!(status, 200, "{line}");
    assert_eq!(
        cosignatures(&(first.clone() + &line), std::slice::from_ref(&setting.witness.key)).unwrap().len(),
        1
    );
    let second = grow(&dir, 40);
    let (status, kind, body) = post(witness.at, &request(&dir, None)).unwrap();
    assert_eq!((status, kind.as_str(), body), (409, "text/x.tlog.size", format!("{}\n", size(&first))));
    let (status, _, line) = post(witness.at, &request(&dir, Some(&first))).unwrap();
    assert_eq!(status, 200, "{line}");
    // An answer that was lost is asked for again.
    let (status, _, again) = post(witness.at, &request(&dir, Some(&second))).unwrap();
    assert_eq!((status, again.split(' ').nth(1)), (200, line.split(' ').nth(1)));
    for (body, status) in [(b"old x\n\n".to_vec(), 400), (b"GET".repeat(100_000), 400)] {
        assert_eq!(post(witness.at, &body).map(|answer| answer.0), Some(status));
    }

    let anchor = setting.path("anchor");
    fs::write(&anchor, second + &line).unwrap();
    let verify = |key: &WitnessKey| {
        Command::new(EDGATE)
            .args(["audit", "verify", "--dir", dir.to_str().unwrap(), "--anchor", anchor.to_str().unwrap()])
            .args(["--witness", &key.to_text()])
            .output()
            .unwrap()
    };
    let verified = verify(&setting.witness.key);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).contains("cosigned by w.example at "), "{verified:?}");
    let other = WitnessKey { verifying_key: [1; 32], ..setting.witness.key };
    assert_eq!(verify(&other).status.code(), Some(10), "another witness's word is none");
}

#[test]
fn a_witness_needs_its_key_its_memory_and_a_log() {
    let setting = Setting::new();
    let run =
        |more: &[&str]| Command::new(EDGATE).args(setting.witness.arguments()).args(more).output().unwrap();
    let code = |more: &[&str]| run(more).status.code();
    assert_eq!(code(&["--init"]), Some(78), "nothing is made twice");
    assert_eq!(code(&[]), Some(2), "no log");
    assert_eq!(code(&["--log", "x"]), Some(2));
    assert_eq!(code(&["--logs", "/nowhere"]), Some(2));
    fs::rename(setting.witness.memory(), setting.path("lost")).unwrap();
    let lost = run(&["--log", &key().to_text()]);
    assert_eq!(lost.status.code(), Some(78), "{lost:?}");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("remembers nothing"), "{lost:?}");
}

/// The order in which the kernel is asked: the new file is flushed, then renamed, then the folder is flushed, then the
/// answer leaves.
#[test]
fn nothing_is_cosigned_before_it_is_on_the_disk() {
    if !strace() {
        return;
    }
    let setting = Setting::new();
    let dir = setting.path("audit");
    grow(&dir, 3);
    let trace = setting.path("trace");
    let calls = "--trace=fsync,rename,renameat,renameat2,write,writev,sendto,sendmsg";
    let witness =
        setting.start(&["strace", "-D", "-f", "-y", "-s", "256", "-o", trace.to_str().unwrap(), calls]);
    assert_eq!(post(witness.at, &request(&dir, None)).unwrap().0, 200);
    drop(witness);
    // strace stands beside the witness, so that killing one does not leave the other, and writes its end a moment later.
    let trace = loop {
        let trace = fs::read_to_string(&trace).unwrap();
        if trace.contains("+++ killed by SIGKILL +++") {
            break trace;
        }
        std::thread::yield_now();
    };
    let at = |what: &str, part: &str| {
        let found = trace.lines().position(|line| line.contains(what) && line.contains(part));
        found.unwrap_or_else(|| panic!("no {what} of {part}:\n{trace}"))
    };
    let order = [
        at("fsync(", ".checkpoint.new>"),
        at("rename", ".checkpoint.new"),
        at("fsync(", "/memory>"),
        at("HTTP/1.1 200 OK", ""),
    ];
    assert!(order.is_sorted(), "{order:?}\n{trace}");
}

/// Killed at every call that makes a checkpoint last, it either did not answer, or remembers what it answered.
#[test]
fn a_witness_killed_at_any_step_forgets_nothing_that_it_cosigned() {
    if !strace() {
        return;
    }
    let setting = Setting::new();
    let dir = setting.path("audit");
    let first = grow(&dir, 3);
    assert_eq!(post(setting.start(&[]).at, &request(&dir, None)).unwrap().0, 200);
    let mut last = first;
    for (call, when) in
        [("openat", "path"), ("write", "draft"), ("fsync", "1"), ("rename", "1"), ("fsync", "2")]
    {
        let new = grow(&dir, 2);
        let body = request(&dir, Some(&last));
        let memory = setting.witness.memory();
        let draft = fs::read_dir(&memory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "checkpoint"))
            .unwrap()
            .with_extension("checkpoint.new");
        let inject = match when {
            "path" | "draft" => format!("--inject={call}:signal=SIGKILL:when=1"),
            when => format!("--inject={call}:signal=SIGKILL:when={when}"),
        };
        let only = format!("--trace-path={}", draft.display());
        let (trace, output) = (format!("--trace={call}"), setting.path("killed"));
        let mut wrapper = vec!["strace", "-D", "-f", "-o", output.to_str().unwrap(), &trace, &inject];
        if matches!(when, "path" | "draft") {
            wrapper.push(&only);
        }
        let witness = setting.start(&wrapper);
        let answer = post(witness.at, &body);
        assert!(answer.is_none(), "{call} {when}: {answer:?}");
        drop(witness);
        // After the crash it knows the one or the other, and goes on from what it knows.
        let witness = setting.start(&[]);
        let (status, _, told) = post(witness.at, &body).unwrap();
        match status {
            200 => {}
            409 => {
                assert_eq!(told, format!("{}\n", size(&new)), "{call} {when}");
                assert_eq!(post(witness.at, &request(&dir, Some(&new))).unwrap().0, 200);
            }
            other => panic!("{call} {when}: {other} {told}"),
        }
        // Never back.
        let (status, _, told) = post(witness.at, &request(&dir, Some(&last))).unwrap();
        assert_eq!((status, told), (409, format!("{}\n", size(&new))), "{call} {when}");
        last = new;
    }
}

/// In CI it must be there; elsewhere its absence is said.
fn strace() -> bool {
    let found = Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("EDGATE_NO_SKIP").is_none(), "strace is not installed and CI skips nothing");
        eprintln!("SKIPPED: strace is not installed");
    }
    found
}
