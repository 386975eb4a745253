//! A PKCS#11 module that passes calls on to another and injects faults. For tests only.
//!
//! `SHIM_MODULE` is the real module. `SHIM_FAULTS` is a file of faults, read again whenever it changes:
//!
//! ```text
//! C_Sign rv=0x30 n=1          one call answers CKR_DEVICE_ERROR, without reaching the module
//! C_SignInit rv=0x5 after     the call is made, and then an error is answered
//! C_Sign delay_us=200         each call takes 200 microseconds longer
//! C_Sign hang n=2             two calls do not return until the file changes
//! C_Sign corrupt              one bit of each signature is turned over
//! C_Sign canned               64 zero bytes, without reaching the module; C_SignInit likewise succeeds at once
//! C_OpenSession rv=0xb1 skip=3   the first three calls pass
//! * rv=0x5 permille=20        two calls in a hundred, of any function
//! C_Sign hang token=one       only in sessions (or on slots) of the token with this label
//! ```
//!
//! `SHIM_CALLS` is a file to which each call of `C_Initialize`, `C_Finalize`, `C_GetSlotList`, `C_Login` is appended by name.
#![allow(non_snake_case, clippy::missing_safety_doc, reason = "the names and contracts of PKCS#11")]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cryptoki_sys::*;

/// The file name of the module, beside the test binaries.
pub const FILE_NAME: &str = "libedgate_hsm_shim.so";

/// The entry point of every PKCS#11 module.
///
/// # Safety
/// `list` is null or points to a pointer that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    let Some(tables) = tables() else { return CKR_GENERAL_ERROR };
    // SAFETY: not null, and writable by the caller's word.
    unsafe { *list = (&raw const tables.ours).cast_mut() };
    CKR_OK
}

struct Tables {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
}

fn tables() -> Option<&'static Tables> {
    static TABLES: OnceLock<Option<Tables>> = OnceLock::new();
    let load = || {
        let path = std::env::var_os("SHIM_MODULE")?;
        // SAFETY: a test names a PKCS#11 module; loading runs its initialisers.
        let library = unsafe { Pkcs11::new(path) }.ok()?;
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the pointer may be written.
        if unsafe { library.C_GetFunctionList(&raw mut list) } != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: not null, and a module's table lives as long as the module, which is never unloaded.
        let real = unsafe { *list };
        std::mem::forget(library);
        let mut ours = real;
        override_all(&mut ours);
        Some(Tables { real, ours })
    };
    TABLES.get_or_init(load).as_ref()
}

/// One line of the file.
#[derive(Clone, Default)]
struct Fault {
    function: String,
    code: Option<CK_RV>,
    after: bool,
    delay: Duration,
    hang: bool,
    corrupt: bool,
    canned: bool,
    permille: Option<u64>,
    skip: u64,
    left: Option<u64>,
    token: Option<String>,
}

struct Plan {
    changed: Option<(SystemTime, u64)>,
    faults: Vec<Fault>,
}

/// What to do with one call.
struct Verdict {
    code: Option<CK_RV>,
    after: bool,
    corrupt: bool,
    canned: bool,
}

static PLAN: Mutex<Plan> = Mutex::new(Plan { changed: None, faults: Vec::new() });

fn plan_path() -> Option<&'static PathBuf> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("SHIM_FAULTS").map(PathBuf::from)).as_ref()
}

/// Which plan lies there. The time alone moves in steps of milliseconds, and tests are faster; each plan is a file of
/// its own, renamed into place, so its inode tells it from the one before.
fn modified() -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(plan_path()?).ok()?;
    Some((metadata.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&metadata)))
}

