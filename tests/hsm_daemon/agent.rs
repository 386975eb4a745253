//! The daemon with its token at an agent: another process, another user where the test may make one, and the only one with the PIN.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::ExitStatus;

use super::*;

/// A user that owns nothing else. Only root can make a process its.
const NOBODY: u32 = 65_534;

struct Agent(Child);

impl Stage {
    fn socket(&self) -> PathBuf {
        self.path("agent").join("agent.sock")
    }

    /// The agent's configuration; `pin_source` is its own.
    fn configure_agent(&self, pin_source: &str) {
        let text = format!(
            "[hsm]\nmodule = {module:?}\ntoken = {token:?}\npin_source = {pin_source:?}\nprobe_interval_ms = 200\n\
             hang_limit_ms = 500\n\
             [agent]\nsocket = {socket:?}\nallow_uids = [{ours}]\n\
             purposes = [\"token-signing\", \"audit-checkpoint\"]\nstate = {state:?}\n",
            module = self.module.display().to_string(),
            token = self.token,
            socket = self.socket().display().to_string(),
            ours = rustix::process::geteuid().as_raw(),
            state = self.path("agent").display().to_string(),
        );
        fs::write(self.path("agent.toml"), text).unwrap();
    }

    /// Gives the token, its PIN and the agent's folder to another user, if there can be one.
    fn give_away(&self) -> Option<u32> {
        fs::create_dir_all(self.path("agent")).unwrap();
        fs::write(self.path("calls"), "").unwrap();
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        // What lies in it is each one's own.
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut paths = vec![self.path("tokens"), self.path("pin"), self.path("agent"), self.path("calls")];
        while let Some(path) = paths.pop() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            if path.is_dir() {
                paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        Some(NOBODY)
    }

    fn agent_command(&self, user: Option<u32>) -> Command {
        let mut command = self.command(EDGATE);
        command.args(["hsm-agent", "--config"]).arg(self.path("agent.toml"));
        let stderr = fs::File::options().create(true).append(true).open(self.path("agent-said")).unwrap();
        command.stderr(stderr);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command
    }

    fn start_agent(&self, user: Option<u32>) -> Agent {
        // One that was killed leaves its socket.
        let _ = fs::remove_file(self.socket());
        let mut agent = Agent(self.agent_command(user).spawn().unwrap());
        until("the agent's socket", || {
            assert!(agent.0.try_wait().unwrap().is_none(), "the agent ended: {}", self.agent_said());
            UnixStream::connect(self.socket()).is_ok()
        });
        agent
    }

    fn agent_said(&self) -> String {
        fs::read_to_string(self.path("agent-said")).unwrap_or_default()
    }

    /// The daemon's configuration, with the agent in the place of library and PIN.
    fn point_at_agent(&self) {
        let config = self.path("edgate.toml");
        let text = fs::read_to_string(&config).unwrap();
        let kept = |line: &&str| !line.starts_with("module = ") && !line.starts_with("pin_source = ");
        let text: Vec<&str> = text.lines().filter(kept).collect();
        let agent = format!("[hsm]\nagent = {:?}", self.socket().display().to_string());
        let text = text.join("\n").replacen("[hsm]", &agent, 1);
        assert!(!text.contains("pin") && !text.contains("softhsm"), "{text}");
        fs::write(&config, text + "\n").unwrap();
    }
}

impl Agent {
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap()
    }

