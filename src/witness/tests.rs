//! A witness and its logs: what is cosigned, what is not, and what it remembers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use super::judge::{PATH_LINES_MAX, Refusal, Request};
use super::{Answer, Cosigner, CosignerError, KnownLog, parse_list};
use crate::audit::merkle::CompactRange;
use crate::audit::note::Checkpoint;
use crate::audit::proof::{ConsistencyProof, consistency_path};
use crate::audit::{CheckpointKey, cosignatures, record::Hash};

const NOW: u64 = 1_700_000_000;

/// A log in memory, which signs whatever it is told to.
#[derive(Clone)]
struct TestLog {
    origin: String,
    signing: SigningKey,
    leaves: Vec<Hash>,
}

impl TestLog {
    fn new(origin: &str, seed: u8, leaves: usize) -> Self {
        let leaf = |n: usize| Sha256::digest([&[seed], &n.to_be_bytes()[..]].concat()).into();
        Self {
            origin: origin.into(),
            signing: SigningKey::from_bytes(&[seed; 32]),
            leaves: (0..leaves).map(leaf).collect(),
        }
    }

    fn key(&self) -> CheckpointKey {
        CheckpointKey::new(self.origin.clone(), self.signing.verifying_key().to_bytes())
    }

    fn known(&self) -> KnownLog {
        KnownLog::of_key(self.key())
    }

    fn head(&self, run: std::ops::Range<u64>) -> Hash {
        let mut tree = CompactRange::new(0);
        let run = usize::try_from(run.start).unwrap()..usize::try_from(run.end).unwrap();
        self.leaves[run].iter().for_each(|leaf| tree.push(leaf));
        tree.root().unwrap()
    }

    fn checkpoint(&self, size: u64) -> Checkpoint {
        Checkpoint { origin: self.origin.clone(), size, root: self.head(0..size) }
    }

    fn note(&self, checkpoint: &Checkpoint) -> String {
        let signature = self.signing.sign(checkpoint.to_text().as_bytes()).to_bytes();
        checkpoint.to_note(&self.key(), &signature)
    }

    fn request(&self, old: u64, new: u64) -> Vec<u8> {
        let path = consistency_path(old, new).into_iter().map(|run| self.head(run)).collect();
        let note = self.note(&self.checkpoint(new));
        ConsistencyProof { old_size: old, path, note }.to_text().into_bytes()
    }
}

struct Setting {
    folder: tempfile::TempDir,
    log: TestLog,
}

impl Setting {
    fn new() -> Self {
        let setting =
            Self { folder: tempfile::tempdir().unwrap(), log: TestLog::new("a.example/log", 1, 200) };
        Cosigner::create(&setting.key(), &setting.dir(), "w.example").unwrap();
        setting
    }

    fn key(&self) -> std::path::PathBuf {
        self.folder.path().join("key")
    }

    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join("logs")
    }

    fn open(&self) -> Cosigner {
        self.open_with(vec![self.log.known()]).unwrap()
    }

    fn open_with(&self, logs: Vec<KnownLog>) -> Result<Cosigner, CosignerError> {
        Cosigner::open(&self.key(), &self.dir(), "w.example", logs)
    }
}

/// The cosigned checkpoint's size, or the status of the refusal.
fn outcome(log: &TestLog, witness: &Cosigner, body: &[u8]) -> Result<u64, u16> {
    match witness.add_checkpoint(body, NOW) {
        Answer::Cosigned(line) => {
            let note = Request::parse(body).unwrap().authenticate(&[log.key()]).unwrap().note().to_owned();
            let found = cosignatures(&(note.clone() + &line), std::slice::from_ref(witness.key())).unwrap();
            assert_eq!((found.len(), found[0].time), (1, NOW), "{line}");
            Ok(Checkpoint::read_unverified(&note).unwrap().size)
        }
        Answer::Refused(refusal) => Err(refusal.status()),
        Answer::TooMany => Err(429),
        Answer::Unavailable => Err(503),
    }
}

#[test]
fn a_log_that_grows_is_cosigned_at_each_step() {
    let setting = Setting::new();
    let (log, witness) = (&setting.log, setting.open());
    let mut old = 0;
    for new in [0, 0, 1, 1, 2, 5, 64, 64, 65, 127, 200] {
        assert_eq!(outcome(log, &witness, &log.request(old, new)), Ok(new));
        old = new;
    }
    drop(witness);
    // It remembers: the same again is cosigned again, what is older is not.
    let witness = setting.open();
    assert_eq!(outcome(log, &witness, &log.request(200, 200)), Ok(200));
    assert_eq!(outcome(log, &witness, &log.request(127, 200)), Err(409));
    let Answer::Refused(Refusal::Conflict { size }) = witness.add_checkpoint(&log.request(0, 5), NOW) else {
        panic!("an older state was cosigned");
    };
    assert_eq!(size, 200);
}

