//! `edgate hsm-agent`: one token's library in a process of its own.
//!
//! Up: settings, the library looked at, login, socket, "ready". Then it waits for a signal, or for the library to hang; a hung
//! library ends the process, which whoever manages services starts anew.

use std::sync::mpsc;
use std::time::Duration;

use edgate_hsm::{Agent, AgentEvent, AgentSettings, EXIT_STUCK, TokenStanding};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::StartError;
use super::hsm::{check_modules, pool_settings};
use crate::config::HsmAgent;
use crate::verify::Engine;

/// How often it is looked whether the library hangs, and the service manager is told that this process does not.
const TICK: Duration = Duration::from_millis(250);

/// What can be said about an agent without calling its token.
///
/// # Errors
/// What [`run`] would refuse.
pub fn check(config: &HsmAgent) -> Result<(), StartError> {
    check_modules(&config.hsm)
}

/// Serves a token until SIGTERM or SIGINT. Does not return when the library hangs: the process ends with [`EXIT_STUCK`].
///
/// # Errors
/// [`StartError`] if it does not start.
pub fn run(config: &HsmAgent) -> Result<(), StartError> {
    // Before any thread: handlers are the process's.
    let system = |what| move |error| StartError::System { what, error };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(system("handle signals"))?;
    check(config)?;
    // The configuration admits one, and no other.
    let [member] = &config.hsm.members[..] else { return Err(edgate_hsm::HsmError::Stopped.into()) };
    let pool = pool_settings(&config.hsm, member, &config.state, Engine::Auto);
    let settings = AgentSettings {
        socket: config.socket.clone(),
        allow_uids: config.allow_uids.clone(),
        purposes: config.purposes.clone(),
    };
    let agent = Agent::start(pool, settings, log)?;
    tracing::info!(token = %agent.token(), socket = %config.socket.display(), "agent listens");
    let (told, heard) = mpsc::channel();
    let waiting = move || {
        // Whoever hears it may have ended already.
        let _ = told.send(signals.forever().next().unwrap_or(SIGTERM));
    };
    std::thread::Builder::new()
        .name("hsm-signals".to_owned())
        .spawn(waiting)
        .map_err(system("start a thread"))?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut standing = Reported::default();
    loop {
        standing.report(agent.standing());
        if agent.is_stuck() {
            tracing::error!(
                workers = agent.metrics().workers_stuck,
                "the PKCS#11 module does not return; this process ends, to be started anew"
            );
            // Not the module's exit handlers: they may hang as well.
            signal_hook::low_level::exit(EXIT_STUCK.into());
        }
        // A process that a module keeps from running is killed by the service manager, whose patience is longer.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        if let Ok(signal) = heard.recv_timeout(TICK) {
            tracing::info!(signal = signal_hook::low_level::signal_name(signal).unwrap_or("?"), "stopping");
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            return Ok(());
        }
    }
}

fn log(event: AgentEvent) {
    match event {
        AgentEvent::Connected { uid, pid } => tracing::info!(uid, pid, "client connected"),
        AgentEvent::Refused { uid, pid, problem } => tracing::warn!(uid, pid, problem, "client refused"),
        AgentEvent::Broken { uid, pid, problem } => {
            tracing::warn!(uid, pid, problem, "client's connection closed");
        }
    }
}

/// How the token stood when it was last said.
#[derive(Default)]
struct Reported(Option<std::mem::Discriminant<TokenStanding>>);

impl Reported {
    fn report(&mut self, standing: TokenStanding) {
        let kind = std::mem::discriminant(&standing);
        if self.0.replace(kind) == Some(kind) {
            return;
        }
        match standing {
            TokenStanding::Ready => tracing::info!("the token is ready"),
            TokenStanding::Unavailable(cause) => tracing::warn!(%cause, "the token cannot be used"),
            // Over in a moment, or the end, which is said by itself.
            TokenStanding::Healing | TokenStanding::Stopped | TokenStanding::Stuck => {}
        }
    }
}
