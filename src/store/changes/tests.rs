//! Changes on disk, over a real file.

use super::*;
use crate::store::LoadProgress;
use crate::store::OpenMode;
use crate::store::load::LOAD_ROWS;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

async fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap()
}

fn token(jti: &str, until: u64) -> StoredChange {
    StoredChange {
        kind: TargetKind::Token,
        tenant: "acme".into(),
        issuer: "https://issuer.example".into(),
        name: jti.into(),
        effect: Effect::RefusedUntil(UnixSeconds(until)),
        forget_at: UnixSeconds(until),
        changed_at: NOW,
        reason: "lost laptop".into(),
        actor: "control:127.0.0.1".into(),
        epoch: 0,
    }
}

fn subject(issued_until: u64) -> StoredChange {
    let effect = Effect::IssuedUntil(UnixSeconds(issued_until));
    StoredChange { kind: TargetKind::Subject, effect, ..token("agent-1", issued_until + 3600) }
}

fn switch(kind: TargetKind, state: Switch, reason: &str) -> StoredChange {
    let (issuer, name) = match kind {
        TargetKind::Tenant => ("", ""),
        TargetKind::Issuer => ("https://issuer.example", ""),
        _ => ("https://issuer.example", "name-1"),
    };
    StoredChange {
        kind,
        issuer: issuer.into(),
        name: name.into(),
        effect: Effect::Switched(state),
        forget_at: UnixSeconds(u64::MAX),
        reason: reason.into(),
        ..token("", 0)
    }
}

async fn record(store: &Store, change: &StoredChange) -> Recorded {
    store.record_changes(std::slice::from_ref(change), 0).await.unwrap().1.remove(0)
}

async fn all(store: &Store, now: UnixSeconds) -> Vec<StoredChange> {
    let mut all = Vec::new();
    let loaded = store.load_changes(now, |batch, _| all.extend_from_slice(batch)).await.unwrap();
    assert_eq!(loaded, all.len() as u64);
    all
}

#[tokio::test]
async fn changes_and_their_epoch_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir).await;
    let changes =
        [token("one", NOW.0 + 10), subject(NOW.0), switch(TargetKind::Tenant, Switch::Revoked, "breach")];
    let (epoch, recorded) = first.record_changes(&changes, 41).await.unwrap();
    assert_eq!(epoch, 42);
    assert!(recorded.iter().all(|one| !one.already));
    first.close().await;
    let again = store(&dir).await;
    let mut found = all(&again, NOW).await;
    found.sort_by_key(|change| change.kind.name());
    let expected: Vec<StoredChange> =
        [1, 2, 0].iter().map(|i| StoredChange { epoch: 42, ..changes[*i].clone() }).collect();
    assert_eq!(found, expected);
    assert_eq!(again.revocation_epoch().await.unwrap(), 42);
    assert_eq!(again.record_changes(&[token("two", NOW.0 + 10)], 0).await.unwrap().0, 43);
}

#[tokio::test]
async fn revoking_again_keeps_the_first_story_and_the_later_expiry() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    assert!(!record(&store, &token("one", NOW.0 + 10)).await.already);
    for (until, expected) in [(NOW.0 + 50, NOW.0 + 50), (NOW.0 + 20, NOW.0 + 50)] {
        let again =
            StoredChange { changed_at: NOW.saturating_add(5), reason: "x".into(), ..token("one", until) };
        let recorded = record(&store, &again).await;
        assert!(recorded.already);
        assert_eq!(recorded.stands.changed_at, NOW);
        assert_eq!(recorded.stands.reason, "lost laptop");
        assert_eq!(recorded.stands.effect, Effect::RefusedUntil(UnixSeconds(expected)));
    }
}

