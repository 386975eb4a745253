//! Lists, list tokens and their cache.

mod codec;
mod fetching;
