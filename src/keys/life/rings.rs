//! The rings of one node: one, or one for each token where each has a key of its own that signs beside the others'.

use super::{Due, Refusal, Ring, SigningKey, UnixMillis};

/// The signing keys of one node. Of each ring at most one is Active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rings {
    // In the order of the configuration; at least one.
    rings: Vec<Ring>,
}

impl Rings {
    /// These rings, of which there is at least one.
    #[must_use]
    pub fn new(rings: Vec<Ring>) -> Self {
        assert!(!rings.is_empty(), "a node with signing keys has a ring of them");
        Self { rings }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rings.len()
    }

    /// Never: there is at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// The ring in this place of the configuration.
    #[must_use]
    pub fn at(&self, place: usize) -> &Ring {
        &self.rings[place]
    }

    /// As [`Rings::at`], to be changed.
    pub fn at_mut(&mut self, place: usize) -> &mut Ring {
        &mut self.rings[place]
    }

    /// The ring that has the key of this name, by its place.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn of(&self, kid: &str) -> Result<usize, Refusal> {
        let found = self.rings.iter().position(|ring| ring.key(kid).is_ok());
        found.ok_or_else(|| Refusal::Unknown { kid: kid.to_owned() })
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`Refusal::Unknown`].
    pub fn key(&self, kid: &str) -> Result<&SigningKey, Refusal> {
        self.at(self.of(kid)?).key(kid)
    }

    /// Every key, ring by ring, the oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &SigningKey> {
        self.rings.iter().flat_map(Ring::keys)
    }

    /// The keys that sign.
    pub fn active(&self) -> impl Iterator<Item = &SigningKey> {
        self.rings.iter().filter_map(Ring::active)
    }

    /// The keys that are published and verify.
    pub fn verifying(&self) -> impl Iterator<Item = &SigningKey> {
        self.rings.iter().flat_map(Ring::verifying)
    }

    /// What is to be done at `now`, and to which ring; after each thing it is asked again.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> Vec<(usize, Due)> {
        let each = self.rings.iter().enumerate();
        each.flat_map(|(place, ring)| ring.due(now).into_iter().map(move |due| (place, due))).collect()
    }

    /// When something will be due next, if nothing changes until then; not before `now`.
    #[must_use]
    pub fn next_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.rings.iter().filter_map(|ring| ring.next_at(now)).min()
    }
}
