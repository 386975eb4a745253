//! All of a node's signing keys, and what may be done to which of them.

use super::{KeyState, Refusal, Rules, SigningKey, UnixMillis};

/// The signing keys of one node. At most one of them is Active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    // In the order in which they were made.
    keys: Vec<SigningKey>,
    rules: Rules,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// This Draft takes over.
    Activate(String),
    /// A Draft is made, so that it has propagated when its time comes.
    Prepare,
    /// This Draft is in the JWKS that is served, and it is noted since when.
    Publish(String),
    /// Nothing that this key signed can be valid any more.
    Retire(String),
}

/// What a start found and put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// The key.
    pub kid: String,
    /// The state it was stored with.
    pub from: KeyState,
    /// The state it has.
    pub to: KeyState,
}

impl Ring {
    /// The keys as they were stored, whatever a crash left half done: of two that are Active the later one is, since it may
    /// have signed, and the other one may have signed until `now`; what was killed is Retired. Returns what was changed.
    pub fn load(
        mut keys: Vec<SigningKey>,
        rules: Rules,
        is_killed: impl Fn(&str) -> bool,
        now: UnixMillis,
    ) -> (Self, Vec<Mended>) {
        keys.sort_by(|a, b| (a.created, &a.kid).cmp(&(b.created, &b.kid)));
        let before: Vec<KeyState> = keys.iter().map(|key| key.state).collect();
        for key in keys.iter_mut().filter(|key| key.state.verifies() && is_killed(&key.kid)) {
            key.state = KeyState::Retired;
            key.retired = Some(now);
        }
        let active = |key: &&SigningKey| key.state == KeyState::Active;
        let latest = keys.iter().filter(active).max_by_key(|key| key.activated).map(|key| key.kid.clone());
        for key in &mut keys {
            match key.state {
                KeyState::Active if latest.as_ref() != Some(&key.kid) => key.stop(now),
                KeyState::Active => key.verify_for_ms = key.verify_for_ms.max(rules.verify_for_ms),
                // Stored before it was done: until when it signed is not known.
                KeyState::Trusted if key.retire_not_before.is_none() => key.stop(now),
                _ => {}
            }
        }
        let changed = keys.iter().zip(before).filter(|(key, before)| key.state != *before);
        let mended =
            changed.map(|(key, from)| Mended { kid: key.kid.clone(), from, to: key.state }).collect();
        (Self { keys, rules }, mended)
    }

