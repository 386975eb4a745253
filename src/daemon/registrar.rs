//! The thread that asks about tokens what the view cannot say.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{StartError, now};
use crate::revocation::{Answer, Inquiry, Registrar, Registry, Status, View};
use crate::store::Store;

/// Starts the registrar. It holds nothing that must be finished: once the shards are gone it has nothing to do, and it
/// ends with the process.
pub(super) fn spawn(registrar: Registrar, mut registry: Box<dyn Registry>) -> Result<(), StartError> {
    std::thread::Builder::new()
        .name("registrar".to_owned())
        .spawn(move || registrar.run(&mut *registry))
        .map(|_| ())
        .map_err(|error| StartError::System { what: "start the registrar's thread", error })
}

/// The registry of a node on its own: the state database, and the view, which is the truth here.
pub(super) struct LocalRegistry {
    pub(super) store: Store,
    pub(super) view: Arc<View>,
    /// Of the control plane, which drives the database's timers.
    pub(super) runtime: Handle,
}

impl Registry for LocalRegistry {
    fn answer(&mut self, inquiries: &[Inquiry]) -> Vec<Answer> {
        // Revoked since the shard looked: such a token is not used up.
        let status = |inquiry: &Inquiry| self.view.check(&inquiry.identity(), now());
        let clear: Vec<Inquiry> =
            inquiries.iter().filter(|inquiry| status(inquiry) == Status::Clear).cloned().collect();
        let answered = match self.runtime.block_on(self.store.answer_inquiries(&clear)) {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "cannot tell whether tokens are listed or used; they get 503");
                return vec![Answer::Unknown; inquiries.len()];
            }
        };
        let mut answered = answered.into_iter();
        let mut asked = clear.iter().peekable();
        inquiries
            .iter()
            .map(|inquiry| {
                if asked.next_if(|next| *next == inquiry).is_some() {
                    return answered.next().unwrap_or(Answer::Unknown);
                }
                match status(inquiry) {
                    Status::Revoked => Answer::Revoked,
                    Status::Disabled => Answer::Disabled,
                    Status::Clear => Answer::Unknown,
                }
            })
            .collect()
    }
}
