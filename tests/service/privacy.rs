//! Personal data in the log: looked up by keyed tags, on record, a limited number of times.

use std::path::Path;
use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Edgate, ISSUER, Issuer, edgate, lines, until_signed};

const ALICE: &str = "alice@example.com";

fn alice(edgate: &Edgate, jti: &str) -> String {
    let mut claims = Issuer::claims(jti);
    claims["sub"] = ALICE.into();
    edgate.issuer.sign(&claims)
}

/// `edgate audit tag` with the value on standard input.
fn look_up(dir: &Path, control: &str, field: &str, value: &str, more: &[&str]) -> Output {
    let what = ["audit", "tag", field, "-", "--json", "--dir", dir.to_str().unwrap(), "--control", control];
    edgate(&[&what[..], more].concat(), format!("{value}\n").as_bytes())
}

fn segments_hold(dir: &Path, bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    let segments = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments = segments.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.any(|path| std::fs::read(path).unwrap().windows(bytes.len()).any(|window| window == bytes))
}

#[test]
fn a_look_up_finds_a_persons_records_and_is_on_record_or_is_not_made() {
    let mut node = Edgate::start();
    for i in 0..5 {
        node.forward(&alice(&node, &format!("alice-{i}")));
        node.forward(&node.issuer.token(&format!("other-{i}")));
    }
    node.revoke(&json!({"kind": "subject", "name": ALICE, "issuer": ISSUER}));
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    until_signed(&dir, 12);

    let found = look_up(&dir, &control, "subject", ALICE, &["--kind", "decision"]);
    assert!(found.status.success(), "{found:?}");
    let mut rows = lines(&found);
    let summary = rows.pop().unwrap();
    assert_eq!((&summary["found"], rows.len()), (&json!(5), 5), "{summary}");
    assert!(
        rows.iter()
            .all(|row| row["kind"] == "decision" && row["body"]["subject"] == rows[0]["body"]["subject"])
    );
    // The revocation of everything of hers, its intent and its outcome, carries the same tag.
    assert_eq!(lines(&look_up(&dir, &control, "subject", ALICE, &[])).last().unwrap()["found"], 7);
    let one = lines(&look_up(&dir, &control, "jti", "other-3", &[]));
    assert_eq!(one.last().unwrap()["found"], 1);
    // A value is looked for in its own field, and in the time asked for.
    assert_eq!(lines(&look_up(&dir, &control, "jti", ALICE, &[])).last().unwrap()["found"], 0);
    let before = look_up(&dir, &control, "subject", ALICE, &["--to", "2020-01-01T00:00:00Z"]);
    assert_eq!(lines(&before).last().unwrap()["found"], 0);
    assert_eq!(look_up(&dir, &control, "client", "not an address", &[]).status.code(), Some(2));
    let client = look_up(&dir, &control, "client", "127.0.0.1", &["--kind", "decision"]);
    assert_eq!(lines(&client).last().unwrap()["found"], 10);

    // The log says what was looked for, by its tag, and by whom; the value is nowhere.
    let tail = edgate(&["audit", "tail", "--kind", "admin", "--json", "--dir", dir.to_str().unwrap()], b"");
    let records = lines(&tail);
    assert_eq!(records[0]["id"], summary["record"]);
    let body = &records[0]["body"];
    assert_eq!((&body["action"], &body["target"]), (&json!("tag_lookup"), &json!("subject")));
    assert_eq!(body["detail"], rows[0]["body"]["subject"]);
    assert!(body["actor"].as_str().unwrap().starts_with("control:127.0.0.1, uid "), "{body}");
    assert!(!segments_hold(&dir, ALICE) && !segments_hold(&dir, "alice-1"));

    node.kill();
    let refused = look_up(&dir, &control, "subject", ALICE, &[]);
    assert_eq!((refused.status.code(), lines(&refused).len()), (Some(69), 0), "nobody to record it");
    let unrecorded = edgate(
        &[
            "audit",
            "tag",
            "subject",
            ALICE,
            "--unrecorded",
            "--kind",
            "decision",
            "--dir",
            dir.to_str().unwrap(),
        ],
        b"",
    );
    let said = String::from_utf8(unrecorded.stdout).unwrap();
    assert!(said.contains("not recorded") && said.contains("found     5 of"), "{said}");
}

