//! Shared inputs of the benches: keys, tokens and messages made from fixed seeds.
