//! What is exported, and what is refused.

use std::{fs, net::Ipv4Addr};

use super::*;
use crate::audit::{
    Ack, BatchEvent, BatchItem, DecisionEvent, Event, Opened, Settings, TagKeys, folder::segment_name, open,
    tag::TagField,
};
use crate::decision::{Decision, Rejection};

fn decision(n: u64) -> DecisionEvent<'static> {
    let refused = n.is_multiple_of(3);
    DecisionEvent {
        surface: 1,
        decision: if refused { Rejection::Revoked.into() } else { Decision::Accepted },
        issuer: "agents",
        kid: if n.is_multiple_of(2) { "=cmd|'/C calc'!A0" } else { "2026-01" },
        tenant: if n.is_multiple_of(5) { "globex" } else { "acme" },
        caller: "",
        subject: Some("agent-1"),
        jti: Some("jti-1"),
        client: Some(Ipv4Addr::LOCALHOST.into()),
        policy_epoch: 1,
        revocation_epoch: 2,
        latency_us: 3,
        expires: None,
        stale: false,
    }
}

/// A log of 100 decisions and one call about two tokens, of which one is refused.
fn filled(dir: &Path) {
    let settings = Settings { create: true, ..Settings::new(dir, "example.com/log") };
    let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
    for n in 0..100 {
        appenders[0].append(&Event::Decision(decision(n)), Ack::Recorded).unwrap();
    }
    let item = |decision| BatchItem {
        decision,
        issuer: "agents",
        kid: "k9",
        tenant: "",
        subject: None,
        jti: None,
        expires: None,
        stale: false,
    };
    let items =
        [BatchItem { subject: Some("agent-9"), ..item(Decision::Accepted) }, item(Rejection::Expired.into())];
    let batch = BatchEvent {
        surface: 1,
        tenant: "initech",
        caller: "",
        client: None,
        policy_epoch: 1,
        revocation_epoch: 2,
        latency_us: 3,
        items: &items,
    };
    let last = appenders[0].append(&Event::DecisionBatch(batch), Ack::Durable).unwrap();
    appenders[0].wait(last, Ack::Durable, std::time::Duration::from_secs(30)).unwrap();
    log.close(std::time::Duration::from_secs(30)).unwrap();
}

fn exported(dir: &Path, filter: &Filter, format: Format) -> (Exported, String) {
    let mut out = Vec::new();
    let source = Source { dir, keys: &[], size: None };
    let exported = export(&source, filter, format, &mut out, &mut |_, _| {}).unwrap();
    assert_eq!(exported.digest, Hash::from(Sha256::digest(&out)));
    assert_eq!(exported.bytes, out.len() as u64);
    (exported, String::from_utf8(out).unwrap())
}

#[test]
fn filters_are_what_a_look_at_every_row_says() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let (all, rows) = exported(folder.path(), &Filter::default(), Format::JsonLines);
    let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!((all.rows, all.size), (rows.len() as u64, rows.len() as u64));
    assert_eq!(all.origin, "example.com/log");
    assert!(rows.windows(2).all(|pair| pair[1]["prev_hash"] == pair[0]["event_hash"]));
    assert_eq!(all.counts.decisions, BTreeMap::from([("accepted", 67), ("expired", 1), ("revoked", 34)]));

    assert_eq!(all.tag_epochs, BTreeSet::from([1]));

    let text = |text: &str| Some(text.to_owned());
    let keys = TagKeys::load(folder.path(), None).unwrap();
    let tag = |field, value: &[u8]| keys.tags(field, value)[0];
    let none = Filter::default;
    for (filter, expected) in [
        (Filter { kinds: vec![Kind::Decision], ..none() }, 100),
        (Filter { kinds: vec![Kind::Decision, Kind::DecisionBatch], ..none() }, 101),
        (Filter { tenant: text("globex"), ..none() }, 20),
        (Filter { tenant: text("nobody"), ..none() }, 0),
        (Filter { decision: text("revoked"), ..none() }, 34),
        (Filter { decision: text("accepted"), ..none() }, 67),
        (Filter { decision: text("revoked"), tenant: text("globex"), ..none() }, 7),
        (Filter { kid: text("2026-01"), ..none() }, 50),
        // Of the call about two tokens: one decision of it, with what the call says.
        (Filter { decision: text("expired"), tenant: text("initech"), kid: text("k9"), ..none() }, 1),
        (Filter { decision: text("expired"), kid: text("2026-01"), ..none() }, 0),
        (Filter { from_ns: Some(u64::MAX), ..none() }, 0),
        (Filter { tags: vec![[0; 16], tag(TagField::Subject, b"agent-1")], ..none() }, 100),
        (Filter { tags: vec![tag(TagField::Subject, b"agent-1")], decision: text("revoked"), ..none() }, 34),
        // The only subject in the call about two tokens.
        (Filter { tags: vec![tag(TagField::Subject, b"agent-9")], ..none() }, 1),
        (Filter { tags: vec![tag(TagField::Jti, b"agent-1")], ..none() }, 0),
        (Filter { to_ns: Some(u64::MAX), kinds: vec![Kind::Decision], ..none() }, 100),
    ] {
        let (one, rows) = exported(folder.path(), &filter, Format::JsonLines);
        assert_eq!(
            (one.rows, rows.lines().count()),
            (expected, usize::try_from(expected).unwrap()),
            "{filter:?}"
        );
        assert_eq!((one.size, &one.tree), (all.size, &all.tree));
    }
}

#[test]
fn a_spreadsheet_gets_text_and_every_row_its_hashes() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let filter = Filter { kinds: vec![Kind::Decision], ..Filter::default() };
    let (_, csv) = exported(folder.path(), &filter, Format::Csv);
    let (_, json) = exported(folder.path(), &filter, Format::JsonLines);
    let (mut lines, mut objects) = (csv.split("\r\n"), json.lines());
    assert_eq!(lines.next(), Some(rows::CSV_COLUMNS.join(",").as_str()));
    let row: serde_json::Value = serde_json::from_str(objects.next().unwrap()).unwrap();
    let line = lines.next().unwrap();
    for name in ["event_hash", "prev_hash", "id"] {
        assert!(line.contains(row[name].as_str().unwrap()), "{line}");
    }
    assert!(line.contains(",'=cmd|'/C calc'!A0,"), "{line}");
    assert_eq!(csv.matches("\r\n").count(), 101);
}

#[test]
fn of_a_broken_or_shorter_log_nothing_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = folder.path().join(segment_name(1));
    let good = fs::read(&path).unwrap();
    let attempt = |size| {
        let source = Source { dir: folder.path(), keys: &[], size };
        export(&source, &Filter::default(), Format::Csv, &mut io::sink(), &mut |_, _| {})
    };
    assert!(matches!(attempt(Some(10_000)), Err(ExportError::Short { wanted: 10_000, .. })));
    assert_eq!(attempt(Some(50)).unwrap().size, 50);
    fs::remove_file(&path).unwrap();
    for at in [300, good.len() / 2, 20_000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(matches!(attempt(None), Err(ExportError::Broken { .. })), "byte {at}");
    }
    // One record taken out whole.
    let second = stored_len(u32::from_le_bytes(good[4..8].try_into().unwrap()) as usize);
    let third =
        second + stored_len(u32::from_le_bytes(good[second + 4..second + 8].try_into().unwrap()) as usize);
    fs::write(&path, [&good[..second], &good[third..]].concat()).unwrap();
    assert!(matches!(attempt(None), Err(ExportError::Broken { seq: 1, .. })));
}