#[test]
fn every_answer_is_the_one_that_the_specification_names() {
    let setting = Setting::new();
    let (log, witness) = (&setting.log, setting.open());
    let good = log.request(0, 10);
    let stranger = TestLog { signing: SigningKey::from_bytes(&[9; 32]), ..log.clone() };
    let unknown = TestLog { origin: "b.example/log".into(), ..log.clone() };
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    let long = format!("old 0\n{}\n{}", "A".repeat(43) + "=\n", log.note(&log.checkpoint(10)));
    let many = format!(
        "old 5\n{}\n{}",
        format!("{}=\n", "A".repeat(43)).repeat(PATH_LINES_MAX + 1),
        log.note(&log.checkpoint(10))
    );
    let extension = text(&good).replacen("\n\n\u{2014}", "\nextension\n\n\u{2014}", 1);
    for (body, status, why) in [
        (b"".to_vec(), 400, "nothing"),
        (good[..good.len() - 1].to_vec(), 400, "cut short"),
        (good[..good.len() / 2].to_vec(), 400, "cut in half"),
        (b"old 00\n\n".to_vec(), 400, "leading zeroes"),
        (text(&good).replacen("old 0", "old 11", 1).into_bytes(), 400, "old above the checkpoint's size"),
        (many.into_bytes(), 400, "more than 63 lines"),
        (vec![b'x'; 1 << 20], 400, "a mebibyte"),
        (extension.into_bytes(), 400, "extension lines are not accepted here"),
        (stranger.request(0, 10), 403, "another key"),
        (text(&good).split_inclusive("\n\n").take(2).collect::<String>().into_bytes(), 403, "no signature"),
        (text(&good).replacen("\n10\n", "\n11\n", 1).into_bytes(), 403, "altered"),
        (unknown.request(0, 10), 404, "unknown log"),
        (log.request(5, 10), 409, "old is not what was cosigned"),
        (long.into_bytes(), 422, "a proof where there must be none"),
    ] {
        assert_eq!(outcome(log, &witness, &body), Err(status), "{why}");
    }
    assert_eq!(outcome(log, &witness, &good), Ok(10));
    // A fork signed by the log's own key.
    let mut fork = log.clone();
    fork.leaves[3][0] ^= 1;
    assert_eq!(outcome(log, &witness, &fork.request(10, 10)), Err(409), "another root of the same size");
    assert_eq!(outcome(log, &witness, &fork.request(10, 20)), Err(422), "does not continue it");
    assert_eq!(outcome(log, &witness, &log.request(10, 20)), Ok(20), "the true log goes on");
    let kept = forks(&setting);
    assert_eq!(
        kept,
        [fork.note(&fork.checkpoint(10)), log.note(&log.checkpoint(10))],
        "they convict the log"
    );
}

