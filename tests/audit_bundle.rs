//! `edgate audit bundle` and `verify-bundle`: a part of a log in other hands, years later, and in bad ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::Signer as _;
use edgate::audit::bundle::{CheckError, Trust, verify_bundle};
use edgate::audit::note::Checkpoint;
use edgate::audit::{CheckpointKey, RecordId, WitnessKey};
use serde_json::Value;
use sha2::Digest as _;

#[path = "support/logs.rs"]
mod logs;

use logs::{ORIGIN, grow, json, signing_key};

fn key() -> CheckpointKey {
    CheckpointKey::new(ORIGIN, signing_key().verifying_key().to_bytes())
}

fn signed(origin: &str, size: u64, root: [u8; 32]) -> String {
    let checkpoint = Checkpoint { origin: origin.into(), size, root };
    checkpoint.to_note(&key(), &signing_key().sign(checkpoint.to_text().as_bytes()).to_bytes())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn edgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate")).arg("audit").args(arguments).output().unwrap()
}

/// A log of some segments and boots, and bundles of it.
struct Setting {
    folder: tempfile::TempDir,
    ids: Vec<RecordId>,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit");
        let mut ids = grow(&log, 300);
        fs::copy(log.join("checkpoint"), folder.path().join("kept")).unwrap();
        ids.extend([600, 300, 300, 200].into_iter().flat_map(|events| grow(&log, events)));
        Self { folder, ids }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("audit")
    }

    fn make(&self, name: &str, more: &[&str]) -> Output {
        let (log, out) = (self.log(), self.path(name));
        edgate(
            &[&["bundle", "--unrecorded", "--json", "--dir", text(&log), "--out", text(&out)], more].concat(),
        )
    }

    /// A bundle that was made.
    fn bundle(&self, name: &str, more: &[&str]) -> PathBuf {
        let made = self.make(name, more);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        self.path(name)
    }

    /// A checkpoint as a reader has kept it since the first boot.
    fn kept(&self) -> PathBuf {
        self.path("kept")
    }

    fn size(&self) -> u64 {
        let note = fs::read_to_string(self.log().join("checkpoint")).unwrap();
        Checkpoint::read_unverified(&note).unwrap().size
    }
}

fn check(bundle: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let vkey = key().to_text();
    let output = edgate(&[&["verify-bundle", "--json", text(bundle), "--key", &vkey], more].concat());
    (output.status.code(), json(&output))
}

/// The class that refuses a bundle; panics where it passes.
fn refused(bundle: &Path) -> &'static str {
    let trust = Trust {
        keys: &[key()],
        origin: None,
        kept: None,
        witnesses: &[],
        authorities: None,
        stamp_policy: None,
    };
    match verify_bundle(bundle, &trust, &mut |_| {}) {
        Err(CheckError::Refused(fault)) => fault.class.name(),
        other => panic!("{}: {other:?}", bundle.display()),
    }
}