    /// Every key, the oldest first.
    #[must_use]
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// What the configuration asks of them.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn key(&self, kid: &str) -> Result<&SigningKey, Refusal> {
        let key = self.keys.iter().find(|key| key.kid == kid);
        key.ok_or_else(|| Refusal::Unknown { kid: kid.to_owned() })
    }

    /// The key that signs.
    #[must_use]
    pub fn active(&self) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.state == KeyState::Active)
    }

    /// The keys that are published and verify.
    pub fn verifying(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().filter(|key| key.state.verifies())
    }

    /// The Draft that a rotation makes Active: the one published first.
    #[must_use]
    pub fn draft(&self) -> Option<&SigningKey> {
        let drafts = self.keys.iter().filter(|key| key.state == KeyState::Draft);
        drafts.min_by_key(|key| key.published.unwrap_or(UnixMillis(u64::MAX)))
    }

    /// When this key may sign, the backup left aside; `None` if it is no Draft or is not known to be published yet.
    #[must_use]
    pub fn ready_at(&self, key: &SigningKey) -> Option<UnixMillis> {
        let published = key.published.filter(|_| key.state == KeyState::Draft)?;
        Some(published.saturating_add(self.rules.propagation_ms))
    }

    /// Whether another key may be made.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn may_create(&self) -> Result<(), Refusal> {
        let max = self.rules.published_max;
        if self.verifying().count() >= max { Err(Refusal::Full { max }) } else { Ok(()) }
    }

    /// A new Draft, which verifies from now on.
    ///
    /// # Errors
    /// [`Refusal::Full`]; [`Refusal::WrongState`] if the key is there already.
    pub fn create(&mut self, key: NewKey, now: UnixMillis) -> Result<&SigningKey, Refusal> {
        if let Ok(known) = self.key(&key.kid) {
            return Err(wrong_state(known, "a new key is one that this node never had"));
        }
        self.may_create()?;
        self.keys.push(SigningKey { created: now, ..SigningKey::unused(key) });
        Ok(self.keys.last().expect("pushed just now"))
    }

    /// The private half of this key is at another place than it was; where it was, if that is a change.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn relocate(&mut self, kid: &str, place: &str) -> Result<Option<String>, Refusal> {
        self.key(kid)?;
        let before = std::mem::replace(&mut self.found(kid).place, place.to_owned());
        Ok((before != place).then_some(before))
    }

    /// The first key of a node, which signs at once: there is nobody yet who has a JWKS without it.
    pub fn adopt_first(&mut self, key: NewKey, now: UnixMillis) {
        assert!(self.keys.is_empty(), "a first key is adopted by an empty ring");
        let kid = key.kid.clone();
        self.create(key, now).expect("an empty ring takes a key");
        let verify_for_ms = self.rules.verify_for_ms;
        let key = self.keys.iter_mut().find(|key| key.kid == kid).expect("created just now");
        (key.published, key.activated, key.wanted) = (Some(now), Some(now), false);
        (key.state, key.verify_for_ms) = (KeyState::Active, verify_for_ms);
    }

    /// The Draft is in the JWKS that is served now. A second time changes nothing.
    pub fn publish(&mut self, kid: &str, now: UnixMillis) {
        if let Some(key) = self.keys.iter_mut().find(|key| key.kid == kid)
            && key.state == KeyState::Draft
        {
            key.published.get_or_insert(now);
        }
    }

    /// This Draft, and no other, is to take over as soon as it may.
    pub fn want(&mut self, kid: &str) {
        for key in &mut self.keys {
            key.wanted = key.kid == kid && key.state == KeyState::Draft;
        }
    }

    /// Whether this Draft may sign now.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn may_activate(&self, kid: &str, now: UnixMillis) -> Result<(), Refusal> {
        let key = self.key(kid)?;
        // What was disabled by mistake is still in every JWKS.
        if !matches!(key.state, KeyState::Draft | KeyState::Trusted) {
            return Err(wrong_state(key, "only a key that is published and does not sign can begin to"));
        }
        let ready = key.published.map(|at| at.saturating_add(self.rules.propagation_ms));
        let wait_ms = ready.map_or(self.rules.propagation_ms, |ready| ready.since(now));
        // What has signed was in every JWKS then, and is still.
        if key.activated.is_none() && ready.is_none_or(|ready| now < ready) {
            return Err(Refusal::NotPropagated { kid: kid.to_owned(), wait_ms });
        }
        if self.rules.require_backup && key.backed_up.is_none() {
            return Err(Refusal::BackUpFirst { kid: kid.to_owned() });
        }
        Ok(())
    }

    /// What is stored before the Draft begins to sign: two Active keys, of which [`Ring::load`] takes this one.
    ///
    /// # Errors
    /// As [`Ring::may_activate`].
    pub fn claim(&self, kid: &str, now: UnixMillis) -> Result<SigningKey, Refusal> {
        self.may_activate(kid, now)?;
        let mut key = self.key(kid)?.clone();
        key.activate(now, &self.rules);
        Ok(key)
    }

    /// The Draft signs from now on, and the key before it no more; returns the names of those that changed.
    ///
    /// # Errors
    /// As [`Ring::may_activate`].
    pub fn activate(&mut self, kid: &str, now: UnixMillis) -> Result<Vec<String>, Refusal> {
        self.may_activate(kid, now)?;
        let mut changed = vec![kid.to_owned()];
        for key in &mut self.keys {
            if key.kid == kid {
                key.activate(now, &self.rules);
            } else if key.state == KeyState::Active {
                key.stop(now);
                changed.push(key.kid.clone());
            } else if std::mem::take(&mut key.wanted) {
                // One takes over at a time.
                changed.push(key.kid.clone());
            }
        }
        Ok(changed)
    }

    /// Whether this key can be put out of use without another in its place.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::WrongState`].
    pub fn may_disable(&self, kid: &str) -> Result<KeyState, Refusal> {
        let key = self.key(kid)?;
        match key.state {
            KeyState::Active => Ok(KeyState::Trusted),
            KeyState::Draft => Ok(KeyState::Retired),
            KeyState::Trusted | KeyState::Retired | KeyState::Destroyed => {
                Err(wrong_state(key, "only a key that signs, or is to sign, can be disabled"))
            }
        }
    }

    /// The Active key stops signing without a successor, or the Draft is given up. No Draft takes over by itself then.
    ///
    /// # Errors
    /// As [`Ring::may_disable`].
    pub fn disable(&mut self, kid: &str, now: UnixMillis) -> Result<Vec<String>, Refusal> {
        let to = self.may_disable(kid)?;
        let mut changed = vec![kid.to_owned()];
        for key in &mut self.keys {
            if key.kid == kid {
                match to {
                    KeyState::Trusted => key.stop(now),
                    _ => key.retire(now),
                }
            } else if to == KeyState::Trusted && key.wanted {
                key.wanted = false;
                changed.push(key.kid.clone());
            }
        }
        Ok(changed)
    }

    /// Whether this key may leave the JWKS now.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn may_retire(&self, kid: &str, now: UnixMillis) -> Result<(), Refusal> {
        let key = self.key(kid)?;
        match key.state {
            KeyState::Active => Err(Refusal::LastActive { kid: kid.to_owned() }),
            KeyState::Draft => Err(wrong_state(key, "a draft is given up by edgate keys disable")),
            KeyState::Trusted => match key.retire_not_before {
                Some(until) if until <= now => Ok(()),
                until => {
                    let wait_ms = until.map_or(u64::MAX, |until| until.since(now));
                    Err(Refusal::Outstanding { kid: kid.to_owned(), wait_ms })
                }
            },
            KeyState::Retired | KeyState::Destroyed => Err(wrong_state(key, "it is in no JWKS any more")),
        }
    }

    /// The key leaves the JWKS.
    ///
    /// # Errors
    /// As [`Ring::may_retire`].
    pub fn retire(&mut self, kid: &str, now: UnixMillis) -> Result<(), Refusal> {
        self.may_retire(kid, now)?;
        self.found(kid).retire(now);
        Ok(())
    }

    /// Whether the private half may be destroyed.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::WrongState`].
    pub fn may_destroy(&self, kid: &str) -> Result<(), Refusal> {
        match self.key(kid)? {
            key if key.state == KeyState::Retired => Ok(()),
            key => Err(wrong_state(key, "only a retired key is destroyed")),
        }
    }

    /// The private half is gone.
    ///
    /// # Errors
    /// As [`Ring::may_destroy`].
    pub fn destroy(&mut self, kid: &str, now: UnixMillis) -> Result<(), Refusal> {
        self.may_destroy(kid)?;
        let key = self.found(kid);
        (key.state, key.destroyed) = (KeyState::Destroyed, Some(now));
        Ok(())
    }

    /// Whether a backup of this key means anything.
    ///
    /// # Errors
    /// [`Refusal::Unknown`], [`Refusal::WrongState`].
    pub fn may_back_up(&self, kid: &str) -> Result<(), Refusal> {
        match self.key(kid)? {
            key if key.state.verifies() => Ok(()),
            key => Err(wrong_state(key, "a key that is out of use needs no backup")),
        }
    }

    /// An operator answers for a copy of this key.
    ///
    /// # Errors
    /// As [`Ring::may_back_up`].
    pub fn back_up(&mut self, kid: &str, now: UnixMillis) -> Result<(), Refusal> {
        self.may_back_up(kid)?;
        self.found(kid).backed_up.get_or_insert(now);
        Ok(())
    }

    /// The key neither signs nor verifies from now on, whatever it signed; the state that it had, if that is a change.
    pub fn kill(&mut self, kid: &str, now: UnixMillis) -> Option<KeyState> {
        let key = self.keys.iter_mut().find(|key| key.kid == kid && key.state.verifies())?;
        let was = key.state;
        if was == KeyState::Active {
            key.stop(now);
        }
        key.retire(now);
        Some(was)
    }

    /// What is to be done at `now`; after each thing it is asked again.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> Vec<Due> {
        let drafts = || self.keys.iter().filter(|key| key.state == KeyState::Draft);
        let unpublished = drafts().filter(|key| key.published.is_none());
        let mut due: Vec<Due> = unpublished.map(|key| Due::Publish(key.kid.clone())).collect();
        let is_time = self.scheduled_at().is_some_and(|at| at <= now);
        let ready = |key: &&SigningKey| self.may_activate(&key.kid, now).is_ok();
        // What an operator asked for goes before what was prepared. The first that takes over ends the others' wait.
        let wanted: Vec<&SigningKey> = drafts().filter(|key| key.wanted).filter(ready).collect();
        let prepared = self.draft().filter(|key| is_time && wanted.is_empty() && ready(key));
        due.extend(wanted.into_iter().chain(prepared).map(|key| Due::Activate(key.kid.clone())));
        let over = self.keys.iter().filter(|key| self.may_retire(&key.kid, now).is_ok());
        due.extend(over.map(|key| Due::Retire(key.kid.clone())));
        if self.prepare_at().is_some_and(|at| at <= now) && self.may_create().is_ok() {
            due.push(Due::Prepare);
        }
        due
    }

    /// When something will be due next, if nothing changes until then; not before `now`.
    #[must_use]
    pub fn next_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        if !self.due(now).is_empty() {
            return Some(now);
        }
        let backed_up = |key: &&SigningKey| !self.rules.require_backup || key.backed_up.is_some();
        let scheduled = self.scheduled_at();
        let activation = |key: &SigningKey| {
            let ready = self.ready_at(key)?;
            let first = self.draft().is_some_and(|draft| draft.kid == key.kid);
            if key.wanted { Some(ready) } else { scheduled.filter(|_| first).map(|at| at.max(ready)) }
        };
        let activations = self.keys.iter().filter(backed_up).filter_map(activation);
        let ends = self.keys.iter().filter(|key| key.state == KeyState::Trusted);
        let ends = ends.filter_map(|key| key.retire_not_before);
        activations.chain(ends).chain(self.prepare_at()).filter(|at| *at > now).min()
    }

    /// When the Active key has signed for long enough; never where nothing signs, which an operator ends.
    fn scheduled_at(&self) -> Option<UnixMillis> {
        let activated = self.active()?.activated?;
        Some(activated.saturating_add(self.rules.rotate_every_ms?))
    }

    /// When a Draft is made for that; never where there is one.
    fn prepare_at(&self) -> Option<UnixMillis> {
        let scheduled = self.scheduled_at().filter(|_| self.draft().is_none())?;
        Some(scheduled.saturating_sub(self.rules.propagation_ms))
    }

    fn found(&mut self, kid: &str) -> &mut SigningKey {
        self.keys.iter_mut().find(|key| key.kid == kid).expect("it was found just before")
    }
}

/// A key that a ring does not know yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its RFC 7638 thumbprint.
    pub kid: String,
    /// Its public half.
    pub public_key: [u8; 32],
    /// Where its private half is.
    pub place: String,
    /// Whether it is to sign as soon as it may.
    pub wanted: bool,
}

impl SigningKey {
    fn activate(&mut self, now: UnixMillis, rules: &Rules) {
        (self.state, self.activated, self.wanted) = (KeyState::Active, Some(now), false);
        (self.stopped, self.retire_not_before) = (None, None);
        // What it signed before may have been promised more.
        self.verify_for_ms = self.verify_for_ms.max(rules.verify_for_ms);
    }

    fn stop(&mut self, now: UnixMillis) {
        (self.state, self.stopped) = (KeyState::Trusted, Some(now));
        self.retire_not_before = Some(now.saturating_add(self.verify_for_ms));
    }

    fn retire(&mut self, now: UnixMillis) {
        (self.state, self.retired, self.wanted) = (KeyState::Retired, Some(now), false);
    }
}

fn wrong_state(key: &SigningKey, wanted: &'static str) -> Refusal {
    Refusal::WrongState { kid: key.kid.clone(), state: key.state, wanted }
}
