//! Signing keys: who may sign what, and with which key.