#[test]
fn a_bundle_holds_what_was_asked_for_and_is_proven_by_the_key_alone() {
    let setting = Setting::new();
    let size = setting.size();
    let (code, whole) = check(&setting.bundle("whole.tar", &["--since", text(&setting.kept())]), &[]);
    assert_eq!((code, &whole["valid"]), (Some(0), &true.into()), "{whole}");
    assert_eq!((&whole["segments"]["from"], &whole["segments"]["to"]), (&0.into(), &size.into()), "{whole}");
    assert!(whole["since"].as_u64() > Some(0), "{whole}");

    // Segments are whole: the range is in them, and there are fewer than all.
    let (code, part) = check(&setting.bundle("part.tar", &["--range", "400..1000"]), &[]);
    let at = |name: &str| part["segments"][name].as_u64().unwrap();
    assert_eq!((code, at("from") > 0 && at("from") <= 400 && at("to") >= 1000), (Some(0), true), "{part}");
    assert!(at("to") < size && part["size"] == size, "{part}");
    let (code, tail) = check(&setting.bundle("tail", &["--range", "1400..9999999"]), &[]);
    assert_eq!((code, &tail["segments"]["to"]), (Some(0), &size.into()), "{tail}");

    // By time: what was written before the log began is nothing, what was written until now is all.
    let (code, all) = check(&setting.bundle("time.tar", &["--from", "2020-01-01T00:00:00Z"]), &[]);
    assert_eq!((code, &all["segments"]), (Some(0), &whole["segments"]), "{all}");
    let none = setting.make("none.tar", &["--to", "2020-01-01T00:00:00Z"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert_eq!(setting.make("none.tar", &["--range", "999999..9999999"]).status.code(), Some(1));

    // Tiles spare the reading and change nothing.
    let tiles = setting.path("tiles");
    assert!(edgate(&["tiles", "--dir", text(&setting.log()), "--out", text(&tiles)]).status.success());
    setting.bundle("tiled", &["--range", "800..1300", "--tiles", text(&tiles)]);
    setting.bundle("read", &["--range", "800..1300"]);
    for member in ["segments/state", "segments/proof", "checkpoint"] {
        assert_eq!(
            fs::read(setting.path("tiled").join(member)).unwrap(),
            fs::read(setting.path("read").join(member)).unwrap(),
            "{member}"
        );
    }
    let left: Vec<_> = fs::read_dir(setting.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".partial"))
        .collect();
    assert_eq!(left, [""; 0], "nothing half made is left");
    // What is there is not written over.
    let again = setting.make("whole.tar", &[]);
    assert_eq!(again.status.code(), Some(70), "{again:?}");
}

#[test]
fn single_decisions_are_bundled_without_showing_the_others() {
    let setting = Setting::new();
    let ids: Vec<_> = [3, 899, 1200].map(|at: usize| setting.ids[at].to_string()).to_vec();
    let more: Vec<&str> = std::iter::once("--ids").chain(ids.iter().map(String::as_str)).collect();
    let bundle = setting.bundle("few.tar", &more);
    let (code, said) = check(&bundle, &[]);
    assert_eq!((code, said["decisions"].as_array().unwrap().len()), (Some(0), 3), "{said}");
    let shown: Vec<_> =
        said["decisions"].as_array().unwrap().iter().map(|one| &one["body"]["reason"]).collect();
    assert_eq!(shown, ["event 3", "event 599", "event 0"]);
    let bytes = fs::read(&bundle).unwrap();
    assert!(!bytes.windows(8).any(|window| window == b"event 4\0"));
    assert!(bytes.len() < 40_000, "{}", bytes.len());
    let unknown = setting.make("none.tar", &["--ids", "0000000000000001-0-1"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
}

#[test]
fn an_archive_unpacked_by_tar_is_the_same_bundle_and_equal_bundles_are_equal_bytes() {
    let setting = Setting::new();
    let archive = setting.bundle("one.tar", &["--range", "800..1300"]);
    let folder = setting.path("unpacked");
    fs::create_dir(&folder).unwrap();
    let unpacked = Command::new("tar").args(["-xf", text(&archive), "-C", text(&folder)]).output().unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    let (code, said) = check(&folder, &[]);
    assert_eq!((code, &said), (Some(0), &check(&archive, &[]).1));
    let other = fs::read(setting.bundle("two.tar", &["--range", "800..1300"])).unwrap();
    let same = |bytes: &[u8]| {
        let at = bytes.windows(11).rposition(|window| window == b"\"made_at\": ").unwrap();
        [&bytes[..at], &bytes[at + 40..]].concat()
    };
    // But for the time it was made at, and the checksum of nothing: the manifest's length is the same.
    assert_eq!(same(&fs::read(&archive).unwrap()), same(&other));
}

#[test]
fn no_byte_of_a_bundle_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit");
    let ids = grow(&log, 3);
    let bundles = [("log.tar", vec![]), ("one.tar", vec!["--ids".to_owned(), ids[1].to_string()])];
    for (name, more) in bundles {
        let out = folder.path().join(name);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let made = edgate(
            &[&["bundle", "--unrecorded", "--dir", text(&log), "--out", text(&out)], more.as_slice()]
                .concat(),
        );
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        let bytes = fs::read(&out).unwrap();
        let altered = folder.path().join("altered");
        // A prime step meets every field of every member over the members.
        for at in (0..bytes.len()).step_by(7) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&altered, bytes).unwrap();
            let trust = Trust {
                keys: &[key()],
                origin: None,
                kept: None,
                witnesses: &[],
                authorities: None,
                stamp_policy: None,
            };
            let checked = verify_bundle(&altered, &trust, &mut |_| {});
            if let Ok(verified) = checked {
                // What nobody vouches for is said to be that.
                let manifest = bytes_of_manifest(&out);
                let at = at - (bytes_len(&out) - manifest.1);
                let line = manifest.0[..at].rsplit('\n').next().unwrap().to_owned();
                assert!(line.contains("made_at") || line.contains("maker"), "byte {at}: {line}");
                assert!(verified.not_checked[0].contains("only the bundle says so"));
            }
        }
        // However it is cut, it is refused.
        for length in (0..bytes.len()).step_by(11) {
            fs::write(&altered, &bytes[..length]).unwrap();
            assert!(["cut-short", "member-missing"].contains(&refused(&altered)), "{length}");
        }
        fs::write(&altered, [&bytes[..], &[0; 512]].concat()).unwrap();
        assert_eq!(refused(&altered), "malformed");
    }
}

