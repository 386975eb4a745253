//! The wrapping keys of `[hsm]`, as the audit log uses them for the files of its tag keys.
//!
//! What is wrapped cannot be read without the token, so a start without it fails: nothing says whose records it would write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{Group, HsmError, WrappingKey};
use zeroize::Zeroizing;

use super::{StartError, hsm};
use crate::audit::{NotOpened, TagKeyWrap};
use crate::config::Config;

/// How long one key file may take to be wrapped or opened.
const WRAP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a start waits for a token that is away, and between two tries.
const START_PATIENCE: Duration = Duration::from_secs(20);
const START_PAUSE: Duration = Duration::from_millis(200);

/// Who wraps, and the tokens that have to stay open meanwhile.
pub type LentWrap = (Arc<dyn TagKeyWrap>, Arc<Group>);

/// The key that wraps, and the one that did before.
#[derive(Debug)]
struct TokenWrap {
    current: WrappingKey,
    previous: Option<WrappingKey>,
}

/// Opens the wrapping keys in the token; `None` where none is configured. Blocks.
///
/// # Errors
/// What is wrong with a key or the token; a token that is away is an error too.
pub(super) fn of(config: &Config, hsm: Option<&Group>) -> Result<Option<Arc<dyn TagKeyWrap>>, StartError> {
    let Some(tokens) = &config.hsm else { return Ok(None) };
    let (Some(current), Some(hsm)) = (&tokens.wrapping_key, hsm) else { return Ok(None) };
    // A token, or its agent, may be a moment later than this node.
    let until = Instant::now() + START_PATIENCE;
    let open = |uri| loop {
        match hsm.wrapping_key(uri, Instant::now() + WRAP_TIMEOUT) {
            Err(HsmError::Unavailable { .. } | HsmError::DeadlinePassed { .. }) if Instant::now() < until => {
                std::thread::sleep(START_PAUSE);
            }
            opened => return opened,
        }
    };
    let current = open(current)?;
    let previous = tokens.previous_wrapping_key.as_ref().map(open).transpose()?;
    Ok(Some(Arc::new(TokenWrap { current, previous })))
}

/// Logs in to the token of this configuration and opens its wrapping keys, for a command that works beside the node; the tokens that it
/// needs meanwhile.
///
/// # Errors
/// As [`of`].
pub fn open_tag_key_wrap(config: &Config) -> Result<Option<LentWrap>, StartError> {
    let Some(tokens) = config.hsm.as_ref().filter(|tokens| tokens.wrapping_key.is_some()) else {
        return Ok(None);
    };
    let group = hsm::start(tokens, config)?;
    Ok(of(config, Some(&group))?.map(|wrap| (wrap, group)))
}

impl TokenWrap {
    fn keys(&self) -> impl Iterator<Item = &WrappingKey> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

impl TagKeyWrap for TokenWrap {
    fn ids(&self) -> Vec<Vec<u8>> {
        self.keys().map(|key| key.id().to_vec()).collect()
    }

    fn wrap(&self, usage: &[u8], secret: &[u8]) -> Result<Vec<u8>, String> {
        self.current.seal(usage, secret, Instant::now() + WRAP_TIMEOUT).map_err(|error| error.to_string())
    }

    fn open(&self, id: &[u8], usage: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let key = self.keys().find(|key| key.id() == id).ok_or(HsmError::Unsealed);
        key.and_then(|key| key.open(usage, wrapped, Instant::now() + WRAP_TIMEOUT)).map_err(|error| {
            match error {
                HsmError::Unsealed => NotOpened::Altered,
                error => NotOpened::Unavailable(error.to_string()),
            }
        })
    }
}
