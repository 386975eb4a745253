//! Who works in a module: what pools of one module know of one another.
//!
//! Tokens of one module share its state. `C_Finalize` ends the sessions and logins of all of them, so whoever wants it
//! for one token asks first what it costs the others.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One pool, as the others in its module see it. Its keeper changes it.
pub(crate) struct Tenant {
    activity: AtomicU8,
    // Whether a login that ends can be made again without a person.
    logs_in_again: bool,
    // Called when the module was initialised anew. Short; does not block.
    renewed: Box<dyn Fn() + Send + Sync>,
}

/// What a pool does in its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    /// It is closed.
    Gone,
    /// Its token is away, or not yet found.
    Waiting,
    /// It is logged in, and signs.
    Working,
}

/// The pools of one module.
#[derive(Default)]
pub(crate) struct Tenants(Mutex<Vec<Weak<Tenant>>>);

/// What initialising a module anew would cost others than the one that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Nobody else is there.
    None,
    /// Somebody else is there, and none of them works.
    Idle,
    /// Somebody's sessions; the login is made again.
    Sessions,
    /// Somebody's login, which only a person makes again.
    Login,
}

impl Tenant {
    pub(crate) fn new(logs_in_again: bool, renewed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let activity = AtomicU8::new(Activity::Waiting as u8);
        Arc::new(Self { activity, logs_in_again, renewed: Box::new(renewed) })
    }

    pub(crate) fn does(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::SeqCst);
    }

    fn is(&self, activity: Activity) -> bool {
        self.activity.load(Ordering::SeqCst) == activity as u8
    }
}

impl Tenants {
    pub(crate) fn admit(&self, tenant: &Arc<Tenant>) {
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|other| other.strong_count() > 0);
        tenants.push(Arc::downgrade(tenant));
    }

    pub(crate) fn len(&self) -> usize {
        self.present().len()
    }

    /// What others than `asking` would lose.
    pub(crate) fn cost(&self, asking: &Arc<Tenant>) -> Cost {
        let others = self.present().into_iter().filter(|other| !Arc::ptr_eq(other, asking));
        let costs = others.map(|other| match (other.is(Activity::Working), other.logs_in_again) {
            (false, _) => Cost::Idle,
            (true, true) => Cost::Sessions,
            (true, false) => Cost::Login,
        });
        costs.max_by_key(|cost| *cost as u8).unwrap_or(Cost::None)
    }

    /// Tells everybody that the module was initialised anew.
    pub(crate) fn announce(&self) {
        self.present().iter().for_each(|tenant| (tenant.renewed)());
    }

    fn present(&self) -> Vec<Arc<Tenant>> {
        let tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.iter().filter_map(Weak::upgrade).filter(|tenant| !tenant.is(Activity::Gone)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_of_the_others_counts_and_the_asking_one_does_not() {
        let tenants = Tenants::default();
        let asking = Tenant::new(false, || ());
        asking.does(Activity::Working);
        tenants.admit(&asking);
        assert_eq!(tenants.cost(&asking), Cost::None);
        let (file, operator) = (Tenant::new(true, || ()), Tenant::new(false, || ()));
        tenants.admit(&file);
        assert_eq!(tenants.cost(&asking), Cost::Idle);
        file.does(Activity::Working);
        tenants.admit(&operator);
        assert_eq!(tenants.cost(&asking), Cost::Sessions);
        operator.does(Activity::Working);
        assert_eq!(tenants.cost(&asking), Cost::Login);
        operator.does(Activity::Gone);
        drop(file);
        assert_eq!(tenants.cost(&asking), Cost::None);
    }
}
