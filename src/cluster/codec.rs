//! Changes and identities as bytes in Redis. One encoding for each value, so that equal things are equal members.
//!
//! Integers are big-endian. An identity is the kind's number (1 byte), the tenant and the issuer each behind its length
//! (2 bytes), then the name. A change is the version (1 byte), the effect's number (1 byte), its second, its own epoch,
//! the second from which it may be forgotten and the one it was made in (8 bytes each), reason and actor each behind its
//! length (2 bytes), then the identity.

use crate::decision::UnixSeconds;
use crate::revocation::{Change, Effect, Switch, TargetKind};
use crate::store::StoredChange;

/// The identity of something that can be revoked; `None` where a part is longer than any may be.
pub(super) fn identity(kind: TargetKind, tenant: &str, issuer: &str, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(5 + tenant.len() + issuer.len() + name.len());
    bytes.push(kind_number(kind));
    put_text(&mut bytes, tenant)?;
    put_text(&mut bytes, issuer)?;
    bytes.extend_from_slice(name.as_bytes());
    Some(bytes)
}

/// What [`identity`] wrote: kind, tenant, issuer, name.
pub(super) fn parse_identity(bytes: &[u8]) -> Option<(TargetKind, &str, &str, &str)> {
    let mut rest = bytes;
    let kind = kind_of(take(&mut rest, 1)?[0])?;
    let tenant = take_text(&mut rest)?;
    let issuer = take_text(&mut rest)?;
    let name = std::str::from_utf8(rest).ok()?;
    Some((kind, tenant, issuer, name))
}

/// A change as it stands in a stream entry. `own_epoch` 0: the entry's epoch is the change's.
pub(super) fn change(change: &StoredChange, own_epoch: u64) -> Option<Vec<u8>> {
    let identity = identity(change.kind, &change.tenant, &change.issuer, &change.name)?;
    let (effect, second) = match change.effect {
        Effect::IssuedUntil(second) => (ISSUED_UNTIL, second),
        Effect::RefusedUntil(second) => (REFUSED_UNTIL, second),
        Effect::Switched(state) => (switch_number(state), UnixSeconds(0)),
    };
    let mut bytes = Vec::with_capacity(64 + identity.len() + change.reason.len() + change.actor.len());
    bytes.extend_from_slice(&[VERSION, effect]);
    for number in [second.0, own_epoch, change.forget_at.0, change.changed_at.0] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    put_text(&mut bytes, &change.reason)?;
    put_text(&mut bytes, &change.actor)?;
    bytes.extend_from_slice(&identity);
    Some(bytes)
}

/// What [`change`] wrote, with the epoch of the entry it stood in.
pub(super) fn parse_change(bytes: &[u8], entry_epoch: u64) -> Option<StoredChange> {
    let mut rest = bytes;
    let head = take(&mut rest, 2)?;
    if head[0] != VERSION {
        return None;
    }
    let second = UnixSeconds(take_number(&mut rest)?);
    let effect = match head[1] {
        ISSUED_UNTIL => Effect::IssuedUntil(second),
        REFUSED_UNTIL => Effect::RefusedUntil(second),
        number if second.0 == 0 => Effect::Switched(switch_of(number)?),
        _ => return None,
    };
    let own_epoch = take_number(&mut rest)?;
    let forget_at = UnixSeconds(take_number(&mut rest)?);
    let changed_at = UnixSeconds(take_number(&mut rest)?);
    let reason = take_text(&mut rest)?;
    let actor = take_text(&mut rest)?;
    let (kind, tenant, issuer, name) = parse_identity(rest)?;
    let epoch = if own_epoch == 0 { entry_epoch } else { own_epoch };
    Change::new(kind, tenant, issuer, name, effect, epoch)?;
    Some(StoredChange {
        kind,
        tenant: tenant.to_owned(),
        issuer: issuer.to_owned(),
        name: name.to_owned(),
        effect,
        forget_at,
        changed_at,
        reason: reason.to_owned(),
        actor: actor.to_owned(),
        epoch,
    })
}

/// A second as a sorted set's score. A score is a double, exact below 2^53; later times mean "never".
pub(super) fn score(second: UnixSeconds) -> String {
    if second.0 > SCORE_MAX { "inf".to_owned() } else { second.0.to_string() }
}

/// What [`score`] wrote, as Redis gives it back.
pub(super) fn parse_score(bytes: &[u8]) -> Option<UnixSeconds> {
    match bytes {
        b"inf" | b"+inf" => Some(UnixSeconds(u64::MAX)),
        _ => {
            // Redis may choose `1.7e+09` for a double; integers of this size it writes plainly.
            let second: u64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
            (second <= SCORE_MAX).then_some(UnixSeconds(second))
        }
    }
}

/// The state and the epoch in a hash's value.
pub(super) fn parse_switch(bytes: &[u8]) -> Option<(Switch, u64)> {
    let (epoch, state) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    Some((Switch::from_name(state)?, epoch.parse().ok()?))
}

fn put_text(bytes: &mut Vec<u8>, text: &str) -> Option<()> {
    bytes.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    take(rest, 8)?.try_into().ok().map(u64::from_be_bytes)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    std::str::from_utf8(take(rest, usize::from(len))?).ok()
}

