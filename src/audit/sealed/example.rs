//! The example of FORMAT.md: a sealed value whose every input is fixed.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::{
    Seals, Values,
    folder::KeyId,
    ring::SealRing,
    value::{NONCE_BYTES, PAD_BYTES, Place, TAG_BYTES},
    *,
};
use crate::audit::{hex::hex, id::RecordId, schema::Kind};

pub(in crate::audit) fn example() -> String {
    let (id, key_id) = (RecordId { boot: 0x22, core: 3, core_seq: 41 }, KeyId([0x33; 16]));
    let mut ring = SealRing::new(&[TagField::Subject, TagField::Client], day_of(1_700_000_000));
    ring.add("acme", key_id, &Zeroizing::new([0x44; 32]));
    let mut seals = Seals::new(Some(&ring), Kind::Decision, 6);
    seals.name(id);
    let mut values =
        Values { subject: Some("alice"), jti: Some("5b3c"), client: Some([192, 0, 2, 7].into()) };
    let planned = seals.plan("acme", &mut values, usize::MAX).expect("values").expect("a key");
    let mut clear = Vec::new();
    values.encode(&mut clear);
    let mut value = Vec::new();
    seals.seal(&planned, &values, 15, 0, &mut value);
    let additional = Place { kind: Kind::Decision.code(), item: 0, field: 15, id }.additional_data(&key_id);

    let mut text = String::from(
        "**Example.** The 7th value of core 3, in record 41 of that core, a decision of boot `22`, subject and client sealed under the key \
         `44…44` with the id `33…33`.\n\n```text\n",
    );
    let (nonce, ciphertext) = (16 + NONCE_BYTES, 16 + NONCE_BYTES + PAD_BYTES);
    for (name, bytes) in [
        ("encrypted ", &clear[..]),
        ("additional", &additional),
        ("key id    ", &value[..16]),
        ("nonce     ", &value[16..nonce]),
        ("ciphertext", &value[nonce..ciphertext]),
        ("tag       ", &value[ciphertext..ciphertext + TAG_BYTES]),
    ] {
        writeln!(text, "{name} {}", hex(bytes)).expect("a string takes all");
    }
    text.push_str("```\n\nEncrypted: map(2): 1 (subject) text(5) `alice`, 3 (client) bytes(4) `c0000207`; behind it `80` and zeros up to 32 bytes.\n");
    text
}
