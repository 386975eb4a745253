//! Following: what any node published enters this node's view, and the view's age is known.

use std::time::{Duration, Instant};

use super::connect::{self, Backoff};
use super::error::ClusterError;
use super::keeper::Tasks;
use super::link::Link;
use super::position::EntryId;
use super::position::{Break, Entry, Position, parse_entries};
use super::scan;
use super::script::{self, Survey};
use super::sentinels::Agreement;
use super::shared::{Shared, Source};
use super::status::Work;
use crate::store::StoredChange;

/// The thread `redis-follow`.
pub(super) struct Follower {
    tasks: Tasks,
    // Kept over a lost connection.
    position: Option<Position>,
    // The stream's last entry as the turn before saw it, if that was not read yet.
    behind: Option<EntryId>,
    // Claims were lost, and Redis did not take the note of it yet.
    loss_to_note: bool,
    // The server of the connection before.
    origin: Option<String>,
    // Set while other nodes may still be giving back what Redis lost.
    held: Option<Held>,
}

/// The view is not confirmed, nor the epoch raised, before this is over.
#[derive(Debug, Clone, Copy)]
struct Held {
    until: Instant,
    // What the epoch is raised to then.
    epoch: u64,
}

impl Follower {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, position: None, behind: None, loss_to_note: false, origin: None, held: None }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self, shared: &Shared) {
        let mut backoff = Backoff::new();
        while !shared.stop.is_set() {
            let Err(error) = connect::primary(&shared.redis, shared.votes.as_ref())
                .and_then(|mut link| self.follow(shared, &mut link, &mut backoff))
            else {
                return;
            };
            shared.board.note(|status| status.connected = false);
            if shared.board.fail(Work::Follow, &error) {
                tracing::warn!(%error, "does not follow Redis now; trying again");
            }
            backoff.failed(Instant::now());
            if shared.stop.wait(backoff.left(Instant::now())) {
                return;
            }
        }
    }

    /// Follows until told to stop, or until the connection fails.
    fn follow(
        &mut self,
        shared: &Shared,
        link: &mut Link,
        backoff: &mut Backoff,
    ) -> Result<(), ClusterError> {
        link.set_patience(shared.redis.timeout + BLOCK)?;
        self.behind = None;
        let before = self.origin.replace(link.origin().to_owned());
        if before.as_deref().is_some_and(|before| before != link.origin()) {
            // Another process may lack the last of what its predecessor had answered, and nothing here would show it.
            self.hold(shared);
        }
        let survey = survey(shared, link)?;
        if !script::has_every_claim(link, &shared.keys)? {
            self.loss_to_note = true;
            shared.trust.set(None);
        }
        let stands = match &self.position {
            None => Err(Break::Start),
            Some(position) => position.check(&survey),
        };
        match stands {
            Err(cause) => self.rebuild(shared, link, cause)?,
            Ok(()) if self.loss_to_note => self.note_loss(shared, link)?,
            Ok(()) => self.reconcile(shared, link, &survey.dataset),
        }
        shared.board.note(|status| {
            status.connected = true;
            status.server = link.server().to_owned();
            status.reconnects += u64::from(before.is_some());
        });
        shared.board.succeed(Work::Follow);
        tracing::info!(server = link.server(), "follows Redis");
        while !shared.stop.is_set() {
            self.turn(shared, link)?;
            backoff.succeeded();
        }
        Ok(())
    }

    /// Waits a moment for entries, applies them, and confirms the view if nothing is newer.
    fn turn(&mut self, shared: &Shared, link: &mut Link) -> Result<(), ClusterError> {
        const ACTION: &str = "follow the stream";
        let Some(position) = &mut self.position else { return Err(link.unexpected(ACTION)) };
        let mut pipeline = redis::pipe();
        pipeline.cmd("XREAD").arg("COUNT").arg(ENTRIES_MAX).arg("BLOCK").arg(BLOCK_MS);
        pipeline.arg("STREAMS").arg(&shared.keys.stream).arg(position.last.to_string());
        pipeline.add_command(script::survey_command(&shared.keys, shared.view.epoch()));
        pipeline.cmd("ROLE");
        // All that was published before this moment is in the answer, or was in the ones before.
        let asked_at = Instant::now();
        let answers = link.ask_all(ACTION, &pipeline)?;
        let [entries, survey, role] = answers.as_slice() else { return Err(link.unexpected(ACTION)) };
        link.expect_primary(role)?;
        let entries = parse_entries(entries).ok_or_else(|| link.unexpected(ACTION))?;
        let survey = script::parse_survey(survey).ok_or_else(|| link.unexpected(ACTION))?;

        let good = entries.iter().map_while(|entry| position.step(entry).ok()).count();
        apply(shared, &self.tasks, self.held.as_mut(), &entries[..good]);
        let last = position.last;
        let stands = match entries.get(good) {
            Some(entry) => position.step(entry),
            None => position.check(&survey),
        };
        // The stream said that there is more, and then gave nothing.
        let vanished = entries.is_empty() && self.behind.is_some_and(|end| end > last);
        let cause = match stands {
            Err(cause) => cause,
            Ok(()) if vanished => Break::Trimmed,
            Ok(()) if self.tasks.missed() => Break::Unsaved,
            Ok(()) => {
                position.epoch = position.epoch.max(survey.epoch);
                self.behind = (survey.last > last).then_some(survey.last);
                let read_all = !entries.is_empty() || self.behind.is_none();
                if read_all && entries.len() < ENTRIES_MAX {
                    confirm(shared, link, &mut self.held, asked_at)?;
                }
                if good > 0 {
                    shared.board.note(|status| {
                        status.last_id = last.to_string();
                        status.events += good as u64;
                    });
                }
                return self.note_loss(shared, link);
            }
        };
        self.rebuild(shared, link, cause)
    }

    /// Takes every entry there is, whatever the stream says, and stands where the stream ended before that. Nothing leaves
    /// the view: what Redis lost is still revoked.
    fn rebuild(&mut self, shared: &Shared, link: &mut Link, cause: Break) -> Result<(), ClusterError> {
        if cause == Break::Unsaved {
            self.tasks.store_all();
            return Ok(());
        }
        tracing::warn!(cause = cause.words(), "rebuilds the view from every entry in Redis");
        shared.view.freshness().doubt();
        shared.trust.set(None);
        // Should the connection break meanwhile, the next one begins here again.
        self.position = None;
        self.behind = None;
        self.loss_to_note |= cause.is_loss();
        if matches!(cause, Break::Replaced | Break::WentBack) {
            self.hold(shared);
        }
        let Survey { dataset, epoch, last } = survey(shared, link)?;
        scan::entries(shared, link, |page| {
            shared.view.apply(page.iter().filter_map(StoredChange::change), 0, (shared.now)());
            Ok(())
        })?;
        match &mut self.held {
            Some(held) => held.epoch = held.epoch.max(epoch),
            None => shared.view.apply([], epoch, (shared.now)()),
        }
        shared.board.note(|status| {
            status.last_id = last.to_string();
            status.dataset.clone_from(&dataset);
            status.rebuilds += 1;
        });
        let source = Source { origin: link.origin().to_owned(), dataset: dataset.clone() };
        self.position = Some(Position { dataset, last, epoch });
        self.note_loss(shared, link)?;
        if !self.loss_to_note {
            self.tasks.reconcile(source);
        }
        self.tasks.store_all();
        Ok(())
    }

    /// Waits for the other nodes before the view is called whole again: one of them may be the only one that remembers a
    /// revocation that was answered, applied there, and lost by Redis.
    fn hold(&mut self, shared: &Shared) {
        let epoch = self.held.map_or(0, |held| held.epoch);
        self.held = Some(Held { until: Instant::now() + HEAL_TIME, epoch });
        shared.trust.hold_back(true);
        shared.view.freshness().doubt();
    }

    /// Has what Redis may lack given to it, after a connection broke and came back.
    fn reconcile(&self, shared: &Shared, link: &Link, dataset: &str) {
        let source = Source { origin: link.origin().to_owned(), dataset: dataset.to_owned() };
        if !shared.trust.names(&source) {
            shared.trust.set(None);
        }
        self.tasks.reconcile(source);
    }

    /// Notes in Redis that claims may have been lost. Without memory for the note nobody can claim anything either, and
    /// until it stands no answer about a single token is believed.
    fn note_loss(&mut self, shared: &Shared, link: &mut Link) -> Result<(), ClusterError> {
        if !self.loss_to_note {
            return Ok(());
        }
        match script::note_loss(link, &shared.keys) {
            Ok(()) => {
                self.loss_to_note = false;
                if let Some(position) = &self.position {
                    self.reconcile(shared, link, &position.dataset);
                }
                Ok(())
            }
            Err(error) if error.spares_connection() => {
                shared.board.fail(Work::Follow, &error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn survey(shared: &Shared, link: &mut Link) -> Result<Survey, ClusterError> {
    const ACTION: &str = "say where its data stands";
    let answer = link.ask(ACTION, &script::survey_command(&shared.keys, shared.view.epoch()))?;
    script::parse_survey(&answer).ok_or_else(|| link.unexpected(ACTION))
}

/// First the view, then, in its own time, the state database.
fn apply(shared: &Shared, tasks: &Tasks, held: Option<&mut Held>, entries: &[Entry]) {
    let Some(epoch) = entries.iter().map(|entry| entry.epoch).max() else { return };
    let changes: Vec<StoredChange> = entries.iter().flat_map(|entry| entry.changes.clone()).collect();
    let held_back = held.is_some();
    if let Some(held) = held {
        held.epoch = held.epoch.max(epoch);
    }
    let epoch = if held_back { 0 } else { epoch };
    shared.view.apply(changes.iter().filter_map(StoredChange::change), epoch, (shared.now)());
    if !changes.is_empty() {
        tasks.store(changes);
    }
}

/// The view holds everything that was published when the server was asked, if it was the primary then, and unless other
/// nodes are still giving things back.
fn confirm(
    shared: &Shared,
    link: &Link,
    held: &mut Option<Held>,
    asked_at: Instant,
) -> Result<(), ClusterError> {
    let as_of = match (&shared.votes, link.address()) {
        (Some(votes), Some(address)) => match votes.agreement(address, Instant::now()) {
            Agreement::Named(at) => at.min(asked_at),
            Agreement::Unclear => return Ok(()),
            Agreement::Another => return shared.check_named(link),
        },
        _ => asked_at,
    };
    if let Some(Held { until, epoch }) = *held {
        if as_of < until {
            return Ok(());
        }
        *held = None;
        shared.view.apply([], epoch, (shared.now)());
        shared.trust.hold_back(false);
    }
    shared.view.freshness().confirm(as_of);
    Ok(())
}

/// How long other nodes get to give back what Redis lost: to notice, to connect (they wait up to a second between tries)
/// and to compare a million revocations. Until then the view has no known age.
const HEAL_TIME: Duration = Duration::from_secs(3);

/// How long an answer waits for news: the view's age is at most this much more than a round trip.
const BLOCK_MS: u64 = 50;
const BLOCK: Duration = Duration::from_millis(BLOCK_MS);

/// Entries taken at once. One holds a request's changes.
const ENTRIES_MAX: usize = 500;