#[tokio::test]
async fn a_watermark_moves_later_only_and_a_switch_of_the_same_subject_stands_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    assert!(!record(&store, &subject(NOW.0)).await.already);
    let later = StoredChange { reason: "again".into(), ..subject(NOW.0 + 5) };
    let recorded = record(&store, &later).await;
    assert!(!recorded.already);
    assert_eq!(recorded.stands.reason, "again");
    let recorded = record(&store, &subject(NOW.0 + 1)).await;
    assert!(recorded.already);
    assert_eq!(recorded.stands.effect, Effect::IssuedUntil(UnixSeconds(NOW.0 + 5)));
    let disabled =
        StoredChange { name: "agent-1".into(), ..switch(TargetKind::Subject, Switch::Disabled, "") };
    assert!(!record(&store, &disabled).await.already);
    assert_eq!(all(&store, NOW).await.len(), 2);
}

#[tokio::test]
async fn a_switch_takes_the_latest_state_and_revoked_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let state = |recorded: Recorded| (recorded.already, recorded.stands.effect, recorded.stands.reason);
    let of = |state, reason| switch(TargetKind::Kid, state, reason);
    let expect = |already, state, reason: &str| (already, Effect::Switched(state), reason.to_owned());
    for (change, expected) in [
        (of(Switch::Disabled, "a"), expect(false, Switch::Disabled, "a")),
        (of(Switch::Disabled, "b"), expect(true, Switch::Disabled, "a")),
        (of(Switch::Enabled, "c"), expect(false, Switch::Enabled, "c")),
        (of(Switch::Revoked, "d"), expect(false, Switch::Revoked, "d")),
        (of(Switch::Enabled, "e"), expect(true, Switch::Revoked, "d")),
    ] {
        assert_eq!(state(record(&store, &change).await), expected);
    }
}

#[tokio::test]
async fn what_arrives_late_from_other_nodes_does_not_undo_what_is_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let enabled = StoredChange { epoch: 9, ..switch(TargetKind::Kid, Switch::Enabled, "new") };
    let disabled = StoredChange { epoch: 8, ..switch(TargetKind::Kid, Switch::Disabled, "old") };
    store.merge_changes(std::slice::from_ref(&enabled)).await.unwrap();
    store.merge_changes(&[disabled]).await.unwrap();
    assert_eq!(all(&store, NOW).await, [enabled]);
    assert_eq!(store.revocation_epoch().await.unwrap(), 9);
}

#[tokio::test]
async fn what_was_published_takes_the_shared_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let (local, _) = store.record_changes(&[token("one", NOW.0 + 10)], 0).await.unwrap();
    store.mark_published(local, 77).await.unwrap();
    assert_eq!(all(&store, NOW).await[0].epoch, 77);
    assert_eq!(store.revocation_epoch().await.unwrap(), 77);
}

#[tokio::test]
async fn the_same_name_of_another_tenant_issuer_or_kind_is_another_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let one = token("one", NOW.0 + 10);
    let tenant = StoredChange { tenant: "other".into(), ..one.clone() };
    let issuer = StoredChange { issuer: "https://other.example".into(), ..one.clone() };
    let session = StoredChange { kind: TargetKind::Session, effect: Effect::IssuedUntil(NOW), ..one.clone() };
    for row in [&one, &tenant, &issuer, &session] {
        assert!(!record(&store, row).await.already);
    }
    assert_eq!(all(&store, NOW).await.len(), 4);
}

