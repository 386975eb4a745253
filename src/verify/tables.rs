//! The tables of registered keys, within a budget of memory.
//!
//! A table makes a key several times faster and takes memory and cache, so the budget (`verify.table_budget_mib`) bounds
//! them all. A key without one is verified on the cold path: slower, same verdicts. [`Tables::rebalance`], called now and
//! then from a thread that is not a shard, gives the tables to the keys used most since the last calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError, Weak};

use super::engine::Arithmetic;
use super::key::Registered;
use super::{Engine, KeyRejection, VerifyingKey};

/// The registered keys of one engine and the memory their tables may take.
pub struct Tables {
    engine: Engine,
    // Set once by the shadow check, for the life of the process.
    lanes_distrusted: AtomicBool,
    budget_bytes: AtomicUsize,
    // Locked by registration and rebalancing only; shards read tables through the keys they hold.
    keys: Mutex<HashMap<[u8; 32], Entry>>,
}

/// How the budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablesUse {
    /// Registered keys that somebody still holds.
    pub keys: usize,
    /// Those that have a table.
    pub tables: usize,
    /// Memory of the tables.
    pub bytes: usize,
}

struct Entry {
    key: Weak<Registered>,
    // Uses, halved at each rebalancing: what was hot an hour ago does not keep its table.
    score: u64,
}

/// The budget until the configuration sets one: 1,200 keys in lanes, 2,000 on the portable path.
const BUDGET_BYTES_DEFAULT: usize = 256 << 20;

impl Tables {
    /// No keys yet, for verifiers on `engine`.
    #[must_use]
    pub fn new(engine: Engine, budget_bytes: usize) -> Self {
        Self {
            engine,
            lanes_distrusted: AtomicBool::new(false),
            budget_bytes: AtomicUsize::new(budget_bytes),
            keys: Mutex::default(),
        }
    }

    /// The tables [`VerifyingKey::register`] uses: memory is one budget for the whole process.
    #[must_use]
    pub fn of_process() -> &'static Self {
        static TABLES: OnceLock<Tables> = OnceLock::new();
        TABLES.get_or_init(|| Self::new(Engine::Auto, BUDGET_BYTES_DEFAULT))
    }

    /// Sets the budget; [`Tables::rebalance`] applies it to the tables there are.
    pub fn set_budget_bytes(&self, budget_bytes: usize) {
        self.budget_bytes.store(budget_bytes, Ordering::Relaxed);
    }

    /// Makes the tables that verifiers on `engine` read; call it before keys are registered.
    pub fn set_engine(&self, engine: Engine) {
        if engine == Engine::Portable {
            self.distrust_lanes();
        }
    }

    /// As [`VerifyingKey::register`], within this budget.
    ///
    /// # Errors
    /// The first registry check that fails.
    pub fn register(&self, bytes: &[u8; 32]) -> Result<VerifyingKey, KeyRejection> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = alive(&keys, bytes) {
            return Ok(key);
        }
        let key = Arc::new(Registered::new(bytes)?);
        let arithmetic = self.arithmetic();
        let tables =
            keys.values().filter_map(|entry| entry.key.upgrade()).filter(|key| has_table(key)).count();
        if tables < self.tables_max(arithmetic) {
            key.table.store(Some(Arc::new(arithmetic.table(key.negated()))));
        }
        keys.insert(*bytes, Entry { key: Arc::downgrade(&key), score: 0 });
        Ok(VerifyingKey(key))
    }

    /// As [`VerifyingKey::try_register`], within this budget.
    ///
    /// # Errors
    /// The first registry check that fails.
    pub fn try_register(&self, bytes: &[u8; 32]) -> Result<Option<VerifyingKey>, KeyRejection> {
        let mut keys = match self.keys.try_lock() {
            Ok(keys) => keys,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        if let Some(key) = alive(&keys, bytes) {
            return Ok(Some(key));
        }
        let key = Arc::new(Registered::new(bytes)?);
        keys.insert(*bytes, Entry { key: Arc::downgrade(&key), score: 0 });
        Ok(Some(VerifyingKey(key)))
    }

    /// Gives the tables to the keys used most, and tells how the budget is used.
    ///
    /// Builds tables (up to a millisecond each): call it from a thread of its own, each second or so.
    pub fn rebalance(&self) -> TablesUse {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let arithmetic = self.arithmetic();
        let mut ranked = Vec::with_capacity(keys.len());
        keys.retain(|_, entry| {
            let Some(key) = entry.key.upgrade() else { return false };
            entry.score = (entry.score / 2).saturating_add(key.uses.swap(0, Ordering::Relaxed));
            // Of equals the one that has a table keeps it.
            ranked.push((entry.score, has_table(&key), key));
            true
        });
        ranked.sort_unstable_by_key(|(score, has_table, _)| std::cmp::Reverse((*score, *has_table)));
        let tables = self.tables_max(arithmetic).min(ranked.len());
        let (chosen, others) = ranked.split_at(tables);
        // Free before building, so that the budget holds at every moment.
        for (_, _, key) in others {
            key.table.store(None);
        }
        for (_, _, key) in chosen {
            let wanted = key.table.load().as_ref().is_some_and(|table| arithmetic.reads(table));
            if !wanted {
                key.table.store(Some(Arc::new(arithmetic.table(key.negated()))));
            }
        }
        TablesUse { keys: ranked.len(), tables, bytes: tables * arithmetic.table_bytes() }
    }

    /// Makes the tables the portable engine reads from now on; [`Tables::rebalance`] replaces those there are.
    pub(super) fn distrust_lanes(&self) {
        self.lanes_distrusted.store(true, Ordering::Release);
    }

    fn arithmetic(&self) -> Arithmetic {
        let distrusted = self.lanes_distrusted.load(Ordering::Acquire);
        Arithmetic::of(if distrusted { Engine::Portable } else { self.engine })
    }

    fn tables_max(&self, arithmetic: Arithmetic) -> usize {
        self.budget_bytes.load(Ordering::Relaxed) / arithmetic.table_bytes()
    }
}

/// The key, if it is registered and somebody holds it.
fn alive(keys: &HashMap<[u8; 32], Entry>, bytes: &[u8; 32]) -> Option<VerifyingKey> {
    keys.get(bytes).and_then(|entry| entry.key.upgrade()).map(VerifyingKey)
}

fn has_table(key: &Registered) -> bool {
    key.table.load().is_some()
}