#[test]
fn no_personal_value_and_no_byte_of_a_token_is_in_the_log() {
    let mut node = Edgate::start_with("shards = 2", "receipts = true");
    let marked = |jti: &str| {
        let mut claims = Issuer::claims(jti);
        claims["sub"] = ALICE.into();
        claims["own"] = "owner-marker".into();
        claims["task"] = "task-marker".into();
        claims["sid"] = "session-marker".into();
        claims
    };
    let good = node.issuer.sign(&marked("jti-marker-1"));
    let mut expired = marked("jti-marker-2");
    (expired["exp"], expired["iat"], expired["nbf"]) = (1000.into(), 900.into(), 900.into());
    let forged = Issuer::new(99).sign(&marked("jti-marker-3"));
    let mut altered = good.clone().into_bytes();
    let last = altered.len() - 5;
    altered[last] = if altered[last] == b'A' { b'B' } else { b'A' };
    let tokens = [good, node.issuer.sign(&expired), forged, String::from_utf8(altered).unwrap()];
    for token in &tokens {
        node.forward(token);
        let answer = node.verify(&json!({"token": token, "receipt": true}));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(node.verify(&json!({"tokens": tokens})).status, 200);
    let asked =
        json!({"agent_id": "agent-marker", "scope": ["orders.create"], "own": "owner-marker", "ttl": 120});
    let issued = node.post(node.control, "/v1/tokens", &asked).json();
    let (token, id) = (issued["token"].as_str().unwrap(), issued["id"].as_str().unwrap());
    node.forward(token);
    node.revoke(&json!({"kind": "token", "name": id, "issuer": ISSUER}));
    for (kind, name) in [("token", "jti-marker-1"), ("subject", ALICE), ("session", "session-marker")] {
        node.revoke(&json!({"kind": kind, "name": name, "issuer": ISSUER}));
    }
    let dir = node.audit_dir();
    assert!(node.terminate().success());

    assert!(segments_hold(&dir, &node.issuer.kid), "a kid is in clear: what is there is found");
    for value in [ALICE, "marker", id] {
        assert!(!segments_hold(&dir, value), "{value}");
    }
    for token in tokens.iter().map(String::as_str).chain([token]) {
        let parts: Vec<&str> = token.split('.').collect();
        let signature = BASE64URL.decode(parts[2]).unwrap();
        // Nor a piece of it.
        for piece in [&parts[0][..24], &parts[1][..24], &parts[2][..24], &parts[2][40..64]] {
            assert!(!segments_hold(&dir, piece), "{piece}");
        }
        assert!(!segments_hold(&dir, &signature[..16]) && !segments_hold(&dir, &signature[32..48]));
    }
}

#[test]
fn too_many_look_ups_are_refused_until_some_time_has_passed() {
    let node = Edgate::start();
    let body = |tag: &str| json!({"field": "subject", "tags": [tag], "uid": 0});
    let ask = |body: &Value| node.post(node.control, "/v1/audit/lookups", body);
    for bad in [
        body("00"),
        body(&"0G".repeat(16)),
        body(&"AB".repeat(16)),
        json!({"field": "name", "tags": ["00"], "uid": 0}),
    ] {
        assert_eq!(ask(&bad).status, 400);
    }
    let tag = "ab".repeat(16);
    for _ in 0..10 {
        assert_eq!(ask(&body(&tag)).status, 200);
    }
    let refused = ask(&body(&tag));
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too_many_lookups")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&wait), "{wait}");

    let control = format!("http://{}", node.control);
    let refused = look_up(&node.audit_dir(), &control, "subject", ALICE, &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(69), 0), "{refused:?}");
    let out = node.dir.path().join("alice.jsonl");
    let export =
        ["audit", "export", "--tag", "subject", "--out", out.to_str().unwrap(), "--control", &control];
    let dir = node.audit_dir();
    let refused = edgate(&[&export[..], &["--dir", dir.to_str().unwrap()]].concat(), ALICE.as_bytes());
    assert_eq!(refused.status.code(), Some(69), "an export by a value is a look-up");
    assert!(!out.exists());
}

