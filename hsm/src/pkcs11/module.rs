//! A loaded module: one per path and process, for the life of the process.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::gate::{Gate, Inside};
use super::raw::RawSign;
use super::{CallError, Class};
use crate::HsmError;

/// A PKCS#11 library. Never unloaded: modules own threads and exit handlers that outlive any owner.
#[derive(Debug)]
pub struct Module {
    path: PathBuf,
    context: Pkcs11,
    raw: RawSign,
    gate: Gate,
    // Whether C_Initialize succeeded last; changed only with the gate closed.
    initialized: Mutex<bool>,
}

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
            initialized: Mutex::new(false),
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
        if *self.initialized.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        self.reinitialize(deadline)
    }

    /// `C_Finalize` and `C_Initialize`, with nobody inside. Ends every session of the process in this module.
    ///
    /// # Errors
    /// What the module answered, or [`HsmError::ModuleBusy`] if a call has not returned by the deadline.
    pub fn reinitialize(&self, deadline: Instant) -> Result<(), HsmError> {
        let closed =
            self.gate.close(deadline).ok_or_else(|| HsmError::ModuleBusy { path: self.path.clone() })?;
        let mut initialized = self.initialized.lock().unwrap_or_else(PoisonError::into_inner);
        if *initialized {
            // A module that cannot finalize may still initialise; its answer there is the one that counts.
            let _ = self.context.clone().finalize();
            *initialized = false;
        }
        // Without OS_LOCKING_OK SoftHSM crashes under threads.
        match self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => *initialized = true,
            Err(error) => return Err(CallError::from(error).into()),
        }
        drop(initialized);
        drop(closed);
        Ok(())
    }

    /// Enters the module for one or more calls.
    ///
    /// # Errors
    /// [`HsmError::ModuleBusy`] if it is being re-initialised until the deadline.
    pub(crate) fn enter(&self, deadline: Instant) -> Result<Inside<'_>, HsmError> {
        self.gate.enter(deadline).ok_or_else(|| HsmError::ModuleBusy { path: self.path.clone() })
    }

    /// The safe API. Call it only while [`Inside`].
    pub(crate) fn context(&self, _inside: &Inside<'_>) -> &Pkcs11 {
        &self.context
    }

    pub(crate) fn raw(&self, _inside: &Inside<'_>) -> RawSign {
        self.raw
    }
}

impl HsmError {
    /// What to do about the error, for those that came from a token.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Call(call) => call.class(),
            Self::ModuleBusy { .. }
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
