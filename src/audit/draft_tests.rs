//! Records finished together against records finished alone.

use sha2::{Digest as _, Sha256};

use super::*;
use crate::audit::{
    BATCH_ITEMS_MAX, BatchEvent, BatchItem, DecisionEvent, Event, IssueEvent, Phase, StopEvent, body, cbor,
    schema::{self, Kind},
    sealed::Seals,
    tag::TagField,
};
use crate::decision::{Decision, UnixSeconds};

fn key() -> Arc<TagKey> {
    Arc::new(TagKey::new(&[9; 32]))
}

fn push(draft: &mut Draft, event: &Event<'_>, core_seq: u64) -> Result<usize, usize> {
    let stamp = Stamp { kind: event.kind(), flags: 2, core: 3, core_seq, epoch: event.epoch() };
    draft.push(|out, tags| body::encode(event, tags, &mut Seals::none(), out), &stamp)
}

fn decision<'a>(subject: &'a str, jti: &'a str, client: u8) -> DecisionEvent<'a> {
    DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k",
        tenant: "acme",
        caller: "",
        subject: Some(subject),
        jti: Some(jti),
        client: Some(std::net::Ipv4Addr::new(10, 0, 0, client).into()),
        policy_epoch: 7,
        revocation_epoch: 70_000,
        latency_us: 300,
        expires: Some(UnixSeconds(1 << 33)),
        stale: false,
    }
}

#[test]
fn records_finished_together_are_those_finished_alone() {
    // Few and many subjects and clients, values of every length up to more than a block, kinds without tags between.
    for (count, subjects, clients) in
        [(1, 1, 1), (7, 2, 1), (8, 8, 8), (64, 3, 2), (65, 200, 50), (300, 7, 255)]
    {
        let names: Vec<String> = (0..subjects).map(|n| format!("{}{n}", "s".repeat(n % 70))).collect();
        let ids: Vec<String> = (0..count).map(|n| format!("{n}{}", "j".repeat(n % 60))).collect();
        let mut together = Draft::new(key());
        let mut expected = Vec::new();
        for (n, id) in ids.iter().enumerate() {
            // A subject that is equal to the id of another token has another tag.
            let subject = if n % 5 == 0 { id } else { &names[n % subjects] };
            let of_token = Event::Decision(decision(subject, id, u8::try_from(n % clients).unwrap()));
            let event = if n % 9 == 8 { Event::Stop(StopEvent { reason: "r" }) } else { of_token };
            let mut alone = Draft::new(key());
            let core_seq = n as u64 + 1;
            assert_eq!(push(&mut together, &event, core_seq), push(&mut alone, &event, core_seq));
            expected.extend(alone.take(Vec::new()));
        }
        let bytes = together.take(Vec::with_capacity(10));
        assert!(bytes == expected, "{count} records, {subjects} subjects, {clients} clients");
        assert!(together.is_empty());
    }
}

#[test]
fn a_finished_record_has_the_tags_and_the_digest_of_its_values() {
    let mut draft = Draft::new(key());
    for round in 0..3 {
        let subjects: Vec<String> = (0..40).map(|n| format!("agent-{}", n % 13 + round)).collect();
        for (subject, core_seq) in subjects.iter().zip(1..) {
            push(&mut draft, &Event::Decision(decision(subject, subject, 4)), core_seq).unwrap();
        }
        let bytes = draft.take(Vec::new());
        let mut at = 0;
        for subject in &subjects {
            let record = &bytes[at..];
            let len = stored_body_len(record.first_chunk().unwrap());
            let body = &record[HEADER_BYTES..][..len];
            assert_eq!(record[BODY_DIGEST], Sha256::digest(body)[..]);
            let fields = schema::read_body(Kind::Decision.code(), Kind::Decision.code(), body).unwrap();
            let tag = |field, value: &[u8]| key().tag(field, value).to_vec();
            assert_eq!(schema::bytes(&fields, 6).unwrap(), tag(TagField::Subject, subject.as_bytes()));
            assert_eq!(schema::bytes(&fields, 7).unwrap(), tag(TagField::Jti, subject.as_bytes()));
            assert_eq!(schema::bytes(&fields, 8).unwrap(), tag(TagField::Client, &[10, 0, 0, 4]));
            at += stored_len(len);
        }
        assert_eq!(at, bytes.len());
    }
}

#[test]
fn an_event_that_is_too_long_leaves_nothing_behind() {
    let name = "n".repeat(1000);
    let scope = vec![name.as_str(); 80];
    let long = Event::Issue(IssueEvent {
        phase: Phase::Done,
        actor: "op",
        issuer: "i",
        kid: "k",
        tenant: "t",
        subject: "a",
        jti: "b",
        issued_at: UnixSeconds(1),
        expires: UnixSeconds(2),
        scope: &scope,
        intent: None,
        failure: None,
    });
    let (mut with, mut without) = (Draft::new(key()), Draft::new(key()));
    for (subject, core_seq) in ["a", "b", "a", "c"].into_iter().zip(1..) {
        assert!(push(&mut with, &long, core_seq).unwrap_err() > BODY_BYTES_MAX);
        for draft in [&mut with, &mut without] {
            push(draft, &Event::Decision(decision(subject, "b", 1)), core_seq).unwrap();
        }
    }
    assert!(push(&mut with, &long, 9).is_err());
    assert!(with.take(Vec::new()) == without.take(Vec::new()));
    assert!(push(&mut with, &long, 9).is_err());
    assert!(with.is_empty() && with.take(Vec::new()).is_empty());
}

#[test]
fn a_call_about_many_tokens_has_the_tags_of_all() {
    let ids: Vec<String> = (0..BATCH_ITEMS_MAX).map(|n| format!("id-{n}")).collect();
    let item = |id| BatchItem {
        decision: Decision::Accepted,
        issuer: "i",
        kid: "k",
        tenant: "",
        subject: Some("one"),
        jti: Some(id),
        expires: None,
        stale: false,
    };
    let items: Vec<_> = ids.iter().map(|id| item(id)).collect();
    let batch = BatchEvent {
        surface: 1,
        tenant: "",
        caller: "",
        client: None,
        policy_epoch: 0,
        revocation_epoch: 0,
        latency_us: 0,
        items: &items,
    };
    let mut draft = Draft::new(key());
    push(&mut draft, &Event::DecisionBatch(batch), 1).unwrap();
    let bytes = draft.take(Vec::new());
    let len = stored_body_len(bytes.first_chunk().unwrap());
    let Ok(cbor::Value::Map(fields)) = cbor::decode(&bytes[HEADER_BYTES..][..len]) else { panic!("a map") };
    let Some((_, cbor::Value::Array(items))) = fields.last() else { panic!("items") };
    for (item, id) in items.iter().zip(&ids) {
        let cbor::Value::Map(fields) = item else { panic!("an item") };
        let tag = |field, value: &str| key().tag(field, value.as_bytes());
        assert!(fields.contains(&(6, cbor::Value::Bytes(&tag(TagField::Subject, "one")))));
        assert!(fields.contains(&(7, cbor::Value::Bytes(&tag(TagField::Jti, id)))));
    }
    assert_eq!(items.len(), BATCH_ITEMS_MAX);
}
