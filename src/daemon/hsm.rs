//! The tokens of `[hsm]`, one or several, and the libraries that speak for them.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use edgate_hsm::{AgentAddress, Group, HsmError, MemberSettings, PinPolicy, PoolSettings};
use sha2::{Digest as _, Sha256};

use super::StartError;
use super::engine::engine;
use super::release::release_checks;
use crate::config::{Config, Hsm, HsmAccess, HsmMember};
use crate::verify::Engine;

/// Looks at the libraries and logs in to each token. Blocks.
pub(super) fn start(hsm: &Hsm, config: &Config) -> Result<Arc<Group>, StartError> {
    check_modules(hsm)?;
    Ok(Arc::new(Group::start(members(hsm, config), hsm.member_timeout)?))
}

/// What can be said about the tokens without calling them.
pub(super) fn check(hsm: &Hsm, config: &Config) -> Result<(), StartError> {
    check_modules(hsm)?;
    Ok(Group::check_rules(&members(hsm, config))?)
}

fn members(hsm: &Hsm, config: &Config) -> Vec<MemberSettings> {
    let member = |member: &HsmMember| {
        // The service's state folder, where rejected PINs are remembered too.
        let guard_folder = config.database.parent().unwrap_or(Path::new("."));
        let pool = pool_settings(hsm, member, guard_folder, engine(config));
        MemberSettings { pool, weight: member.weight, draining: member.draining }
    };
    hsm.members.iter().map(member).collect()
}

/// How the token `member` of `hsm` is used by this process.
pub(super) fn pool_settings(
    hsm: &Hsm,
    member: &HsmMember,
    guard_folder: &Path,
    engine: Engine,
) -> PoolSettings {
    let token = member.token.clone();
    let reached = match &member.access {
        HsmAccess::Agent { socket, uid } => {
            PoolSettings::at_agent(AgentAddress { socket: socket.clone(), uid: *uid }, token)
        }
        HsmAccess::Module { path, pin_source, .. } => {
            let pin = PinPolicy {
                source: pin_source.clone(),
                credentials: hsm.credentials.clone(),
                guard_folder: guard_folder.to_owned(),
            };
            PoolSettings::new(path.clone(), token, pin)
        }
    };
    PoolSettings {
        workers: hsm.workers,
        queue_len_max: hsm.queue_len_max,
        hang_limit: hsm.hang_limit,
        probe_interval: hsm.probe_interval,
        allow_extractable: hsm.allow_extractable,
        allow_wrapped_export: hsm.allow_wrapped_export,
        checks: release_checks(engine),
        ..reached
    }
}

pub(super) fn check_modules(hsm: &Hsm) -> Result<(), StartError> {
    hsm.members.iter().try_for_each(check_module)
}

/// The library runs with all our rights: nobody but root and we ourselves may have written it, and where its digest is
/// configured it is that very file.
fn check_module(member: &HsmMember) -> Result<(), StartError> {
    // What an agent runs it looks at itself.
    let HsmAccess::Module { path, sha256, .. } = &member.access else { return Ok(()) };
    let refuse = |problem: String| HsmError::Module { path: path.clone(), problem };
    let mut file = std::fs::File::open(path).map_err(|error| refuse(format!("cannot open it: {error}")))?;
    let metadata = file.metadata().map_err(|error| refuse(format!("cannot look at it: {error}")))?;
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != ours {
        return Err(
            refuse(format!("it belongs to user id {}; it must belong to root", metadata.uid())).into()
        );
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(refuse(format!("mode {mode:04o} lets others write it: chmod go-w")).into());
    }
    if let Some(expected) = sha256 {
        let mut library = Vec::new();
        file.read_to_end(&mut library).map_err(|error| refuse(format!("cannot read it: {error}")))?;
        let found: [u8; 32] = Sha256::digest(&library).into();
        if found != *expected {
            let found = crate::audit::hex(&found);
            return Err(refuse(format!("its SHA-256 is {found}, not hsm.module_sha256")).into());
        }
    }
    Ok(())
}
