//! A log that is mirrored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::{
    Ack, Appender, CheckpointKey, CheckpointSigner, Copy, CopyReport, Entry, Event, Log, Settings, StopEvent,
    Tail, open_signed,
};
use edgate::config;
use edgate::mirror::{self, Ingredients, Mirror, MirrorStatus};

use crate::support::PATIENCE;

const ORIGIN: &str = "mirror.example/log";

fn signing() -> SigningKey {
    SigningKey::from_bytes(&[4; 32])
}

/// A log with an appender, and a mirror of it while there is one.
pub(crate) struct Source {
    pub(crate) dir: PathBuf,
    appender: Appender,
    log: Option<Log>,
    spare: Vec<Appender>,
    mirror: Option<Mirror>,
    events: usize,
}

impl Source {
    /// Opens or continues the log in `dir`; segments are small.
    pub(crate) fn open(dir: &Path) -> Self {
        let signer = CheckpointSigner {
            verifying_key: signing().verifying_key().to_bytes(),
            sign: Box::new(|message| Ok(signing().sign(message).to_bytes())),
        };
        let settings = Settings {
            segment_bytes: 160 * 1024,
            create: true,
            checkpoint_interval: Duration::from_millis(50),
            ..Settings::new(dir, ORIGIN)
        };
        let mut opened = open_signed(&settings, 4, Some(signer)).unwrap();
        let appender = opened.appenders.remove(0);
        let (log, spare) = (Some(opened.log), opened.appenders);
        Self { dir: dir.to_owned(), appender, log, spare, mirror: None, events: 0 }
    }

    /// Adds events; returns once they are durable.
    pub(crate) fn grow(&mut self, events: usize) {
        for n in 0..events {
            let reason = format!("event {}", self.events + n);
            let event = Event::Stop(StopEvent { reason: &reason });
            let id = self.appender.append(&event, Ack::Durable).unwrap();
            if n % 50 == 49 || n + 1 == events {
                self.appender.submit();
                self.appender.wait(id, Ack::Durable, PATIENCE).unwrap();
            }
        }
        self.events += events;
    }

    pub(crate) fn mirror_to(&mut self, config: &config::Mirror) {
        let targets = usize::from(mirror::targets(config));
        let appenders = self.spare.split_off(self.spare.len() - targets);
        let log = self.log.as_ref().unwrap().watch();
        let (dir, origin) = (self.dir.clone(), ORIGIN.to_owned());
        self.mirror = Some(mirror::start(Ingredients { config, dir, origin, log, appenders }).unwrap());
    }

    pub(crate) fn status(&self) -> MirrorStatus {
        self.mirror.as_ref().unwrap().watch()[0].status()
    }

    pub(crate) fn stop_mirror(&mut self) {
        self.mirror.take().unwrap().stop();
    }

    /// Stops the mirror and closes the log.
    pub(crate) fn close(mut self) {
        if let Some(mirror) = self.mirror.take() {
            mirror.stop();
        }
        self.log.take().unwrap().close(PATIENCE).unwrap();
    }

    pub(crate) fn durable(&self) -> u64 {
        self.log.as_ref().unwrap().status().durable_size
    }

    /// Everything the log holds now.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let mut tail = Tail::first(&self.dir).unwrap();
        std::iter::from_fn(|| tail.next().unwrap()).collect()
    }
}

pub(crate) fn key() -> CheckpointKey {
    CheckpointKey::new(ORIGIN, signing().verifying_key().to_bytes())
}

/// What a copy with these lines is.
pub(crate) fn check<T: AsRef<[u8]>>(lines: impl IntoIterator<Item = T>) -> CopyReport {
    let mut copy = Copy::new(vec![key()]);
    lines.into_iter().for_each(|line| copy.line(line.as_ref()));
    copy.finish()
}