/// The notes that are kept as evidence, the refused ones first.
fn forks(setting: &Setting) -> Vec<String> {
    let Ok(entries) = fs::read_dir(setting.dir().join("forks")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_by_key(|path| path.extension().is_some_and(|end| end == "remembered"));
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn both_heads_of_a_fork_are_kept_once_for_each_log_and_nothing_that_came_with_them() {
    let setting = Setting::new();
    let (one, two) = (setting.log.clone(), TestLog::new("b.example/log", 2, 200));
    let witness = setting.open_with(vec![one.known(), two.known()]).unwrap();
    let with_more =
        |body: Vec<u8>, n: usize| [body, format!("\u{2014} x{n} AAAAAAAA\n").into_bytes()].concat();
    let fork = |log: &TestLog, at: usize| {
        let mut fork = log.clone();
        fork.leaves[at][0] ^= 1;
        fork
    };
    assert_eq!(outcome(&one, &witness, &with_more(one.request(0, 10), 1)), Ok(10));
    // Whoever has one fork can write as many lines below it as they like. Which old size it names makes no difference.
    for n in 0..70 {
        let old = if n == 0 { 0 } else { 10 };
        assert_eq!(outcome(&one, &witness, &with_more(fork(&one, 3).request(old, 10), n)), Err(409));
    }
    assert_eq!(outcome(&one, &witness, &fork(&one, 4).request(10, 10)), Err(409));
    let of_one = [fork(&one, 3).note(&fork(&one, 3).checkpoint(10)), one.note(&one.checkpoint(10))];
    assert_eq!(forks(&setting), of_one);
    // What is remembered goes on, the evidence stays; and another log's is not kept out by it.
    assert_eq!(outcome(&one, &witness, &one.request(10, 20)), Ok(20));
    assert_eq!(outcome(&two, &witness, &two.request(0, 10)), Ok(10));
    assert_eq!(outcome(&two, &witness, &fork(&two, 3).request(10, 10)), Err(409));
    let kept = forks(&setting);
    assert!(kept.len() == 4 && of_one.iter().all(|note| kept.contains(note)), "{kept:?}");
    for note in kept {
        assert!(Checkpoint::open(&note, &[one.key(), two.key()]).is_ok_and(|head| head.size == 10), "{note}");
    }
}

#[test]
fn no_altered_request_is_cosigned() {
    let setting = Setting::new();
    let (log, witness) = (&setting.log, setting.open());
    assert_eq!(outcome(log, &witness, &log.request(0, 77)), Ok(77));
    let good = log.request(77, 150);
    let signature = good.len() - 96;
    for at in 0..good.len() {
        let mut altered = good.clone();
        altered[at] ^= 1;
        assert!(outcome(log, &witness, &altered).is_err(), "byte {at} of {signature}");
    }
    assert_eq!(outcome(log, &witness, &good), Ok(150));
}

/// tlog-witness: checking the old size and remembering the new one is one step.
#[test]
fn of_two_racing_requests_one_is_cosigned() {
    let setting = Setting::new();
    let (log, witness) = (Arc::new(setting.log.clone()), Arc::new(setting.open()));
    let mut fork = setting.log;
    fork.leaves[30][0] ^= 1;
    let fork = Arc::new(fork);
    let mut size = 20;
    assert_eq!(outcome(&log, &witness, &log.request(0, size)), Ok(size));
    for round in 0..30 {
        let threads: Vec<_> = (0..4_u64)
            .map(|n| {
                let (log, witness) = (Arc::clone(&log), Arc::clone(&witness));
                std::thread::spawn(move || outcome(&log, &witness, &log.request(size, size + 1 + n)))
            })
            .collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let cosigned: Vec<u64> = outcomes.iter().filter_map(|outcome| outcome.ok()).collect();
        assert_eq!(cosigned.len(), 1, "round {round}: {outcomes:?}");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(409))), "{outcomes:?}");
        size = cosigned[0];
    }
    // A clone of the log with the same key, after a fork at record 30: it never gets a word.
    assert!(size > 31);
    assert_eq!(outcome(&log, &witness, &fork.request(size, size + 5)), Err(422));
    assert_eq!(outcome(&log, &witness, &fork.request(25, 60)), Err(409));
}

#[test]
fn what_it_remembers_is_believed_or_it_does_not_start() {
    let setting = Setting::new();
    let log = &setting.log;
    assert_eq!(outcome(log, &setting.open(), &log.request(0, 10)), Ok(10));
    let file = fs::read_dir(setting.dir()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|end| end == "checkpoint")).unwrap();
    let good = fs::read(&file).unwrap();
    for at in [0, 20, good.len() / 2, good.len() - 5] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, bad).unwrap();
        let refused = setting.open_with(vec![log.known()]).err().unwrap();
        assert!(matches!(refused, CosignerError::Damaged { .. }), "{refused}");
    }
    fs::write(&file, "").unwrap();
    assert!(setting.open_with(vec![log.known()]).is_err(), "an empty file is not nothing");
    fs::write(&file, &good).unwrap();
    // A draft that a crash left is nothing.
    fs::write(file.with_extension("checkpoint.new"), "half").unwrap();
    // The key changed: with both it goes on.
    let next = TestLog { signing: SigningKey::from_bytes(&[8; 32]), ..log.clone() };
    assert!(setting.open_with(vec![next.known()]).is_err());
    let witness = setting.open_with(vec![log.known(), next.known()]).unwrap();
    assert_eq!(outcome(&next, &witness, &next.request(10, 20)), Ok(20));
    let second = setting.open_with(vec![log.known()]).err().unwrap();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    drop(witness);
    fs::remove_dir_all(setting.dir()).unwrap();
    let refused = setting.open_with(vec![log.known()]).err().unwrap();
    assert!(matches!(refused, CosignerError::NoMemory { .. }), "{refused}");
}

