//! A session at a token beside the pool, as another program would have it.
#![allow(dead_code, clippy::unwrap_used, reason = "test code; each binary uses its part")]

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use edgate_hsm::Pkcs11Uri;

use crate::support::{PIN, Stage};

pub(crate) fn with_session(stage: &Stage, token: &Pkcs11Uri, body: impl FnOnce(&Session)) {
    let context = Pkcs11::new(&stage.module).unwrap();
    // Initialised already when a pool was there before.
    let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slots = context.get_slots_with_initialized_token().unwrap();
    let serial = |slot: &Slot| context.get_token_info(*slot).unwrap().serial_number().to_owned();
    let slot = slots.into_iter().find(|slot| Some(serial(slot)) == token.serial).unwrap();
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN.to_owned()))).unwrap();
    body(&session);
}

/// Deletes every object of this label.
pub(crate) fn delete_objects(stage: &Stage, token: &Pkcs11Uri, label: &str) {
    with_session(stage, token, |session| {
        let label = Attribute::Label(label.as_bytes().to_vec());
        for handle in session.find_objects(&[label]).unwrap() {
            session.destroy_object(handle).unwrap();
        }
    });
}
