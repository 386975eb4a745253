//! This node's own keys: from files, or from the token of `[hsm]` through one session pool.
//!
//! Nothing on the verify path waits for them. A token that is away at the start is no reason not to start: its keys are
//! pinned, so that checkpoints and issued tokens wait for it while decisions go on.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{
    AuditCheckpoint, HsmError, KeyPurpose, PinPolicy, Pool, PoolSettings, Signer, SoftwareKey, TokenSigning,
};
use sha2::{Digest as _, Sha256};

use super::StartError;
use super::engine::engine;
use super::release::release_checks;
use crate::audit::{CheckpointSigner, SignError};
use crate::config::{Config, Hsm, KeyPlace};
use crate::control::NextKey;
use crate::keys::{PublishedKey, thumbprint};
use crate::verify::VerifyingKey;

/// How long one checkpoint may take to sign; the next one is due a second after the last.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for a token to show and prove one key. A token that is away is looked for afterwards.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of this node, and the pool that some of them live in.
pub(super) struct NodeKeys {
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) checkpoint: CheckpointSigner,
}

impl NodeKeys {
    /// Logs in to the token if one is configured, and opens the key of checkpoints. Signing keys follow (`signing_keys`). Blocks.
    pub(super) fn open(config: &Config) -> Result<Self, StartError> {
        let pool = match &config.hsm {
            Some(hsm) => Some(start_pool(hsm, config)?),
            None => None,
        };
        let checkpoint = checkpoint_signer(signer(&config.audit.checkpoint_key, pool.as_deref())?);
        Ok(Self { pool, checkpoint })
    }

    /// What can be said about the keys without logging in: files are read, the module is looked at, pinned public keys
    /// are taken at their word. Returns the configured signing key as it would be published; `None` where its file is missing and
    /// `is_known` says that the state database knows why.
    pub(super) fn check(
        config: &Config,
        is_known: impl FnOnce(&KeyPlace) -> bool,
    ) -> Result<Option<PublishedKey>, StartError> {
        if let Some(hsm) = &config.hsm {
            check_module(hsm)?;
        }
        public_key::<AuditCheckpoint>(&config.audit.checkpoint_key)?;
        let Some(signing) = &config.signing else { return Ok(None) };
        match public_key::<TokenSigning>(&signing.key) {
            Err(StartError::Key(HsmError::Missing { .. })) if is_known(&signing.key) => Ok(None),
            found => published(&found?).map(Some),
        }
    }
}

/// A key of ours as others see it. Registers it, which makes its table unless it has one.
pub(super) fn published(public_key: &[u8; 32]) -> Result<PublishedKey, StartError> {
    let verifying_key = VerifyingKey::register(public_key).map_err(StartError::OwnKey)?;
    Ok(PublishedKey { kid: thumbprint(public_key), verifying_key })
}

pub(super) fn public_key<P: KeyPurpose>(place: &KeyPlace) -> Result<[u8; 32], StartError> {
    match place {
        KeyPlace::File(path) => Ok(Signer::<P>::software(SoftwareKey::load(path, P::PURPOSE)?)?.public_key()),
        KeyPlace::Token { public_key, .. } => Ok(*public_key),
    }
}

fn signer<P: KeyPurpose>(place: &KeyPlace, pool: Option<&Pool>) -> Result<Signer<P>, StartError> {
    match place {
        KeyPlace::File(path) => Ok(Signer::software(SoftwareKey::load(path, P::PURPOSE)?)?),
        KeyPlace::Token { uri, public_key } => {
            let pool = pool.expect("the configuration refuses a key in a token without [hsm]");
            Ok(pool.signing_key(uri, Some(*public_key), Instant::now() + OPEN_TIMEOUT)?)
        }
    }
}

/// The checkpoint key of this configuration, for a command that needs no other, and the pool that it needs while it signs.
///
/// # Errors
/// As for a start.
pub fn open_checkpoint_signer(config: &Config) -> Result<(CheckpointSigner, Option<Arc<Pool>>), StartError> {
    let pool = match (&config.hsm, &config.audit.checkpoint_key) {
        (Some(hsm), KeyPlace::Token { .. }) => Some(start_pool(hsm, config)?),
        _ => None,
    };
    let signer = checkpoint_signer(signer(&config.audit.checkpoint_key, pool.as_deref())?);
    Ok((signer, pool))
}

/// Opens the checkpoint key that the configuration in `file` names by then, in the token of `pool` if it is in one.
pub(super) fn next_checkpoint_key(file: PathBuf, pool: Option<Arc<Pool>>) -> NextKey {
    Arc::new(move || {
        let config = Config::load(&file).map_err(|error| error.to_string())?;
        let place = &config.audit.checkpoint_key;
        if let (KeyPlace::Token { uri, .. }, None) = (place, &pool) {
            return Err(format!("{uri} is in a token, and this node was started without [hsm]: restart it"));
        }
        let signer = signer(place, pool.as_deref()).map_err(|error| error.to_string())?;
        Ok(checkpoint_signer(signer))
    })
}

fn checkpoint_signer(signer: Signer<AuditCheckpoint>) -> CheckpointSigner {
    CheckpointSigner {
        verifying_key: signer.public_key(),
        sign: Box::new(move |message| {
            signer
                .sign(message, Instant::now() + CHECKPOINT_TIMEOUT)
                .map_err(|error| SignError(error.to_string()))
        }),
    }
}

/// Looks at the module and logs in. Blocks.
fn start_pool(hsm: &Hsm, config: &Config) -> Result<Arc<Pool>, StartError> {
    check_module(hsm)?;
    let pin = PinPolicy {
        source: hsm.pin_source.clone(),
        credentials: hsm.credentials.clone(),
        // The service's state folder, where rejected PINs are remembered too.
        guard_folder: config.database.parent().unwrap_or(Path::new(".")).to_owned(),
    };
    let settings = PoolSettings {
        workers: hsm.workers,
        queue_len_max: hsm.queue_len_max,
        hang_limit: hsm.hang_limit,
        probe_interval: hsm.probe_interval,
        allow_extractable: hsm.allow_extractable,
        checks: release_checks(engine(config)),
        ..PoolSettings::new(hsm.module.clone(), hsm.token.clone(), pin)
    };
    Ok(Arc::new(Pool::start(settings)?))
}

/// The library runs with all our rights: nobody but root and we ourselves may have written it, and where its digest is
/// configured it is that very file.
fn check_module(hsm: &Hsm) -> Result<(), StartError> {
    let refuse = |problem: String| HsmError::Module { path: hsm.module.clone(), problem };
    let mut file =
        std::fs::File::open(&hsm.module).map_err(|error| refuse(format!("cannot open it: {error}")))?;
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
    if let Some(expected) = &hsm.module_sha256 {
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