#[test]
fn what_is_held_about_one_person_is_exported_and_complete() {
    let node = Edgate::start();
    for i in 0..5 {
        node.forward(&alice(&node, &format!("alice-{i}")));
        node.forward(&node.issuer.token(&format!("other-{i}")));
    }
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    until_signed(&dir, 11);
    let (out, dir) = (node.dir.path().join("alice.jsonl"), dir.to_str().unwrap());
    let out = out.to_str().unwrap();
    let export =
        ["audit", "export", "--tag", "subject", "--out", out, "--control", &control, "--json", "--dir", dir];
    let made = edgate(&export, ALICE.as_bytes());
    assert!(made.status.success(), "{made:?}");
    let manifest: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&manifest["rows"], &manifest["not_searched"]["lost"]), (&json!(5), &json!([])));
    assert_eq!(manifest["filter"]["tags"].as_array().unwrap().len(), 1);
    assert!(manifest["lookup"].is_string() && manifest["record"].is_string(), "{manifest}");
    assert!(!made.stdout.windows(ALICE.len()).any(|window| window == ALICE.as_bytes()));
    // Whoever gets it needs no tag key to see that nothing is missing.
    let key = format!("{dir}/checkpoint.key");
    let verified = edgate(&["audit", "verify-export", out, "--key", &key, "--dir", dir], b"");
    assert!(verified.status.success(), "{verified:?}");
    let check = || {
        let checked = edgate(&["audit", "verify-export", out, "--key", &key, "--json"], b"");
        let said: Value = serde_json::from_slice(&checked.stdout).unwrap();
        (checked.status.code(), said["class"].as_str().map(str::to_owned), said["signed"].as_bool())
    };
    assert_eq!(check(), (Some(0), None, Some(true)));

    // A row less, in everything that the manifest says: what is on record is another.
    let rows = std::fs::read_to_string(out).unwrap();
    let fewer = &rows[..rows[..rows.len() - 1].rfind('\n').unwrap() + 1];
    std::fs::write(out, fewer).unwrap();
    let path = format!("{out}.manifest.json");
    let mut forged: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let digest = Sha256::digest(fewer);
    forged["sha256"] = edgate::audit::hex(&digest).into();
    (forged["rows"], forged["bytes"]) = (4.into(), fewer.len().into());
    std::fs::write(&path, forged.to_string()).unwrap();
    assert_eq!(check(), (Some(1), Some("altered-manifest".into()), None));
    forged["proof"] = Value::Null;
    std::fs::write(&path, forged.to_string()).unwrap();
    assert_eq!(check(), (Some(1), Some("unsigned".into()), None));
}

