//! The configuration of `edgate hsm-agent`: an `[hsm]` table of one token, and who may have what of it.

use std::path::{Path, PathBuf};

use edgate_hsm::{AgentSettings, Purpose};
use serde::Deserialize;

use super::file::wrong;
use super::hsm::{Hsm, HsmAccess, HsmTable};
use super::{ConfigError, defaults};

/// User ids named; a machine has one service, or a few.
const UIDS_MAX: usize = 64;

/// Everything an agent is told.
#[derive(Debug, Clone)]
pub struct HsmAgent {
    /// The token, by its library, and how it is used: `[hsm]`.
    pub hsm: Hsm,
    /// Where it listens: `agent.socket`.
    pub socket: PathBuf,
    /// Who may use keys: `agent.allow_uids`.
    pub allow_uids: Vec<u32>,
    /// For what: `agent.purposes`.
    pub purposes: Vec<Purpose>,
    /// Where refused PINs are remembered: `agent.state`.
    pub state: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hsm: HsmTable,
    agent: AgentTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentTable {
    socket: PathBuf,
    allow_uids: Option<Vec<u32>>,
    purposes: Option<Vec<String>>,
    #[serde(default = "defaults::hsm_agent_state")]
    state: PathBuf,
}

impl HsmAgent {
    /// Reads and checks the configuration in the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Checks a configuration given as text; `path` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let File { hsm, agent } = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        let hsm = hsm.check()?;
        if !matches!(&hsm.members[..], [member] if matches!(member.access, HsmAccess::Module { .. })) {
            return Err(wrong(
                "hsm",
                "…",
                "an agent has the library of one token",
                "write module, token and pin_source in [hsm]; give each other token an agent of its own",
            ));
        }
        for (key, path) in [("agent.socket", &agent.socket), ("agent.state", &agent.state)] {
            if !path.is_absolute() {
                return Err(wrong(key, path.display(), "not an absolute path", "write all of it"));
            }
        }
        let allow_uids = agent.allow_uids.unwrap_or_else(|| vec![rustix::process::geteuid().as_raw()]);
        if allow_uids.is_empty() || allow_uids.len() > UIDS_MAX {
            let problem = format!("nobody, or more than {UIDS_MAX}");
            return Err(wrong(
                "agent.allow_uids",
                "[…]",
                problem,
                "name the service's user id (id -u edgate)",
            ));
        }
        Ok(Self {
            hsm,
            socket: agent.socket,
            allow_uids,
            purposes: purposes(agent.purposes)?,
            state: agent.state,
        })
    }
}

fn purposes(named: Option<Vec<String>>) -> Result<Vec<Purpose>, ConfigError> {
    let Some(named) = named else { return Ok(AgentSettings::PURPOSES.to_vec()) };
    let all = AgentSettings::PURPOSES.map(Purpose::name).join(", ");
    if named.is_empty() {
        return Err(wrong(
            "agent.purposes",
            "[]",
            "nothing could be asked for",
            format!("name some of {all}"),
        ));
    }
    let read = |name: &String| {
        Purpose::from_name(name)
            .ok_or_else(|| wrong("agent.purposes", name, "no purpose of keys", format!("choose among {all}")))
    };
    named.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HSM: &str = "[hsm]\nmodule = \"/usr/lib/m.so\"\ntoken = \"pkcs11:token=t;serial=1\"\npin_source = \"credential:pin\"\n";

    fn parse(text: &str) -> Result<HsmAgent, String> {
        HsmAgent::parse(text, Path::new("agent.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_agent_serves_its_own_user_and_every_purpose_unless_it_is_told_otherwise() {
        let agent = parse(&format!("{HSM}[agent]\nsocket = \"/run/a.sock\"\n")).unwrap();
        assert_eq!(agent.allow_uids, [rustix::process::geteuid().as_raw()]);
        assert_eq!(agent.purposes, AgentSettings::PURPOSES);
        assert_eq!(agent.state, Path::new("/var/lib/edgate-hsm"));
        let told =
            "socket = \"/run/a.sock\"\nallow_uids = [990]\npurposes = [\"tls-server\"]\nstate = \"/s\"\n";
        let agent = parse(&format!("{HSM}[agent]\n{told}")).unwrap();
        assert_eq!((agent.allow_uids, agent.purposes), (vec![990], vec![Purpose::TlsServer]));
    }

    #[test]
    fn what_cannot_hold_is_refused_by_its_key() {
        let at_agent = "[hsm]\nagent = \"/run/b.sock\"\ntoken = \"pkcs11:token=t;serial=1\"\n";
        let socket = "socket = \"/run/a.sock\"\n";
        for (hsm, agent, said) in [
            (HSM, String::new(), "missing field `socket`"),
            (HSM, "socket = \"a.sock\"".to_owned(), "agent.socket"),
            (HSM, format!("{socket}allow_uids = []"), "agent.allow_uids"),
            (HSM, format!("{socket}purposes = []"), "agent.purposes"),
            (HSM, format!("{socket}purposes = [\"jwt\"]"), "choose among audit-checkpoint"),
            (HSM, format!("{socket}state = \"s\""), "agent.state"),
            (HSM, format!("{socket}pin = \"4711\""), "unknown field `pin`"),
            (at_agent, socket.to_owned(), "an agent has the library of one token"),
            ("", socket.to_owned(), "missing field `hsm`"),
        ] {
            let error = parse(&format!("{hsm}[agent]\n{agent}")).unwrap_err();
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