fn bytes_len(path: &Path) -> usize {
    fs::read(path).unwrap().len()
}

/// The manifest of an archive, and how many bytes there are from its beginning to the archive's end.
fn bytes_of_manifest(path: &Path) -> (String, usize) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(13).rposition(|window| window == b"manifest.json").unwrap() + 512;
    (String::from_utf8_lossy(&bytes[at..]).into_owned(), bytes.len() - at)
}

/// A bundle in a folder, in the hands of somebody who can write manifests but not sign.
struct Forger {
    folder: PathBuf,
    members: BTreeMap<String, Vec<u8>>,
}

impl Forger {
    fn of(bundle: &Path, folder: PathBuf) -> Self {
        let mut members = BTreeMap::new();
        for below in ["", "segments", "decisions"] {
            let Ok(entries) = fs::read_dir(bundle.join(below)) else { continue };
            for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
                let name = path.strip_prefix(bundle).unwrap().to_str().unwrap().to_owned();
                members.insert(name, fs::read(path).unwrap());
            }
        }
        Self { folder, members }
    }

    /// The class that refuses the bundle after a change, with a manifest that fits it.
    fn refused(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>, &mut Value)) -> &'static str {
        let mut members = self.members.clone();
        let manifest = members.remove("manifest.json").unwrap();
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        change(&mut members, &mut manifest);
        let listed = members.iter().map(|(name, bytes)| {
            let digest =
                sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            serde_json::json!({"name": name, "bytes": bytes.len(), "sha256": digest})
        });
        manifest["members"] = listed.collect();
        members.insert("manifest.json".to_owned(), format!("{manifest:#}\n").into_bytes());
        let _ = fs::remove_dir_all(&self.folder);
        for (name, bytes) in members {
            let path = self.folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        refused(&self.folder)
    }

    /// As [`Self::refused`], after the text of a member was changed.
    fn rewritten(&self, member: &str, change: impl Fn(&str) -> String) -> &'static str {
        self.refused(|members, _| {
            let text = String::from_utf8(members[member].clone()).unwrap();
            let changed = change(&text);
            assert_ne!(text, changed);
            members.insert(member.to_owned(), changed.into_bytes());
        })
    }
}

