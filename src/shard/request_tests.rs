//! What a token that waits keeps of its verification.

use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};

use super::*;
use crate::base64url;
use crate::keys::{IssuerIndex, KeySet, PublishedKey};
use crate::revocation::{Freshness, View};
use crate::token::ProfileKind;
use crate::verify::{Engine, Verifier, VerifyingKey};

const NOW: u64 = 1_800_000_000;

/// Two issuers whose keys have one name, the second of which keeps an allow list.
fn policy() -> Policy {
    let key = |seed| {
        let key = SigningKey::from_bytes(&[seed; 32]).verifying_key();
        PublishedKey { kid: "k".to_owned(), verifying_key: VerifyingKey::register(key.as_bytes()).unwrap() }
    };
    let profile = |name: &str| {
        let text = |text: &str| text.to_owned();
        let mut profile = Profile::new(
            ProfileKind::Jwt,
            text(name),
            text("tenant"),
            format!("https://{name}"),
            vec![text("a")],
        );
        profile.max_lifetime_s = None;
        profile
    };
    let keys = vec![(IssuerIndex(0), vec![key(1)]), (IssuerIndex(1), vec![key(2)])];
    let mut policy = Policy::plain(KeySet::new(keys).unwrap(), vec![profile("one"), profile("two")]);
    policy.rules[1].allow_list = true;
    policy
}

fn token() -> String {
    let header = base64url::encode(br#"{"alg":"Ed25519","kid":"k"}"#);
    let payload =
        format!(r#"{{"iss":"https://two","sub":"s","aud":"a","exp":{},"iat":{NOW},"jti":"j"}}"#, NOW + 60);
    let input = format!("{header}.{}", base64url::encode(payload.as_bytes()));
    let signature = SigningKey::from_bytes(&[2; 32]).sign(input.as_bytes()).to_bytes();
    token::assemble(input, &signature)
}

#[test]
fn a_token_that_waited_is_not_verified_again_unless_the_policy_changed() {
    let (policy, view) = (policy(), View::new(&[0; 16], 0, Freshness::authoritative(Instant::now())));
    let (look, realms, mut scratch) = (view.look(), policy.realms(&view), token::Scratch::default());
    let text = token();

    let admitted = admit(text.as_bytes(), &policy, &Delegates::default(), &mut scratch).unwrap();
    let items: Vec<Item<'_>> = admitted.items().collect();
    assert_eq!(items.len(), 2, "one for each issuer's key of that name");
    let mut verdicts = Vec::new();
    Verifier::new(Engine::Auto).verify(&items, &mut verdicts);
    let moment = |policy| Moment {
        policy,
        look: &look,
        realms: &realms,
        now: UnixSeconds(NOW),
        stale: false,
        lists: None,
    };
    let mut verdicts = verdicts.into_iter();
    let settled = settle(admitted, &mut verdicts, &moment(&policy), &Demand::default(), &mut scratch);
    let (inquiry, proof) = settled.inquiry().expect("the allow list must be asked");
    assert_eq!(inquiry.identity().issuer, "https://two");

    // The same proof under the same policy: nothing to verify, and it is the second issuer's key that stands.
    let again = admit(text.as_bytes(), &policy, &Delegates::default(), &mut scratch)
        .unwrap()
        .proven(Some(proof), &policy);
    assert_eq!(again.items().count(), 0);
    let settled = settle(again, &mut std::iter::empty(), &moment(&policy), &Demand::default(), &mut scratch);
    assert_eq!(settled.profile.map(|profile| &*profile.name), Some("two"));
    let (_, proof) = settled.inquiry().expect("asked about again");

    let mut changed = self::policy();
    changed.epoch = 1;
    let policy = changed;
    let later = admit(text.as_bytes(), &policy, &Delegates::default(), &mut scratch)
        .unwrap()
        .proven(Some(proof), &policy);
    assert_eq!(later.items().count(), 2);
    let settled = settle(later, &mut std::iter::empty(), &moment(&policy), &Demand::default(), &mut scratch);
    assert_eq!(settled.decision, Decision::Rejected(Rejection::KeyUnknown), "no verdict, no acceptance");
}