#[test]
fn its_key_is_of_its_purpose_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let setting = Setting::new();
    let again = Cosigner::create(&setting.key(), &setting.folder.path().join("other"), "w.example");
    assert!(again.is_err(), "a key is never overwritten");
    fs::set_permissions(setting.key(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(setting.open_with(vec![]).err().unwrap().to_string().contains("640"));
    fs::remove_file(setting.key()).unwrap();
    edgate_hsm::SoftwareKey::create(&setting.key(), edgate_hsm::Purpose::AuditCheckpoint).unwrap();
    let refused = setting.open_with(vec![]).err().unwrap().to_string();
    assert!(refused.contains("audit-checkpoint") && refused.contains("witness"), "{refused}");
    let bad = Cosigner::create(Path::new("/nowhere/key"), Path::new("/nowhere/dir"), "two words");
    assert!(matches!(bad, Err(CosignerError::Name(_))), "{bad:?}");
}

#[test]
fn a_log_that_submits_too_often_waits_for_tomorrow() {
    let setting = Setting::new();
    let log = &setting.log;
    let witness = setting.open_with(vec![KnownLog { per_day: Some(2), ..log.known() }]).unwrap();
    assert_eq!(outcome(log, &witness, &log.request(0, 1)), Ok(1));
    // Whoever has not the log's key uses nothing up.
    let stranger = TestLog { signing: SigningKey::from_bytes(&[9; 32]), ..log.clone() };
    assert_eq!(outcome(log, &witness, &stranger.request(1, 2)), Err(403));
    // Nor does whoever replays what it published: the first one, the last one, or one that was refused.
    for _ in 0..9 {
        assert_eq!(outcome(log, &witness, &log.request(0, 1)), Err(409));
        assert_eq!(outcome(log, &witness, &log.request(1, 1)), Ok(1));
        assert_eq!(outcome(log, &witness, &log.request(0, 2)), Err(409));
    }
    assert_eq!(outcome(log, &witness, &log.request(1, 2)), Ok(2));
    assert_eq!(outcome(log, &witness, &log.request(2, 3)), Err(429));
    assert_eq!(outcome(log, &witness, &log.request(2, 2)), Ok(2), "what it has it says again");
    let tomorrow = witness.add_checkpoint(&log.request(2, 3), NOW + 86_400);
    assert!(matches!(tomorrow, Answer::Cosigned(_)), "{tomorrow:?}");
}

#[test]
fn what_cannot_be_remembered_is_not_cosigned() {
    let setting = Setting::new();
    let (log, witness) = (&setting.log, setting.open());
    assert_eq!(outcome(log, &witness, &log.request(0, 10)), Ok(10));
    let away = setting.folder.path().join("away");
    fs::rename(setting.dir(), &away).unwrap();
    assert_eq!(outcome(log, &witness, &log.request(10, 20)), Err(503));
    // What is remembered already may be said again.
    assert_eq!(outcome(log, &witness, &log.request(10, 10)), Ok(10));
    fs::rename(&away, setting.dir()).unwrap();
    assert_eq!(outcome(log, &witness, &log.request(10, 20)), Ok(20));
}

#[test]
fn a_list_of_logs_has_one_form() {
    let key = TestLog::new("a.example/log", 1, 0).key().to_text();
    let other = TestLog::new("b.example/log", 2, 0).key().to_text();
    let list = format!(
        "# a comment\nlogs/v0\n\nvkey {key}\nqpd 86400\ncontact a@example\n\n vkey {other}\norigin some log\n\tqpd 24\n\tcontact b b\n"
    );
    let logs = parse_list(&list).unwrap();
    assert_eq!(logs.len(), 2);
    assert_eq!((logs[0].origin.as_str(), logs[0].per_day), ("a.example/log", Some(86_400)));
    assert_eq!((logs[1].origin.as_str(), logs[1].per_day), ("some log", Some(24)));
    assert_eq!(parse_list("logs/v0\n"), Ok(vec![]));
    for (wrong, line) in [
        (String::new(), 1),
        (list.replace("logs/v0", "logs/v1"), 2),
        (list.replace("qpd 24", "qpd 0"), 10),
        (list.replace("qpd 24", "qpd 024"), 10),
        (list.replace("qpd 24", "qpd 2147483648"), 10),
        (list.replace("contact b b", "contacts"), 11),
        (list.replace("origin some log", "origin a.example/log"), 8),
        (list.replace(&other, &other.replace("b.example", "c.example")), 8),
        (list.replacen("vkey", "key", 1), 4),
        (format!("logs/v0\nvkey {key}\n"), 2),
    ] {
        assert_eq!(parse_list(&wrong).unwrap_err().line, line, "{wrong}");
    }
}