#[test]
fn whoever_can_write_a_manifest_but_not_sign_is_found_out() {
    let setting = Setting::new();
    let bundle = setting.bundle("bundle", &["--range", "400..1300", "--since", text(&setting.kept())]);
    let forger = Forger::of(&bundle, setting.path("forged"));
    let segments: Vec<_> = forger.members.keys().filter(|name| name.ends_with(".seg")).cloned().collect();
    assert!(segments.len() >= 3, "{segments:?}");
    let change = |name: &str, at: usize| forger.refused(|members, _| members.get_mut(name).unwrap()[at] ^= 1);
    // Records.
    let body = forger.members[&segments[1]].windows(8).position(|window| window == b"event 30").unwrap();
    assert_eq!(change(&segments[1], body), "altered-body");
    assert_eq!(change(&segments[1], 20), "altered-header");
    let last = segments.last().unwrap();
    assert_eq!(forger.refused(|members, _| drop(members.remove(&segments[1]))), "missing-segment");
    assert_eq!(forger.refused(|members, _| drop(members.remove(&segments[0]))), "malformed");
    assert_eq!(forger.refused(|members, _| drop(members.remove(last))), "rewritten");
    assert_eq!(
        forger.refused(|members, _| members.get_mut(last).unwrap().extend([0; 8])),
        "inserted",
        "not even zeros"
    );
    assert_eq!(
        forger.refused(|members, _| {
            let bytes = members.get_mut(last).unwrap();
            bytes.truncate(bytes.len() - 64);
        }),
        "altered-header"
    );
    // The way from them to the signed state.
    let another_tree = |text: &str| {
        let (rest, last) = text.trim_end().split_at(text.len() - 2);
        format!("{rest}{}\n", if last == "0" { '1' } else { '0' })
    };
    assert_eq!(forger.rewritten("segments/state", another_tree), "rewritten");
    assert_eq!(
        forger.rewritten("segments/state", |text| text.replace(ORIGIN, "evil.example")),
        "wrong-origin"
    );
    assert_eq!(forger.refused(|members, _| drop(members.remove("segments/state"))), "member-missing");
    let another_hash = |text: &str| {
        let (old, rest) = text.split_once('\n').unwrap();
        format!("{old}\n{}{}", if rest.starts_with('A') { 'B' } else { 'A' }, &rest[1..])
    };
    assert_eq!(forger.rewritten("segments/proof", another_hash), "rewritten");
    assert_eq!(forger.rewritten("segments/proof", |text| text.replacen("old ", "old 9", 1)), "wrong-index");
    // The checkpoint, and what stands for it.
    assert_eq!(
        forger.rewritten("checkpoint", |text| text.split_once("\n\n").unwrap().0.to_owned() + "\n"),
        "unsigned"
    );
    assert_eq!(forger.rewritten("checkpoint", |text| text.replace(ORIGIN, "evil.example")), "wrong-origin");
    let other_kind = |text: &str| {
        let (text, line) = text.split_once("\n\n").unwrap();
        let signature = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        let weaker = format!("AAAA{}", &signature[4..]);
        format!("{text}\n\n{}\n", line.trim_end().replace(&signature, &weaker))
    };
    assert_eq!(forger.rewritten("checkpoint", other_kind), "wrong-key");
    let older = signed(ORIGIN, 5, [1; 32]);
    assert_eq!(forger.rewritten("checkpoint", |_| older.clone()), "member-altered");
    let restated = |note: &str| {
        forger.refused(|members, manifest| {
            members.insert("checkpoint".to_owned(), note.as_bytes().to_vec());
            let checkpoint = Checkpoint::read_unverified(note).unwrap();
            manifest["log"]["size"] = checkpoint.size.into();
            manifest["log"]["root"] =
                checkpoint.root.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        })
    };
    assert_eq!(
        restated(&signed(ORIGIN, setting.size(), [1; 32])),
        "malformed",
        "the proofs are about another"
    );
    // The start.
    assert_eq!(forger.rewritten("since", |_| signed(ORIGIN, 1 << 40, [1; 32])), "rollback");
    assert_eq!(forger.rewritten("since", |_| signed(ORIGIN, setting.size(), [1; 32])), "rollback");
    assert_eq!(forger.rewritten("since", |_| signed("evil.example", 5, [1; 32])), "wrong-origin");
    let same_size = |text: &str| signed(ORIGIN, Checkpoint::read_unverified(text).unwrap().size, [1; 32]);
    assert_eq!(forger.rewritten("since", same_size), "inconsistent");
    assert_eq!(forger.refused(|members, _| drop(members.remove("since.proof"))), "member-missing");
    // What belongs in no bundle, or must be in each.
    assert_eq!(forger.refused(|members, _| drop(members.insert("more".into(), vec![]))), "member-extra");
    assert_eq!(
        forger.refused(|members, _| drop(members.insert("segments/x".into(), vec![]))),
        "member-extra"
    );
    assert_eq!(forger.refused(|members, _| drop(members.remove("checkpoint"))), "member-missing");
    assert_eq!(forger.refused(|members, _| drop(members.remove("policy"))), "member-missing");
    assert_eq!(forger.rewritten("policy", |text| text.replace("quorum none", "quorum all")), "malformed");
    // What the manifest says of the others.
    assert_eq!(forger.refused(|_, manifest| manifest["segments"]["from"] = 1.into()), "malformed");
    assert_eq!(forger.refused(|_, manifest| manifest["decisions"] = 7.into()), "member-altered");
    assert_eq!(forger.refused(|_, manifest| manifest["edgate_bundle"] = 2.into()), "malformed");
    assert_eq!(forger.refused(|_, manifest| manifest["more"] = 2.into()), "malformed");

    // Files, not what a manifest lists.
    forger.refused(|members, _| drop(members.insert("more".into(), vec![])));
    fs::remove_file(setting.path("forged/more")).unwrap();
    assert_eq!(refused(&setting.path("forged")), "member-missing");
    symlink("policy", setting.path("forged/more")).unwrap();
    assert_eq!(refused(&setting.path("forged")), "malformed");
}