    /// Waits until it ends by itself.
    fn wait(mut self) -> ExitStatus {
        let mut ended = None;
        until("the agent's end", || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_is_killed_and_hangs_and_the_daemon_issues_again_once_it_is_back() {
    let Some(stage) = Stage::new(true) else { return };
    stage.faults("");
    stage.configure("", "");
    stage.point_at_agent();
    stage.configure_agent(&format!("file:{}", stage.path("pin").display()));
    let user = stage.give_away();
    let agent = stage.start_agent(user);
    let daemon = stage.start();
    let issued = daemon.issue();
    assert_eq!(issued.status, 201, "{issued:?}");
    let token = issued.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(daemon.verify(&token), 200);
    assert!(daemon.metric("hsm_logins_total") >= 1.0, "what only the agent knows is told");

    // A PIN is not taken here, and it is said where it is.
    let refused = daemon.post("/v1/hsm/unlock", &json!({"pin": PIN}));
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("edgate hsm unlock --agent"), "{}", refused.body);

    agent.kill();
    until("the refusal", || daemon.issue().status == 503);
    let refused = daemon.issue();
    assert!(refused.body.contains("signing_unavailable"), "{}", refused.body);
    assert_eq!(daemon.verify(&token), 200);
    until("the reason", || daemon.get(daemon.control, "/readyz", "").body.contains("is the agent running?"));
    let agent = stage.start_agent(user);
    until("the agent's return", || daemon.issue().status == 201);

    // Its library hangs: it ends by itself, with a status of its own.
    stage.faults("C_Sign hang\n");
    until("the refusal", || daemon.issue().status == 503);
    assert_eq!(agent.wait().code(), Some(75));
    assert!(stage.agent_said().contains("the PKCS#11 module does not return"), "{}", stage.agent_said());
    stage.faults("");
    let agent = stage.start_agent(user);
    until("the agent's return", || daemon.issue().status == 201);
    assert!(daemon.metric("hsm_agent_lost_total") >= 2.0);
    daemon.terminate();
    assert_eq!(agent.terminate().code(), Some(0), "{}", stage.agent_said());
    assert!(!stage.socket().exists());
    assert!(!stage.agent_said().contains(PIN) && !stage.said().contains(PIN));
    let report = verify_log(&stage.path("audit"));
    assert!(report["signed_size"] == report["size"], "{report}");
}

#[test]
fn an_operator_unlocks_an_agent_and_a_refused_pin_is_not_started_with_again() {
    let Some(stage) = Stage::new(false) else { return };
    stage.configure_agent("operator:");
    let user = stage.give_away();
    let agent = stage.start_agent(user);
    let socket = stage.socket();
    let unlock = |pin: &str| stage.unlock(&["--agent", socket.to_str().unwrap()], pin);
    let wrong = unlock("not-the-pin");
    assert_eq!(wrong.status.code(), Some(77), "{wrong:?}");
    let right = unlock(PIN);
    assert_eq!((right.status.code(), &*right.stdout), (Some(0), &b"unlocked\n"[..]), "{right:?}");
    until("the ready token", || stage.agent_said().contains("the token is ready"));
    agent.kill();

    stage.write_pin("another-wrong-pin");
    stage.configure_agent(&format!("file:{}", stage.path("pin").display()));
    for _ in 0..3 {
        let status = stage.agent_command(stage.give_away()).status().unwrap();
        assert_eq!(status.code(), Some(77), "{}", stage.agent_said());
    }
    assert_eq!(stage.agent_said().matches("the token refused the PIN").count(), 1, "{}", stage.agent_said());
    let check = stage.agent_command(None).arg("--check").status().unwrap();
    assert_eq!(check.code(), Some(0), "a look calls no token: {}", stage.agent_said());
}

#[test]
fn an_agent_killed_during_handshakes_loses_those_alone() {
    use rustls::HandshakeKind;
    use rustls::client::Resumption;
    use tls::{Pki, connect, request};

    let Some(stage) = tls::staged(false, "", "") else { return };
    let pki = Pki { stage: &stage };
    stage.point_at_agent();
    stage.configure_agent(&format!("file:{}", stage.path("pin").display()));
    let served = fs::read_to_string(stage.path("agent.toml")).unwrap();
    fs::write(
        stage.path("agent.toml"),
        served.replace("\"token-signing\"", "\"token-signing\", \"tls-server\""),
    )
    .unwrap();
    let user = stage.give_away();
    let agent = stage.start_agent(user);
    let daemon = stage.start();
    let (stranger, known) =
        (pki.client(Resumption::disabled()), pki.client(Resumption::in_memory_sessions(8)));
    let token = stage.issuer.token("a");
    let ask = |client| {
        let (kind, _, mut connection) = connect(client, pki.place())?;
        connection.send(request(&token).as_bytes());
        assert_eq!(connection.receive().unwrap().status, 200);
        Ok::<_, std::io::Error>((kind, connection))
    };
    let (_, mut established) = ask(&stranger).unwrap();
    ask(&known).unwrap();
    let (lost, made) = std::thread::scope(|scope| {
        let shaking: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut lost, mut made) = (0, 0);
                    // Until some were lost and some were made since.
                    while lost == 0 || made == 0 {
                        match ask(&stranger) {
                            Ok(_) if lost > 0 => made += 1,
                            Ok(_) => {}
                            Err(_) => lost += 1,
                        }
                    }
                    (lost, made)
                })
            })
            .collect();
        agent.kill();
        // What needs no signature does not notice.
        established.send(request(&token).as_bytes());
        assert_eq!(established.receive().unwrap().status, 200);
        assert_eq!(ask(&known).unwrap().0, HandshakeKind::Resumed);
        assert_eq!(daemon.verify(&token), 200);
        until("refusals", || connect(&stranger, pki.place()).is_err());
        let agent = stage.start_agent(user);
        let ended: Vec<(u32, u32)> = shaking.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ask(&stranger).unwrap().0, HandshakeKind::Full);
        assert_eq!(agent.terminate().code(), Some(0), "{}", stage.agent_said());
        ended.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    assert!(lost >= 4 && made >= 4);
}