#[tokio::test]
async fn the_load_comes_in_batches_with_progress_and_leaves_out_the_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let rows = LOAD_ROWS + 5;
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) INSERT INTO changes \
         SELECT 'acme', 'token', 'iss', 'jti-' || i, 'refused_until', $2, $2, 0, '', '', 1, 0, 0 FROM n",
    )
    .bind(rows)
    .bind(seconds(NOW) + 1)
    .execute(&store.pool)
    .await
    .unwrap();
    record(&store, &token("expired", NOW.0)).await;

    let mut seen = Vec::new();
    let mut names = std::collections::HashSet::new();
    let take = |batch: &[StoredChange], progress: LoadProgress| {
        seen.push((batch.len(), progress));
        names.extend(batch.iter().map(|row| row.name.clone()));
    };
    assert_eq!(store.load_changes(NOW, take).await.unwrap(), rows.cast_unsigned());
    assert_eq!(names.len() as u64, rows.cast_unsigned());
    assert!(!names.contains("expired"));
    let total = rows.cast_unsigned();
    assert_eq!(seen.last().unwrap().1, LoadProgress { loaded: total, total });
    assert_eq!(seen.len(), 2);

    let mut viewed = std::collections::HashSet::new();
    let take = |batch: &[Change<'_>], _| viewed.extend(batch.iter().map(|one| one.name().to_owned()));
    assert_eq!(store.load_view(NOW, take).await.unwrap(), rows.cast_unsigned());
    assert_eq!(viewed, names);
}

#[tokio::test]
async fn a_view_gets_every_kind_of_change_as_it_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    record(&store, &token("gone", NOW.0 + 10)).await;
    record(&store, &subject(NOW.0)).await;
    for (kind, name) in [(TargetKind::Kid, "k"), (TargetKind::Issuer, ""), (TargetKind::Subject, "agent-1")] {
        record(&store, &switch(kind, Switch::Disabled, name)).await;
    }
    let mut whole = Vec::new();
    store.load_changes(NOW, |batch, _| whole.extend_from_slice(batch)).await.unwrap();
    let mut seen = 0;
    let take = |batch: &[Change<'_>], _| {
        seen += batch.len();
        assert!(batch.iter().copied().eq(whole.iter().map(|one| one.change().unwrap())));
    };
    store.load_view(NOW, take).await.unwrap();
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn the_purge_takes_what_was_forgotten_before_the_horizon_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    for until in [NOW.0 - 1, NOW.0, NOW.0 + 1] {
        record(&store, &token(&until.to_string(), until)).await;
    }
    record(&store, &switch(TargetKind::Issuer, Switch::Disabled, "")).await;
    assert_eq!(store.purge_changes(NOW).await.unwrap(), 1);
    assert_eq!(all(&store, UnixSeconds(0)).await.len(), 3);
}

#[tokio::test]
async fn a_page_of_the_list_does_not_cut_what_was_changed_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let changes: Vec<StoredChange> = (0..9)
        .map(|i| StoredChange { epoch: [2, 7][i / 4 % 2], ..token(&format!("jti-{i}"), NOW.0 + 10) })
        .collect();
    store.merge_changes(&changes).await.unwrap();
    let (mut filter, mut seen) = (ListFilter::default(), Vec::new());
    loop {
        let page = store.list_changes(&filter, NOW, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.epoch);
        seen.push(page.len());
    }
    assert_eq!(seen, [4, 5]);
}

#[tokio::test]
async fn the_list_is_filtered_and_paged_from_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    for i in 0..5 {
        record(&store, &token(&format!("jti-{i}"), NOW.0 + 10)).await;
    }
    record(&store, &StoredChange { tenant: "other".into(), ..subject(NOW.0) }).await;
    let names =
        |changes: Vec<StoredChange>| -> Vec<String> { changes.into_iter().map(|one| one.name).collect() };
    let of_acme = ListFilter { tenant: Some("acme".into()), ..ListFilter::default() };
    let first = store.list_changes(&of_acme, NOW, 2).await.unwrap();
    assert_eq!(names(first.clone()), ["jti-4", "jti-3"]);
    let next = ListFilter { before: Some(first[1].epoch), ..of_acme };
    assert_eq!(names(store.list_changes(&next, NOW, 9).await.unwrap()), ["jti-2", "jti-1", "jti-0"]);
    let subjects = ListFilter { kind: Some(TargetKind::Subject), ..ListFilter::default() };
    assert_eq!(names(store.list_changes(&subjects, NOW, 9).await.unwrap()), ["agent-1"]);
}