#[test]
fn decisions_are_held_to_their_names_and_to_the_one_checkpoint() {
    let setting = Setting::new();
    let (one, two) = (setting.ids[3].to_string(), setting.ids[1200].to_string());
    let bundle = setting.bundle("bundle", &["--ids", &one, &two]);
    let forger = Forger::of(&bundle, setting.path("forged"));
    let name = |id: &str| format!("decisions/{id}.tlog-proof");
    assert_eq!(
        forger.refused(|members, _| {
            let other = members[&name(&two)].clone();
            members.insert(name(&one), other);
        }),
        "wrong-record"
    );
    assert_eq!(forger.refused(|members, _| drop(members.remove(&name(&one)))), "member-altered");
    assert_eq!(
        forger.refused(|members, _| {
            members.remove(&name(&one));
            members.remove(&name(&two));
        }),
        "member-missing"
    );
    assert_eq!(forger.rewritten(&name(&one), |text| text.replacen("index 5", "index 6", 1)), "wrong-index");
    assert_eq!(forger.rewritten(&name(&one), |text| text.replacen("extra ", "extra AA", 1)), "malformed");
    let id = setting.ids[3];
    // No record has its boot in it: under another one the same record would count twice.
    let twin = RecordId { boot: id.boot ^ 1, ..id }.to_string();
    assert_eq!(
        forger.refused(|members, _| {
            let proof = members[&name(&one)].clone();
            members.insert(name(&twin), proof);
        }),
        "member-extra"
    );
    let other = RecordId { core_seq: id.core_seq + 1, ..id }.to_string();
    assert_eq!(
        forger.refused(|members, _| {
            let proof = members.remove(&name(&one)).unwrap();
            members.insert(name(&other), proof);
        }),
        "wrong-record"
    );
}

