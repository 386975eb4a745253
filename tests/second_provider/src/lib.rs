//! The PKCS#11 entry points of `craton-hsm`, as a library that can be loaded.

pub use craton_hsm::pkcs11_abi;
