//! An agent in a process of its own, and one that lies.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each binary uses its part")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use edgate_hsm::{
    Access, Agent, AgentAddress, AgentSettings, EXIT_STUCK, Pkcs11Uri, PoolSettings, TokenStanding,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Stage, until};

/// How long a call may take in an agent whose module is made to hang.
pub(crate) const HANG_LIMIT: Duration = Duration::from_millis(400);

/// An agent that is killed when it is dropped.
pub(crate) struct Process(Child);

impl Stage {
    pub(crate) fn address(&self, name: &str) -> AgentAddress {
        AgentAddress { socket: self.folder.join(format!("{name}.sock")), uid: None }
    }

    /// Settings of a pool at the agent that listens as `name`.
    pub(crate) fn at_agent(&self, name: &str, token: &Pkcs11Uri) -> PoolSettings {
        PoolSettings { access: Access::Agent(self.address(name)), ..self.settings(token) }
    }

    /// Starts an agent by `helper`, an ignored test that calls [`serve`], and waits until it listens.
    pub(crate) fn start_agent(&self, helper: &str, name: &str, token: &Pkcs11Uri) -> Process {
        let socket = self.address(name).socket;
        // One that was killed leaves its socket; what listens there now is another.
        let _ = std::fs::remove_file(&socket);
        let path = socket.to_str().unwrap();
        let mut process = Process(self.start_helper(helper, token, &[("EDGATE_HSM_TEST_SOCKET", path)]));
        until(|| {
            assert!(process.0.try_wait().unwrap().is_none(), "the agent ended");
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        process
    }
}

/// What the process of [`Stage::start_agent`] does: it serves until its standard input ends, or its module hangs.
pub(crate) fn serve(stage: &Stage) {
    let settings = stage.settings(&stage.helper_token());
    serve_as(stage, PoolSettings { hang_limit: HANG_LIMIT, ..settings });
}

/// As [`serve`], with other settings.
pub(crate) fn serve_as(stage: &Stage, settings: PoolSettings) {
    let module = PathBuf::from(std::env::var_os("EDGATE_HSM_TEST_MODULE").unwrap());
    let socket = PathBuf::from(std::env::var_os("EDGATE_HSM_TEST_SOCKET").unwrap());
    let pool = PoolSettings { access: Access::Module { path: module, pin: stage.pin() }, ..settings };
    let agent = Agent::start(pool, AgentSettings::new(socket), |event| eprintln!("agent: {event}")).unwrap();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    until_forever(|| agent.is_stuck());
    assert!(matches!(agent.standing(), TokenStanding::Stuck) || agent.metrics().workers_stuck > 0);
    std::process::exit(i32::from(EXIT_STUCK));
}

fn until_forever(mut over: impl FnMut() -> bool) {
    while !over() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        // The signal is sent; a thread may answer once more until it is taken.
        until(|| self.threads().all(|state| state == 'T').then_some(()));
    }

    /// The state of each thread: the letter behind the name, proc_pid_stat(5).
    fn threads(&self) -> impl Iterator<Item = char> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        tasks.filter_map(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        })
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        until(|| self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