#[test]
fn who_was_who_is_forgotten_with_the_key_of_an_epoch() {
    let mut node = Edgate::start_with("shards = 2", "");
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    let record = |node: &Edgate, name: &str| {
        for i in 0..3 {
            node.forward(&alice(node, &format!("{name}-{i}")));
        }
    };
    let keys = |what: &[&str]| edgate(&[&["audit"], what, &["--json", "--control", &control]].concat(), b"");
    let destroy = |epoch: &str| {
        keys(&["destroy-tag-key", epoch, "--authority", "ticket 9", "--reason", "end of retention"])
    };
    record(&node, "first");
    assert_eq!(destroy("1").status.code(), Some(2), "it is in use");
    let rotated = keys(&["rotate-tag-key"]);
    assert!(rotated.status.success(), "{rotated:?}");
    assert_eq!(lines(&rotated)[0]["epoch"], 2);
    record(&node, "second");
    until_signed(&dir, 12);
    let found = || {
        let output = look_up(&dir, &control, "subject", ALICE, &["--kind", "decision"]);
        (output.status.code(), lines(&output), String::from_utf8(output.stderr).unwrap())
    };
    let (code, rows, _) = found();
    assert_eq!((code, &rows.last().unwrap()["found"]), (Some(0), &json!(6)));
    assert_ne!(rows[0]["body"]["subject"], rows[5]["body"]["subject"], "another epoch, another tag");

    let destroyed = destroy("1");
    assert!(destroyed.status.success(), "{destroyed:?}");
    assert!(!dir.join("tag.key").exists());
    let (code, rows, said) = found();
    let summary = rows.last().unwrap();
    assert_eq!((code, &summary["found"]), (Some(0), &json!(3)));
    assert_eq!(summary["not_searched"], json!({"lost": [], "destroyed": [1]}));
    assert!(said.contains("belong to nobody any more"), "{said}");
    assert_eq!((destroy("1").status.code(), destroy("7").status.code()), (Some(2), Some(2)));

    // Both are on record, by whom, why, and the marker beside the keys names the record.
    let dir_text = dir.to_str().unwrap().to_owned();
    // The first start put on record which signing key it found.
    let of_tags =
        |row: &Value| !row["body"]["what"].as_str().is_some_and(|what| what.starts_with("signing.key"));
    let tail = |kind: &str| -> Vec<Value> {
        let rows = lines(&edgate(&["audit", "tail", "--kind", kind, "--json", "--dir", &dir_text], b""));
        rows.into_iter().filter(of_tags).collect()
    };
    let bodies = |kind: &str| tail(kind).into_iter().map(|row| row["body"].clone()).collect::<Vec<_>>();
    let rotations = bodies("key_rotate");
    assert_eq!(rotations.len(), 2);
    assert_eq!((&rotations[1]["before"], &rotations[1]["after"]), (&json!("epoch 1"), &json!("epoch 2")));
    let changes = bodies("key_change");
    assert_eq!((&changes[0]["phase"], &changes[1]["phase"]), (&json!(0), &json!(1)));
    assert_eq!(changes[1]["after"], "destroyed by ticket 9: end of retention");
    let marker = std::fs::read_to_string(dir.join("tag.key.destroyed")).unwrap();
    assert_eq!(tail("key_change")[0]["id"], marker.trim());
    assert!(!segments_hold(&dir, ALICE));

    // The next start goes on in the epoch it finds; a key that is missing without a word is another thing.
    assert!(node.terminate().success());
    node.restart();
    record(&node, "third");
    let control = format!("http://{}", node.control);
    std::fs::rename(dir.join("tag.key.2"), dir.join("kept")).unwrap();
    let nothing = look_up(&dir, &control, "subject", ALICE, &[]);
    assert_eq!(nothing.status.code(), Some(2), "no key at all");
    let rotated = edgate(&["audit", "rotate-tag-key", "--control", &control], b"");
    assert!(rotated.status.success(), "{rotated:?}");
    let lost = look_up(&dir, &control, "subject", ALICE, &[]);
    assert_eq!(lost.status.code(), Some(1));
    assert!(String::from_utf8(lost.stderr).unwrap().contains("INCOMPLETE: the tag key of epoch 2"));
    let verified = edgate(&["audit", "verify", "--dir", dir.to_str().unwrap(), "--allow-unsigned"], b"");
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn sealed_values_are_opened_by_all_openers_on_record_and_go_with_the_keys_of_their_day() {
    let private = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| private.path().join(name).to_str().unwrap().to_owned());
    let openers = [&first, &second].map(|path| {
        let made = edgate(&["audit", "sealed", "keygen", "--json", "--out", path], b"");
        assert!(made.status.success(), "{made:?}");
        lines(&made)[0]["public"].as_str().unwrap().to_owned()
    });
    // One as text, one as a file.
    let public = private.path().join("b.pub");
    std::fs::write(&public, format!("{}\n", openers[1])).unwrap();
    let sealed = format!(
        "[audit.sealed]\nfields = [\"subject\", \"client\"]\nopeners = [{:?}, {:?}]",
        openers[0],
        public.to_str().unwrap()
    );
    let mut node = Edgate::start_with("shards = 2", &sealed);
    let token = alice(&node, "jti-marker");
    let id = node.verify(&json!({"token": token})).json()["decision_id"].as_str().unwrap().to_owned();
    let many = node.verify(&json!({"tokens": [token, node.issuer.token("other")]})).json();
    let many = many["decision_id"].as_str().unwrap().to_owned();
    let asked = json!({"agent_id": "agent-marker", "scope": ["orders.create"], "ttl": 120});
    assert_eq!(node.post(node.control, "/v1/tokens", &asked).status, 201);
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    let open = |id: &str, keys: &[&str], more: &[&str]| {
        let keys: Vec<&str> = keys.iter().flat_map(|key| ["--opener-key", key]).collect();
        let what = ["audit", "open", id, "--json", "--dir", dir.to_str().unwrap(), "--control", &control];
        edgate(&[&what[..], &keys, more].concat(), b"")
    };

    let alone = open(&id, &[&first], &[]);
    assert_eq!((alone.status.code(), alone.stdout.len()), (Some(2), 0), "{alone:?}");
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(said.contains("all openers are needed") && said.contains(&openers[1]), "{said}");
    let opened = open(&id, &[&second, &first], &[]);
    assert!(opened.status.success(), "{opened:?}");
    let values = lines(&opened).remove(0);
    assert_eq!((&values["id"], &values["kind"]), (&json!(id), &json!("decision")));
    let value = &values["values"][0];
    assert_eq!((&value["subject"], &value["client"]), (&json!(ALICE), &json!("127.0.0.1")));
    assert_eq!((&value["tenant"], &value["jti"]), (&json!("acme"), &Value::Null), "only what is configured");
    let items = lines(&open(&many, &[&first, &second], &[])).remove(0);
    assert_eq!((&items["values"][0]["item"], &items["values"][0]["subject"]), (&json!(1), &json!(ALICE)));

    // The log said so before anything was shown, and says nothing of whom.
    let tail = edgate(&["audit", "tail", "--kind", "admin", "--json", "--dir", dir.to_str().unwrap()], b"");
    let openings = lines(&tail);
    assert_eq!(openings.len(), 2);
    assert_eq!(openings[0]["id"], values["record"]);
    let body = &openings[0]["body"];
    assert_eq!((&body["action"], &body["target"]), (&json!("sealed_open"), &json!(id)));
    let detail = body["detail"].as_str().unwrap();
    assert!(openers.iter().all(|opener| detail.contains(opener)), "{detail}");
    for folder in [dir.clone(), dir.join("sealed-keys")] {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(bytes) = std::fs::read(&entry) else { continue };
            for value in [ALICE, "marker"] {
                let there = bytes.windows(value.len()).any(|window| window == value.as_bytes());
                assert!(!there, "{value} in {}", entry.display());
            }
        }
    }
    assert!(node.metric("audit_unsealed").abs() < 0.5);

    // Keys of today are in use; those of a day that is over go, on record.
    let (today, key) = (value["day"].as_str().unwrap().to_owned(), value["key"].as_str().unwrap());
    let path = dir.join("sealed-keys").join(format!("{today}.{key}.key"));
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\ntenant acme\n"), "{text}");
    let old = text.replace(&today, "2020-02-29");
    let digest = edgate::audit::hex(&Sha256::digest(&old)[..16]);
    let old_path = path.with_file_name(format!("2020-02-29.{digest}.key"));
    std::fs::write(&old_path, old).unwrap();
    let destroy = |day: &str| {
        let what =
            ["audit", "sealed", "destroy", "--tenant", "acme", "--day", day, "--authority", "ticket 9"];
        edgate(&[&what[..], &["--reason", "end of retention", "--json", "--control", &control]].concat(), b"")
    };
    assert_eq!(destroy(&today).status.code(), Some(2), "in use");
    assert_eq!(destroy("2020-03-01").status.code(), Some(2), "no such key");
    let destroyed = destroy("2020-02-29");
    assert!(destroyed.status.success(), "{destroyed:?}");
    assert!(!old_path.exists());
    let marker = std::fs::read_to_string(old_path.with_extension("destroyed")).unwrap();
    let dir_text = dir.to_str().unwrap().to_owned();
    let mut changes =
        lines(&edgate(&["audit", "tail", "--kind", "key_change", "--json", "--dir", &dir_text], b""));
    // The first start put on record which signing key it found.
    changes.retain(|row| row["body"]["what"].as_str().is_some_and(|what| what.starts_with("audit.")));
    assert_eq!(changes[0]["id"], marker.trim());
    assert_eq!(changes[1]["body"]["what"], "audit.sealed_key, tenant \"acme\", 2020-02-29");
    assert_eq!(changes[1]["body"]["after"], "destroyed by ticket 9: end of retention");

    // Without the node nothing is opened but on a copy; with the key goes the name.
    node.kill();
    let refused = open(&id, &[&first, &second], &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(69), 0), "{refused:?}");
    let unrecorded = open(&id, &[&first, &second], &["--unrecorded"]);
    assert_eq!(lines(&unrecorded)[0]["values"][0]["subject"], ALICE);
    std::fs::remove_file(&path).unwrap();
    let lost = open(&id, &[&first, &second], &["--unrecorded"]);
    assert_eq!(lost.status.code(), Some(2));
    assert!(String::from_utf8(lost.stderr).unwrap().contains("LOST"));
    std::fs::write(path.with_extension("destroyed"), &marker).unwrap();
    let redacted = open(&id, &[&first, &second], &["--unrecorded"]);
    assert_eq!(redacted.status.code(), Some(1));
    let said = String::from_utf8(redacted.stderr).unwrap();
    assert!(said.contains("redacted, authorised") && said.contains(marker.trim()), "{said}");
    let verified = edgate(&["audit", "verify", "--dir", &dir_text, "--allow-unsigned"], b"");
    assert!(verified.status.success(), "{verified:?}");
}