#[test]
fn a_checkpoint_that_was_kept_must_be_continued() {
    let setting = Setting::new();
    let kept = setting.path("latest");
    fs::copy(setting.log().join("checkpoint"), &kept).unwrap();
    let old = setting.bundle("old.tar", &["--range", "800..1300"]);
    grow(&setting.log(), 100);
    let since = ["--since", text(&kept)];
    let (code, said) =
        check(&setting.bundle("new.tar", &[&since[..], &["--range", "800..1300"]].concat()), &since);
    assert_eq!((code, &said["valid"]), (Some(0), &true.into()), "{said}");
    assert!(!said["not_checked"].to_string().contains("rollback"), "{said}");
    // A bundle that was not made for it proves nothing about it.
    let (code, said) = check(&setting.bundle("other.tar", &["--range", "800..1300"]), &since);
    assert_eq!((code, &said["class"]), (Some(33), &"unrelated".into()), "{said}");
    assert!(check(&old, &since).1["valid"] == true, "its end is what was kept");

    // The log as it was, brought back: what was kept since is ahead of it.
    let newer = setting.path("newer");
    fs::copy(setting.log().join("checkpoint"), &newer).unwrap();
    let (code, said) = check(&old, &["--since", text(&newer)]);
    assert_eq!((code, &said["class"]), (Some(25), &"rollback".into()), "{said}");
    let made = edgate(&[
        "bundle",
        "--unrecorded",
        "--dir",
        text(&setting.log()),
        "--out",
        text(&setting.path("back.tar")),
        "--since",
        text(&{
            let ahead = setting.path("ahead");
            fs::write(&ahead, signed(ORIGIN, 1 << 40, [1; 32])).unwrap();
            ahead
        }),
    ]);
    assert_eq!(made.status.code(), Some(25), "{made:?}");
    fs::write(
        &kept,
        signed(
            ORIGIN,
            Checkpoint::read_unverified(&fs::read_to_string(&kept).unwrap()).unwrap().size,
            [1; 32],
        ),
    )
    .unwrap();
    let forked = check(&setting.path("new.tar"), &since);
    assert_eq!((forked.0, &forked.1["class"]), (Some(25), &"rollback".into()), "{}", forked.1);
    assert_eq!(setting.make("fork.tar", &since).status.code(), Some(25));
    // Another key, another log.
    let other = CheckpointKey { verifying_key: [9; 32], ..key() };
    let stranger = edgate(&["verify-bundle", "--json", text(&old), "--key", &other.to_text()]);
    assert_eq!((stranger.status.code(), &json(&stranger)["class"]), (Some(10), &"wrong-key".into()));
    let named = check(&old, &["--origin", "other.example/log"]);
    assert_eq!((named.0, &named.1["class"]), (Some(11), &"wrong-origin".into()));
}

#[test]
fn nothing_is_bundled_of_a_log_that_is_not_what_was_signed() {
    let setting = Setting::new();
    logs::change(&setting.log().join("0000000002.seg"), |bytes| bytes[5000] ^= 1);
    for (range, code) in [("0..9999999", 1), ("1400..1500", 1)] {
        let made = setting.make("bundle.tar", &["--range", range]);
        assert_eq!(made.status.code(), Some(code), "{made:?}");
    }
    assert!(!setting.path("bundle.tar").exists() && !setting.path("bundle.tar.partial").exists());
}

