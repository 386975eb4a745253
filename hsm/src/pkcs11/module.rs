//! A loaded module: one per path and process, for the life of the process.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::gate::{Gate, Inside, Shut};
use super::raw::RawSign;
use super::tenant::{Cost, Tenant, Tenants};
use super::{CallError, Class};
use crate::HsmError;

/// A PKCS#11 library. Never unloaded: modules own threads and exit handlers that outlive any owner.
pub struct Module {
    path: PathBuf,
    context: Pkcs11,
    raw: RawSign,
    gate: Gate,
    // Whether C_Initialize succeeded last; changed only with the gate closed.
    initialized: AtomicBool,
    tenants: Tenants,
}

/// How long a module that several pools share is shut to all of them while the call of one has not returned. Longer than
/// a signature takes on the slowest tokens (some 100 ms), shorter than anybody's deadline should be. After that the
/// others' work goes on and re-initialising is put off.
const SHARED_PATIENCE: Duration = Duration::from_millis(250);

impl Module {
    /// Loads the library at `path`, or finds it loaded. Does not initialise it. Runs its code, and blocks.
    ///
    /// # Errors
    /// [`HsmError::Module`] for a path that is not absolute, a file that others may write, or not a PKCS#11 library.
    pub fn load(path: &Path) -> Result<Arc<Self>, HsmError> {
        static LOADED: OnceLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = OnceLock::new();
        let problem = |problem: String| HsmError::Module { path: path.to_owned(), problem };
        if !path.is_absolute() {
            return Err(problem("give its absolute path".to_owned()));
        }
        // Two names of one file are one library, with one state.
        let real = path.canonicalize().map_err(|error| problem(error.to_string()))?;
        let metadata = real.metadata().map_err(|error| problem(error.to_string()))?;
        let ours = rustix::process::geteuid().as_raw();
        if !metadata.is_file() {
            return Err(problem("it is not a regular file".to_owned()));
        }
        if metadata.mode() & 0o022 != 0 || (metadata.uid() != 0 && metadata.uid() != ours) {
            return Err(problem(format!(
                "others than root may write it (owner {}, mode {:04o}), and it would run with the keys in reach",
                metadata.uid(),
                metadata.mode() & 0o7777
            )));
        }
        let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(&real) {
            return Ok(Arc::clone(module));
        }
        let context = Pkcs11::new(&real).map_err(|error| problem(error.to_string()))?;
        let raw = RawSign::new(&real, &context).map_err(|error| problem(error.to_string()))?;
        let module = Arc::new(Self {
            path: real.clone(),
            context,
            raw,
            gate: Gate::default(),
            initialized: AtomicBool::new(false),
            tenants: Tenants::default(),
        });
        loaded.insert(real, Arc::clone(&module));
        Ok(module)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Initialises the module unless it is.
    ///
    /// # Errors
    /// What the module answered, or [`HsmError::ModuleBusy`] at the deadline.
    pub fn initialize(&self, deadline: Instant) -> Result<(), HsmError> {
        if self.initialized.load(Ordering::SeqCst) {
            return Ok(());
        }
        let shut = self.gate.shut(deadline).ok_or_else(|| self.busy())?;
        // Another pool may have done it while this one waited; what it opened since must live.
        if self.initialized.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.start_anew(shut, deadline)
    }

    /// `C_Finalize` and `C_Initialize`, with nobody inside. Ends every session of the process in this module. Whether it
    /// was done: not if `epoch`, in which the caller saw a fault, is over, for then another has done it.
    ///
    /// # Errors
    /// What the module answered, or [`HsmError::ModuleBusy`] if a call has not returned by the deadline; where other pools
    /// are in the module, none waits for it longer than a quarter of a second.
    pub fn reinitialize(&self, epoch: u64, deadline: Instant) -> Result<bool, HsmError> {
        let shut = self.gate.shut(deadline).ok_or_else(|| self.busy())?;
        if shut.epoch() != epoch {
            return Ok(false);
        }
        self.start_anew(shut, deadline).map(|()| true)
    }

    fn start_anew(&self, shut: Shut<'_>, deadline: Instant) -> Result<(), HsmError> {
        let patience = match self.tenants.len() {
            0 | 1 => deadline,
            _ => deadline.min(Instant::now() + SHARED_PATIENCE),
        };
        let closed = shut.emptied(patience).ok_or_else(|| self.busy())?;
        if self.initialized.swap(false, Ordering::SeqCst) {
            // A module that cannot finalize may still initialise; its answer there is the one that counts.
            let _ = self.context.clone().finalize();
        }
        // Without OS_LOCKING_OK SoftHSM crashes under threads.
        let outcome = match self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                self.initialized.store(true, Ordering::SeqCst);
                Ok(())
            }
            Err(error) => Err(CallError::from(error).into()),
        };
        drop(closed);
        // Either way what they had open is gone.
        self.tenants.announce();
        outcome
    }

    /// How often it was initialised; what was opened in one epoch is dead in the next.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Takes a pool into account until it is dropped.
    pub(crate) fn admit(&self, tenant: &Arc<Tenant>) {
        self.tenants.admit(tenant);
    }

    /// What initialising the module anew would cost others than `asking`.
    pub(crate) fn cost(&self, asking: &Arc<Tenant>) -> Cost {
        self.tenants.cost(asking)
    }

    /// Enters the module for one or more calls.
    ///
    /// # Errors
    /// [`HsmError::ModuleBusy`] if it is being re-initialised until the deadline.
    pub(crate) fn enter(&self, deadline: Instant) -> Result<Inside<'_>, HsmError> {
        self.gate.enter(deadline).ok_or_else(|| self.busy())
    }

    fn busy(&self) -> HsmError {
        HsmError::ModuleBusy { path: self.path.clone() }
    }

    /// The safe API. Call it only while [`Inside`].
    pub(crate) fn context(&self, _inside: &Inside<'_>) -> &Pkcs11 {
        &self.context
    }

    pub(crate) fn raw(&self, _inside: &Inside<'_>) -> RawSign {
        self.raw
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module").field("path", &self.path).field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl HsmError {
    /// What to do about the error, for those that came from a token.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::AgentSays { class, .. } => *class,
            Self::Call(call) => call.class(),
            Self::TooLong { .. } => Class::Caller,
            Self::Agent { .. }
            | Self::ModuleBusy { .. }
            | Self::ModuleRenewed { .. }
            | Self::Object { matches: 0, .. }
            | Self::SignatureFault { .. }
            | Self::Token { matches: 0, .. } => Class::Device,
            Self::Login { .. } => Class::Pin,
            Self::Unsealed => Class::Rejected,
            _ => Class::Config,
        }
    }
}

/// SoftHSM's module, where distributions put it; `None` if it is not installed.
#[must_use]
pub fn installed_softhsm() -> Option<PathBuf> {
    SOFTHSM_PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

const SOFTHSM_PLACES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
];
