//! Handing a PIN to an agent whose token waits for one.

use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use zeroize::Zeroizing;

use super::AgentAddress;
use super::connection::{greet, told};
use super::frame::{FromAgent, Role, ToAgent, read_frame};
use crate::{HsmError, Pkcs11Uri};

/// A login takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to an agent, for one PIN. Agents take it from root and from their own user, and from nobody else: a service that
/// was taken over cannot try PINs.
pub struct AgentUnlock {
    address: AgentAddress,
    stream: UnixStream,
    token: Pkcs11Uri,
}

impl AgentUnlock {
    /// Connects. Blocks for some seconds at most.
    ///
    /// # Errors
    /// If there is no agent, it is not the one that is expected, or it does not take PINs from this user.
    pub fn connect(address: &AgentAddress) -> Result<Self, HsmError> {
        let (stream, token) = greet(address, Role::Unlock)?;
        Ok(Self { address: address.clone(), stream, token })
    }

    /// The token the PIN is for.
    #[must_use]
    pub fn token(&self) -> &Pkcs11Uri {
        &self.token
    }

    /// Has the agent log in with `pin`, once. Blocks until that ends.
    ///
    /// # Errors
    /// Why the token still cannot be used.
    pub fn unlock(self, pin: &Zeroizing<String>) -> Result<(), HsmError> {
        let failed = |problem: String| HsmError::Agent { socket: self.address.socket.clone(), problem };
        let asked = self
            .stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| (&self.stream).write_all(&ToAgent::unlock(pin)));
        asked.map_err(|error| failed(error.to_string()))?;
        let frame = read_frame(&mut &self.stream).map_err(|error| failed(told(&error, PATIENCE)))?;
        match FromAgent::decode(&frame) {
            Ok(FromAgent::Unlocked(outcome)) => outcome,
            Ok(FromAgent::Refused(problem)) => {
                Err(HsmError::AgentRefused { socket: self.address.socket.clone(), problem })
            }
            Ok(FromAgent::Replies(_) | FromAgent::Status(_) | FromAgent::Welcome(_)) => {
                Err(failed("its answer is none to what it was asked".to_owned()))
            }
            Ok(FromAgent::Busy(problem)) => Err(failed(problem)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

impl fmt::Debug for AgentUnlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentUnlock").field("token", &self.token).finish_non_exhaustive()
    }
}