#[test]
fn a_witness_that_is_asked_for_must_have_cosigned() {
    let setting = Setting::new();
    let note = fs::read_to_string(setting.log().join("checkpoint")).unwrap();
    let checkpoint = Checkpoint::read_unverified(&note).unwrap();
    let witness = |seed: u8| {
        let signing = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let name = format!("witness.example/w{seed}");
        let key = WitnessKey { name, verifying_key: signing.verifying_key().to_bytes() };
        let line = key.line(7, &signing.sign(WitnessKey::message(&checkpoint, 7).as_bytes()).to_bytes());
        (key.to_text(), line)
    };
    let (one, line) = witness(1);
    let (two, _) = witness(2);
    let cosigned = setting.path("cosigned");
    fs::write(&cosigned, format!("{note}{}\n", line.trim_end())).unwrap();
    let bundle = setting.bundle("cosigned.tar", &["--checkpoint", text(&cosigned)]);
    let (code, said) = check(&bundle, &["--witness", &one]);
    assert_eq!((code, &said["cosigned"][0]["time"]), (Some(0), &7.into()), "{said}");
    assert!(!said["not_checked"].to_string().contains("witness.example"), "{said}");
    // Whoever does not ask is told.
    let (code, said) = check(&bundle, &[]);
    assert!(
        code == Some(0) && said["not_checked"].to_string().contains("signature of witness.example/w1"),
        "{said}"
    );
    // A key that the witness of this name changes to is asked for by itself.
    let next = WitnessKey { name: "witness.example/w1".into(), verifying_key: [9; 32] }.to_text();
    for asked in [
        &["--witness", &two][..],
        &["--witness", &one, "--witness", &two],
        &["--witness", &one, "--witness", &next],
    ] {
        let (code, said) = check(&bundle, asked);
        assert_eq!((code, &said["class"]), (Some(34), &"unwitnessed".into()), "{said}");
    }
    let folder = setting.bundle("folder", &["--checkpoint", text(&cosigned)]);
    let forger = Forger::of(&folder, setting.path("forged"));
    forger.refused(|members, _| {
        let note = String::from_utf8(members["checkpoint"].clone()).unwrap();
        let at = note.rfind(' ').unwrap() + 40;
        let other = if note.as_bytes()[at] == b'A' { "B" } else { "A" };
        let note = format!("{}{other}{}", &note[..at], &note[at + 1..]);
        members.insert("segments/x".into(), vec![]);
        for name in ["checkpoint", "segments/proof"] {
            let text = String::from_utf8(members[name].clone()).unwrap();
            let (head, _) = text.split_once(ORIGIN).unwrap();
            members.insert(name.to_owned(), format!("{head}{note}").into_bytes());
        }
    });
    let (code, said) = check(&setting.path("forged"), &["--witness", &one]);
    assert_eq!((code, &said["class"]), (Some(9), &"bad-signature".into()), "{said}");
}

/// Runs the verifier in a root of its own that holds nothing but the binary, the libraries it is linked to and the bundle,
/// without any network and with the clock ten years on.
#[test]
fn a_bundle_verifies_in_an_empty_root_without_a_network_ten_years_on() {
    let setting = Setting::new();
    setting.bundle("bundle.tar", &["--range", "400..1000"]);
    let root = setting.path("root");
    let binary = env!("CARGO_BIN_EXE_edgate");
    let linked = Command::new("ldd").arg(binary).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let faketime = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|machine| format!("/usr/lib/{machine}/faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(faketime) = faketime else { return skipped("libfaketime is not installed") };
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain([binary, &faketime]) {
        let path = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(file, path).unwrap();
    }
    fs::copy(setting.path("bundle.tar"), root.join("bundle.tar")).unwrap();
    // The stand-in for the clock keeps a semaphore there.
    fs::create_dir_all(root.join("dev/shm")).unwrap();
    let vkey = key().to_text();
    let inside = |arguments: &[&str]| {
        Command::new("unshare")
            .args(["--map-root-user", "--net", "--root", text(&root), binary])
            .args(arguments)
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LD_PRELOAD", &faketime), ("FAKETIME", "+3653d")])
            .output()
            .unwrap()
    };
    let alone = inside(&["audit", "verify-bundle", "/bundle.tar", "--json", "--key", &vkey]);
    if alone.status.code() == Some(1) && alone.stdout.is_empty() {
        return skipped(&format!("no user namespaces: {}", String::from_utf8_lossy(&alone.stderr)));
    }
    let (here, there) = (check(&setting.path("bundle.tar"), &[]), json(&alone));
    assert_eq!((alone.status.code(), &there), (Some(0), &here.1), "{alone:?}");
    // The clock in there is the one meant, and nothing of the host is there.
    let made = Command::new("date")
        .arg("+%Y")
        .env("LD_PRELOAD", &faketime)
        .env("FAKETIME", "+3653d")
        .output()
        .unwrap();
    let now = Command::new("date").arg("+%Y").output().unwrap();
    let year = |output: &Output| String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().unwrap();
    assert_eq!(year(&made), year(&now) + 10);
    assert_eq!(inside(&["audit", "verify", "--dir", text(&setting.log())]).status.code(), Some(2));
}

/// Says why a test does nothing here; where tests may not skip, it fails.
fn skipped(reason: &str) {
    assert!(std::env::var_os("EDGATE_NO_SKIP").is_none(), "{reason}");
    eprintln!("SKIPPED: {reason}");
}