// Stored in Redis: never change or reuse a number.
const fn kind_number(kind: TargetKind) -> u8 {
    match kind {
        TargetKind::Issuer => 1,
        TargetKind::Kid => 2,
        TargetKind::Session => 3,
        TargetKind::Subject => 4,
        TargetKind::Tenant => 5,
        TargetKind::Token => 6,
    }
}

fn kind_of(number: u8) -> Option<TargetKind> {
    TargetKind::ALL.iter().copied().find(|kind| kind_number(*kind) == number)
}

const fn switch_number(state: Switch) -> u8 {
    match state {
        Switch::Enabled => 3,
        Switch::Disabled => 4,
        Switch::Revoked => 5,
    }
}

fn switch_of(number: u8) -> Option<Switch> {
    [Switch::Enabled, Switch::Disabled, Switch::Revoked]
        .into_iter()
        .find(|state| switch_number(*state) == number)
}

const VERSION: u8 = 1;
const ISSUED_UNTIL: u8 = 1;
const REFUSED_UNTIL: u8 = 2;

/// The largest second that a double holds exactly.
const SCORE_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-c]{1,3}", "\\PC{0,40}", Just("\0\u{1}:{}".to_owned())]
    }

    fn effect() -> impl Strategy<Value = Effect> {
        let second = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(UnixSeconds);
        prop_oneof![
            second.clone().prop_map(Effect::IssuedUntil),
            second.prop_map(Effect::RefusedUntil),
            prop_oneof![Just(Switch::Enabled), Just(Switch::Disabled), Just(Switch::Revoked)]
                .prop_map(Effect::Switched),
        ]
    }

    fn stored() -> impl Strategy<Value = StoredChange> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
        (prop::sample::select(TargetKind::ALL), text(), text(), text(), effect(), text(), text(), numbers)
            .prop_map(
                |(kind, tenant, issuer, name, effect, reason, actor, (forget_at, changed_at, epoch))| {
                    StoredChange {
                        kind,
                        tenant,
                        issuer,
                        name,
                        effect,
                        forget_at: UnixSeconds(forget_at),
                        changed_at: UnixSeconds(changed_at),
                        reason,
                        actor,
                        epoch,
                    }
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_written_is_read_back(one in stored()) {
            let bytes = change(&one, 0).unwrap();
            let back = parse_change(&bytes, one.epoch);
            prop_assert_eq!(back, one.change().map(|_| one.clone()));
            let bytes = change(&one, one.epoch).unwrap();
            let epoch = if one.epoch == 0 { 9 } else { one.epoch };
            prop_assert_eq!(parse_change(&bytes, 9).map(|back| back.epoch), one.change().map(|_| epoch));
        }

        #[test]
        fn two_identities_never_share_bytes(
            a in (text(), text(), text()), b in (text(), text(), text()),
        ) {
            let of = |(tenant, issuer, name): &(String, String, String)| {
                identity(TargetKind::Token, tenant, issuer, name).unwrap()
            };
            prop_assert_eq!(of(&a) == of(&b), a == b);
            let bytes = of(&a);
            prop_assert_eq!(
                parse_identity(&bytes),
                Some((TargetKind::Token, a.0.as_str(), a.1.as_str(), a.2.as_str()))
            );
        }

        #[test]
        fn bytes_that_are_read_are_the_only_bytes_of_their_change(
            one in stored(), at in any::<prop::sample::Index>(), bit in 0..8_u32, cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = change(&one, 7).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Some(read) = parse_change(&bytes, 7) {
                // An own epoch of 0 reads as the entry's, 7.
                let own = u64::from_be_bytes(bytes[10..18].try_into().unwrap());
                prop_assert_eq!(change(&read, own).unwrap(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_change(&bytes, 1);
            let _ = parse_identity(&bytes);
            let _ = parse_score(&bytes);
            let _ = parse_switch(&bytes);
        }
    }

    #[test]
    fn scores_are_exact_or_never() {
        for second in [0, 1, 1_800_000_000, SCORE_MAX] {
            assert_eq!(parse_score(score(UnixSeconds(second)).as_bytes()), Some(UnixSeconds(second)));
        }
        assert_eq!(parse_score(score(UnixSeconds(SCORE_MAX + 1)).as_bytes()), Some(UnixSeconds(u64::MAX)));
        assert_eq!(parse_score(b"1.5"), None);
        assert_eq!(parse_score(b"nan"), None);
    }

    #[test]
    fn switches_are_read_back() {
        let switch = |state: Switch, epoch: u64| format!("{epoch} {}", state.name());
        for state in [Switch::Enabled, Switch::Disabled, Switch::Revoked] {
            assert_eq!(parse_switch(switch(state, 12).as_bytes()), Some((state, 12)));
        }
        assert_eq!(parse_switch(b"disabled"), None);
        assert_eq!(parse_switch(b"x disabled"), None);
    }

    #[test]
    fn a_part_that_is_too_long_is_not_cut() {
        assert_eq!(identity(TargetKind::Token, &"x".repeat(65_536), "i", "j"), None);
    }
}
