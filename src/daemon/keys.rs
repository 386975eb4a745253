//! This node's own keys: from files, or from the token or tokens of `[hsm]`.
//!
//! Nothing on the verify path waits for them. A token that is away at the start is no reason not to start: its keys are
//! pinned, so that checkpoints and issued tokens wait for it while decisions go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{AuditCheckpoint, Group, HsmError, KeyPurpose, Signer, SoftwareKey, TokenSigning};

use super::{StartError, hsm};
use crate::audit::{CheckpointSigner, SignError};
use crate::config::{Config, KeyPlace};
use crate::control::NextKey;
use crate::keys::{PublishedKey, thumbprint};
use crate::verify::VerifyingKey;

/// How long one checkpoint may take to sign; the next one is due a second after the last.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for a token to show and prove one key. A token that is away is looked for afterwards.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of this node, and the tokens that some of them live in.
pub(super) struct NodeKeys {
    pub(super) hsm: Option<Arc<Group>>,
    pub(super) checkpoint: CheckpointSigner,
}

impl NodeKeys {
    /// Logs in to the tokens that are configured, and opens the key of checkpoints. Signing keys follow (`signing_keys`). Blocks.
    pub(super) fn open(config: &Config) -> Result<Self, StartError> {
        let hsm = config.hsm.as_ref().map(|tokens| hsm::start(tokens, config)).transpose()?;
        let checkpoint = checkpoint_signer(signer(&config.audit.checkpoint_key, hsm.as_deref())?);
        Ok(Self { hsm, checkpoint })
    }

    /// What can be said about the keys without logging in: files are read, the module is looked at, pinned public keys
    /// are taken at their word. Returns the configured signing keys as they would be published, without one whose file is missing where
    /// `is_known` says that the state database knows why.
    pub(super) fn check(
        config: &Config,
        is_known: impl Fn(&KeyPlace) -> bool,
    ) -> Result<Vec<PublishedKey>, StartError> {
        if let Some(tokens) = &config.hsm {
            hsm::check(tokens, config)?;
        }
        public_key::<AuditCheckpoint>(&config.audit.checkpoint_key)?;
        let mut all = Vec::new();
        for place in config.signing.iter().flat_map(|signing| &signing.keys) {
            match public_key::<TokenSigning>(place) {
                Err(StartError::Key(HsmError::Missing { .. })) if is_known(place) => {}
                found => all.push(published(&found?)?),
            }
        }
        Ok(all)
    }
}

/// A key of ours as others see it. Registers it, which makes its table unless it has one.
pub(super) fn published(public_key: &[u8; 32]) -> Result<PublishedKey, StartError> {
    let verifying_key = VerifyingKey::register(public_key).map_err(StartError::OwnKey)?;
    Ok(PublishedKey { kid: thumbprint(public_key), verifying_key })
}

pub(super) fn public_key<P: KeyPurpose<PublicKey = [u8; 32]>>(
    place: &KeyPlace,
) -> Result<[u8; 32], StartError> {
    match place {
        KeyPlace::File(path) => Ok(Signer::<P>::software(SoftwareKey::load(path, P::PURPOSE)?)?.public_key()),
        KeyPlace::Token { public_key, .. } => Ok(*public_key),
    }
}

fn signer<P: KeyPurpose<PublicKey = [u8; 32]>>(
    place: &KeyPlace,
    hsm: Option<&Group>,
) -> Result<Signer<P>, StartError> {
    match place {
        KeyPlace::File(path) => Ok(Signer::software(SoftwareKey::load(path, P::PURPOSE)?)?),
        KeyPlace::Token { uri, public_key } => {
            let hsm = hsm.expect("the configuration refuses a key in a token without [hsm]");
            Ok(hsm.signing_key(uri, Some(*public_key), Instant::now() + OPEN_TIMEOUT)?)
        }
    }
}

/// The checkpoint key of this configuration, for a command that needs no other, and the tokens that it, or the log's tag keys, need
/// meanwhile.
///
/// # Errors
/// As for a start.
pub fn open_checkpoint_signer(config: &Config) -> Result<(CheckpointSigner, Option<Arc<Group>>), StartError> {
    let hsm = match (&config.hsm, &config.audit.checkpoint_key) {
        (Some(tokens), KeyPlace::Token { .. }) => Some(hsm::start(tokens, config)?),
        (Some(tokens), KeyPlace::File(_)) if tokens.wrapping_key.is_some() => {
            Some(hsm::start(tokens, config)?)
        }
        _ => None,
    };
    let signer = checkpoint_signer(signer(&config.audit.checkpoint_key, hsm.as_deref())?);
    Ok((signer, hsm))
}

/// Opens the checkpoint key that the configuration in `file` names by then, in the tokens of `hsm` if it is in them.
pub(super) fn next_checkpoint_key(file: PathBuf, hsm: Option<Arc<Group>>) -> NextKey {
    Arc::new(move || {
        let config = Config::load(&file).map_err(|error| error.to_string())?;
        let place = &config.audit.checkpoint_key;
        if let (KeyPlace::Token { uri, .. }, None) = (place, &hsm) {
            return Err(format!("{uri} is in a token, and this node was started without [hsm]: restart it"));
        }
        let signer = signer(place, hsm.as_deref()).map_err(|error| error.to_string())?;
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