fn judge(function: &str, subject: Subject) -> Verdict {
    note_call(function);
    let mut verdict = Verdict { code: None, after: false, corrupt: false, canned: false };
    let (mut delay, mut hang) = (Duration::ZERO, false);
    let changed = modified();
    {
        let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        if plan.changed != changed {
            plan.changed = changed;
            let text = plan_path().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
            plan.faults = text.lines().filter_map(parse).collect();
        }
        for fault in &mut plan.faults {
            if fault.function != function && fault.function != "*" {
                continue;
            }
            if fault.token.is_some() && fault.token != label_of(subject) {
                continue;
            }
            if fault.permille.is_some_and(|permille| random() % 1000 >= permille) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            match &mut fault.left {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            delay += fault.delay;
            hang |= fault.hang;
            verdict.corrupt |= fault.corrupt;
            verdict.canned |= fault.canned;
            verdict.after |= fault.after;
            verdict.code = verdict.code.or(fault.code);
        }
    }
    if !delay.is_zero() {
        wait(delay);
    }
    while hang && modified() == changed {
        std::thread::sleep(Duration::from_millis(2));
    }
    verdict
}

/// What a call is about.
#[derive(Clone, Copy)]
enum Subject {
    None,
    Session(CK_SESSION_HANDLE),
    Slot(CK_SLOT_ID),
}

/// The slots of open sessions. A number that is given out again replaces the old entry.
static SESSIONS: Mutex<BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID>> = Mutex::new(BTreeMap::new());

/// The label of the token that a call is about. The labels are asked for once per slot: SoftHSM does not tell the label of a
/// token that is away.
fn label_of(subject: Subject) -> Option<String> {
    static LABELS: Mutex<BTreeMap<CK_SLOT_ID, String>> = Mutex::new(BTreeMap::new());
    let slot = match subject {
        Subject::None => return None,
        Subject::Session(session) => {
            *SESSIONS.lock().unwrap_or_else(PoisonError::into_inner).get(&session)?
        }
        Subject::Slot(slot) => slot,
    };
    let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(label) = labels.get(&slot) {
        return Some(label.clone());
    }
    let real = tables()?.real.C_GetTokenInfo?;
    let mut token = CK_TOKEN_INFO::default();
    // SAFETY: the module's own function; the structure may be written.
    if unsafe { real(slot, &raw mut token) } != CKR_OK {
        return None;
    }
    let label = String::from_utf8_lossy(&token.label).trim_end().to_owned();
    labels.insert(slot, label.clone());
    Some(label)
}

/// By the name of a function's first argument, which is the standard's.
fn subject(name: &str, word: u64) -> Subject {
    match name {
        "session" => Subject::Session(word),
        "slot" => Subject::Slot(word),
        _ => Subject::None,
    }
}

/// As exactly as a network would: sleeping alone is 50 microseconds late.
fn wait(delay: Duration) {
    let end = Instant::now() + delay;
    if delay > Duration::from_millis(1) {
        std::thread::sleep(delay - Duration::from_micros(500));
    }
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

fn parse(line: &str) -> Option<Fault> {
    let mut words = line.split_whitespace();
    let mut fault = Fault { function: words.next()?.to_owned(), ..Fault::default() };
    for word in words {
        match word.split_once('=') {
            Some(("rv", code)) => fault.code = CK_RV::from_str_radix(code.trim_start_matches("0x"), 16).ok(),
            Some(("delay_us", delay)) => fault.delay = Duration::from_micros(delay.parse().ok()?),
            Some(("permille", permille)) => fault.permille = permille.parse().ok(),
            Some(("skip", skip)) => fault.skip = skip.parse().ok()?,
            Some(("n", count)) => fault.left = count.parse().ok(),
            Some(("token", label)) => fault.token = Some(label.to_owned()),
            None if word == "after" => fault.after = true,
            None if word == "hang" => fault.hang = true,
            None if word == "corrupt" => fault.corrupt = true,
            None if word == "canned" => fault.canned = true,
            _ => return None,
        }
    }
    Some(fault)
}

fn note_call(function: &str) {
    static CALLS: OnceLock<Option<File>> = OnceLock::new();
    if !matches!(function, "C_Initialize" | "C_Finalize" | "C_GetSlotList" | "C_Login") {
        return;
    }
    let open = || OpenOptions::new().append(true).create(true).open(std::env::var_os("SHIM_CALLS")?).ok();
    if let Some(mut file) = CALLS.get_or_init(open).as_ref() {
        // A test that counts will miss it.
        let _ = file.write_all(format!("{function}\n").as_bytes());
    }
}

/// SplitMix64; `SHIM_SEED` makes it repeat.
fn random() -> u64 {
    static STATE: OnceLock<AtomicU64> = OnceLock::new();
    let seed = || std::env::var("SHIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let state = STATE.get_or_init(|| AtomicU64::new(seed()));
    let mut value = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

macro_rules! faulty {
    ($($name:ident($first:ident: $first_type:ty $(, $argument:ident: $type:ty)*);)*) => {
        $(
            unsafe extern "C" fn $name($first: $first_type, $($argument: $type),*) -> CK_RV {
                let Some(real) = tables().and_then(|tables| tables.real.$name) else {
                    return CKR_FUNCTION_NOT_SUPPORTED;
                };
                let verdict = judge(stringify!($name), subject(stringify!($first), $first as usize as u64));
                match verdict.code {
                    None if verdict.canned => CKR_OK,
                    Some(code) if !verdict.after => code,
                    // SAFETY: the caller's arguments are passed on as they came.
                    other => {
                        let answer = unsafe { real($first, $($argument),*) };
                        other.unwrap_or(answer)
                    }
                }
            }
        )*

        fn override_all(list: &mut CK_FUNCTION_LIST) {
            $(list.$name = Some($name);)*
            list.C_OpenSession = Some(C_OpenSession);
            list.C_Sign = Some(C_Sign);
            list.C_GetFunctionList = Some(C_GetFunctionList);
        }
    };
}

faulty! {
    C_Initialize(arguments: *mut std::os::raw::c_void);
    C_Finalize(reserved: *mut std::os::raw::c_void);
    C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_GetTokenInfo(slot: CK_SLOT_ID, token: *mut CK_TOKEN_INFO);
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_GetSessionInfo(session: CK_SESSION_HANDLE, state: *mut CK_SESSION_INFO);
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG);
    C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, room: CK_ULONG, count: *mut CK_ULONG);
    C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    C_GetAttributeValue(
        session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG
    );
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_EncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Encrypt(
        session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG, sealed: *mut CK_BYTE, room: *mut CK_ULONG
    );
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_Decrypt(
        session: CK_SESSION_HANDLE, sealed: *mut CK_BYTE, length: CK_ULONG, data: *mut CK_BYTE, room: *mut CK_ULONG
    );
    C_CreateObject(
        session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut CK_OBJECT_HANDLE
    );
    C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
    C_WrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE, room: *mut CK_ULONG
    );
    C_UnwrapKey(
        session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, unwrapping: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE,
        length: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE
    );
    C_GenerateRandom(session: CK_SESSION_HANDLE, random: *mut CK_BYTE, length: CK_ULONG);
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut std::os::raw::c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    let Some(real) = tables().and_then(|tables| tables.real.C_OpenSession) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let verdict = judge("C_OpenSession", Subject::Slot(slot));
    if let Some(code) = verdict.code
        && !verdict.after
    {
        return code;
    }
    // SAFETY: the caller's arguments are passed on as they came.
    let answer = unsafe { real(slot, flags, application, notify, session) };
    if answer == CKR_OK {
        // SAFETY: on success the module has written a number there.
        let session = unsafe { *session };
        SESSIONS.lock().unwrap_or_else(PoisonError::into_inner).insert(session, slot);
    }
    verdict.code.unwrap_or(answer)
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    signature: *mut CK_BYTE,
    room: *mut CK_ULONG,
) -> CK_RV {
    let Some(real) = tables().and_then(|tables| tables.real.C_Sign) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    let verdict = judge("C_Sign", Subject::Session(session));
    if let Some(code) = verdict.code
        && !verdict.after
    {
        return code;
    }
    if verdict.canned {
        // SAFETY: the caller gives room for `*room` bytes at `signature`, or asks for the length with null.
        unsafe {
            if !signature.is_null() {
                ptr::write_bytes(signature, 0, 64);
            }
            *room = 64;
        }
        return CKR_OK;
    }
    // SAFETY: the caller's arguments are passed on as they came.
    let answer = unsafe { real(session, data, length, signature, room) };
    // SAFETY: on success the module has written `*room` bytes at `signature`, unless that is null.
    unsafe {
        if verdict.corrupt && answer == CKR_OK && !signature.is_null() && *room > 0 {
            let index = random() % *room;
            *signature.add(usize::try_from(index).unwrap_or(0)) ^= 1 << (random() % 8);
        }
    }
    verdict.code.unwrap_or(answer)
}
