//! Bodies of records: deterministic CBOR maps with the integer keys of `schema.rs`, written in ascending order.

use super::{
    event::{
        AdminEvent, AnchorEvent, BatchEvent, BatchItem, ChangeEvent, DecisionEvent, EraseEvent, Event,
        ExportEvent, IssueEvent, KID_BYTES_MAX, RevokeEvent, StartEvent, VerifyRunEvent,
    },
    id::RecordId,
    record::BODY_BYTES_MAX,
    schema::{SEALED, UNSEALED},
    sealed::{Seals, Values},
    short,
    tag::{OpenTags, TAG_BYTES, TagField},
};

/// Appends the body of `event` to `out`.
pub(super) fn encode(event: &Event<'_>, tags: &mut OpenTags, seals: &mut Seals<'_>, out: &mut Vec<u8>) {
    let mut map = Body::begin(out);
    let body = &mut map;
    match event {
        Event::Admin(event) => admin(body, event),
        Event::Anchor(event) => anchor(body, event),
        Event::ConfigChange(event) | Event::KeyChange(event) | Event::KeyRotate(event) => change(body, event),
        Event::Decision(event) => decision(body, event, tags, seals),
        Event::DecisionBatch(event) => batch(body, event, tags, seals),
        Event::Erase(event) => erase(body, event),
        Event::Export(event) => export(body, event),
        Event::Issue(event) => issue(body, event, tags, seals),
        Event::Retire(event) => event.encode(body),
        Event::Revoke(event) => revoke(body, event, tags),
        Event::Start(event) => start(body, event),
        Event::Stop(event) => {
            body.text(1, event.reason);
        }
        Event::VerifyRun(event) => verify_run(body, event),
    }
    map.end();
}

fn decision(body: &mut Body<'_>, event: &DecisionEvent<'_>, tags: &mut OpenTags, seals: &mut Seals<'_>) {
    body.uint(1, u64::from(event.surface));
    body.uint(2, u64::from(event.decision.code()));
    body.text_if(3, event.issuer);
    body.text_if(4, cut(event.kid, KID_BYTES_MAX));
    body.text_if(5, event.tenant);
    body.tag_if(6, tags, TagField::Subject, event.subject);
    body.tag_if(7, tags, TagField::Jti, event.jti);
    client(body, 8, tags, event.client);
    body.uint(9, event.revocation_epoch);
    body.uint(10, u64::from(event.latency_us));
    body.uint_if(11, event.expires.map(|at| at.0));
    body.text_if(12, event.caller);
    body.true_if(14, event.stale);
    let values = Values { subject: event.subject, jti: event.jti, client: event.client };
    body.seal(seals, 0, event.tenant, values, BODY_BYTES_MAX);
}

fn batch(body: &mut Body<'_>, event: &BatchEvent<'_>, tags: &mut OpenTags, seals: &mut Seals<'_>) {
    body.uint(1, u64::from(event.surface));
    body.text_if(5, event.tenant);
    client(body, 8, tags, event.client);
    body.uint(9, event.revocation_epoch);
    body.uint(10, u64::from(event.latency_us));
    body.text_if(12, event.caller);
    body.key(13);
    head(body.out, ARRAY, event.items.len() as u64);
    for (number, item) in (1u16..).zip(event.items) {
        // What is sealed gives way to the decisions that follow.
        let following = (event.items.len() + 1 - usize::from(number)) * ITEM_BYTES_MAX + FRAME_BYTES_MAX;
        let taken = body.out.len() - body.head + following;
        batch_item(body.out, item, tags, seals, number, BODY_BYTES_MAX.saturating_sub(taken));
    }
    body.seal(seals, 0, event.tenant, Values { client: event.client, ..Values::default() }, BODY_BYTES_MAX);
}

fn batch_item(
    out: &mut Vec<u8>,
    item: &BatchItem<'_>,
    tags: &mut OpenTags,
    seals: &mut Seals<'_>,
    number: u16,
    room: usize,
) {
    let mut body = Body::begin(out);
    body.uint(2, u64::from(item.decision.code()));
    body.text_if(3, cut(item.issuer, ITEM_TEXT_BYTES_MAX));
    body.text_if(4, cut(item.kid, ITEM_TEXT_BYTES_MAX));
    body.tag_if(6, tags, TagField::Subject, item.subject);
    body.tag_if(7, tags, TagField::Jti, item.jti);
    body.uint_if(11, item.expires.map(|at| at.0));
    body.true_if(14, item.stale);
    let values = Values { subject: item.subject, jti: item.jti, client: None };
    body.seal(seals, number, item.tenant, values, room);
    body.end();
}

fn issue(body: &mut Body<'_>, event: &IssueEvent<'_>, tags: &mut OpenTags, seals: &mut Seals<'_>) {
    body.uint(1, event.phase.code());
    body.text(2, event.actor);
    body.text(3, event.issuer);
    body.text(4, event.kid);
    body.text_if(5, event.tenant);
    body.tag_if(6, tags, TagField::Subject, Some(event.subject));
    body.tag_if(7, tags, TagField::Jti, Some(event.jti));
    body.uint(8, event.issued_at.0);
    body.uint(9, event.expires.0);
    body.key(10);
    head(body.out, ARRAY, event.scope.len() as u64);
    for name in event.scope {
        string(body.out, TEXT, name.as_bytes());
    }
    body.intent(11, event.intent);
    body.text_if(12, event.failure.unwrap_or(""));
    let values = Values { subject: Some(event.subject), jti: Some(event.jti), client: None };
    body.seal(seals, 0, event.tenant, values, BODY_BYTES_MAX);
}

fn revoke(body: &mut Body<'_>, event: &RevokeEvent<'_>, tags: &mut OpenTags) {
    body.uint(1, event.phase.code());
    body.text(2, event.actor);
    body.text_if(3, event.issuer);
    body.text(4, event.target_kind);
    body.text_if(5, event.tenant);
    let field = match event.target_kind {
        "jti" => Some(TagField::Jti),
        "subject" => Some(TagField::Subject),
        "session" => Some(TagField::Session),
        _ => None,
    };
    match field {
        Some(field) => body.tag_if(6, tags, field, Some(event.target)),
        None => body.text(7, event.target),
    }
    body.text_if(8, event.reason.unwrap_or(""));
    body.uint_if(9, event.until.map(|at| at.0));
    body.uint_if(10, event.revocation_epoch);
    body.intent(11, event.intent);
    body.text_if(12, event.failure.unwrap_or(""));
    body.text_if(13, event.action);
    body.uint_if(14, event.issued_until.map(|at| at.0));
}

fn start(body: &mut Body<'_>, event: &StartEvent<'_>) {
    body.text(1, event.version);
    if let Some(digest) = event.config_digest {
        body.bytes(2, digest);
    }
    body.uint(3, u64::from(event.shards));
    body.text_if(4, event.detail);
}

fn change(body: &mut Body<'_>, event: &ChangeEvent<'_>) {
    body.uint(1, event.phase.code());
    body.text(2, event.actor);
    body.text(3, event.what);
    body.text(4, event.before);
    body.text(5, event.after);
    body.intent(11, event.intent);
}

fn admin(body: &mut Body<'_>, event: &AdminEvent<'_>) {
    body.uint(1, event.phase.code());
    body.text(2, event.actor);
    body.text(3, event.action);
    body.text_if(4, event.target);
    body.text_if(5, event.detail);
    body.intent(11, event.intent);
}

fn erase(body: &mut Body<'_>, event: &EraseEvent<'_>) {
    body.uint(1, event.seq);
    body.bytes(2, event.body_digest);
    body.text(3, event.authority);
    body.text(4, event.reason);
}

fn anchor(body: &mut Body<'_>, event: &AnchorEvent<'_>) {
    body.uint(1, event.size);
    body.bytes(2, event.root);
    body.text(3, event.anchor);
    body.bytes(4, event.proof);
}

fn export(body: &mut Body<'_>, event: &ExportEvent<'_>) {
    body.text(1, event.actor);
    body.text_whole(2, event.filter);
    body.uint(3, event.rows);
    body.bytes(4, event.digest);
}

fn verify_run(body: &mut Body<'_>, event: &VerifyRunEvent<'_>) {
    body.text(1, event.actor);
    body.text(2, event.mode);
    body.uint(3, event.from_seq);
    body.uint(4, event.records);
    body.uint(5, event.breaks);
    body.text_if(6, event.first_class);
}

fn client(body: &mut Body<'_>, key: u8, tags: &mut OpenTags, address: Option<std::net::IpAddr>) {
    match address {
        None => {}
        Some(std::net::IpAddr::V4(address)) => body.tag(key, tags, TagField::Client, &address.octets()),
        Some(std::net::IpAddr::V6(address)) => body.tag(key, tags, TagField::Client, &address.octets()),
    }
}

/// A map under construction. Its one-byte head is patched with the entry count at the end.
pub(super) struct Body<'a> {
    out: &'a mut Vec<u8>,
    head: usize,
    entries: u8,
    last_key: Option<u8>,
}

impl<'a> Body<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        let head = out.len();
        out.push(EMPTY_MAP);
        Self { out, head, entries: 0, last_key: None }
    }

    pub(super) fn uint(&mut self, key: u8, value: u64) {
        self.key_and_head(key, UINT, value);
    }

    pub(super) fn uint_if(&mut self, key: u8, value: Option<u64>) {
        if let Some(value) = value {
            self.uint(key, value);
        }
    }

    fn true_if(&mut self, key: u8, value: bool) {
        if value {
            self.boolean(key, value);
        }
    }

    pub(super) fn boolean(&mut self, key: u8, value: bool) {
        self.key(key);
        self.out.push(if value { TRUE } else { FALSE });
    }

    /// Text is cut to [`TEXT_BYTES_MAX`], so that no caller can outgrow a record.
    pub(super) fn text(&mut self, key: u8, value: &str) {
        self.string(key, TEXT, cut(value, TEXT_BYTES_MAX).as_bytes());
    }

    pub(super) fn text_if(&mut self, key: u8, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    /// Text that must be stored whole: a signed note. The caller bounds it.
    pub(super) fn text_whole(&mut self, key: u8, value: &str) {
        self.string(key, TEXT, value.as_bytes());
    }

    pub(super) fn texts(&mut self, key: u8, values: &[String]) {
        self.key(key);
        head(self.out, ARRAY, values.len() as u64);
        for value in values {
            string(self.out, TEXT, cut(value, TEXT_BYTES_MAX).as_bytes());
        }
    }

    pub(super) fn bytes(&mut self, key: u8, value: &[u8]) {
        self.string(key, BYTES, value);
    }

    fn tag_if(&mut self, key: u8, tags: &mut OpenTags, field: TagField, value: Option<&str>) {
        if let Some(value) = value {
            self.tag(key, tags, field, value.as_bytes());
        }
    }

    fn tag(&mut self, key: u8, tags: &mut OpenTags, field: TagField, value: &[u8]) {
        self.key_and_head(key, BYTES, TAG_BYTES as u64);
        tags.leave(field, value, self.out);
    }

    /// Seals these values, or says why they are not; nothing where nothing is sealed.
    fn seal(&mut self, seals: &mut Seals<'_>, item: u16, tenant: &str, mut values: Values<'_>, room: usize) {
        match seals.plan(tenant, &mut values, room) {
            None => {}
            Some(Ok(planned)) => {
                self.key_and_head(SEALED, BYTES, planned.bytes() as u64);
                seals.seal(&planned, &values, SEALED, item, self.out);
            }
            Some(Err(why)) => self.text(UNSEALED, why),
        }
    }

    fn intent(&mut self, key: u8, intent: Option<RecordId>) {
        if let Some(id) = intent {
            self.text(key, &id.to_string());
        }
    }

    fn string(&mut self, key: u8, major: u8, bytes: &[u8]) {
        self.key_and_head(key, major, bytes.len() as u64);
        short::append(self.out, bytes);
    }

    /// Most arguments are small: key and head are two bytes then.
    #[inline]
    fn key_and_head(&mut self, key: u8, major: u8, argument: u64) {
        if argument < 24 {
            self.count(key);
            let [.., low] = argument.to_be_bytes();
            self.out.extend_from_slice(&[UINT | key, major | low]);
        } else {
            self.key(key);
            head(self.out, major, argument);
        }
    }

    fn key(&mut self, key: u8) {
        self.count(key);
        self.out.push(UINT | key);
    }

    #[inline]
    fn count(&mut self, key: u8) {
        assert!(
            key <= KEY_MAX && self.last_key.is_none_or(|last| last < key),
            "body keys ascend, in one byte each"
        );
        self.last_key = Some(key);
        self.entries += 1;
    }

    pub(super) fn end(self) {
        assert!(self.entries <= ENTRIES_MAX, "the map's head is one byte");
        self.out[self.head] = EMPTY_MAP | self.entries;
    }
}

/// `text`, or as much of it as fits `bytes_max` without splitting a character.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn string(out: &mut Vec<u8>, major: u8, bytes: &[u8]) {
    head(out, major, bytes.len() as u64);
    short::append(out, bytes);
}

/// The initial byte of an item and its argument, in its shortest form (RFC 8949 §3, §4.2.1).
pub(super) fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let [.., low] = bytes;
    match argument {
        0..=23 => out.push(major | low),
        24..=0xFF => out.extend_from_slice(&[major | 24, low]),
        0x100..=0xFFFF => out.extend_from_slice(&[major | 25, bytes[6], low]),
        0x1_0000..=0xFFFF_FFFF => {
            out.extend_from_slice(&[major | 26, bytes[4], bytes[5], bytes[6], low]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Major types (RFC 8949 §3.1) where they stand in an initial byte.
pub(super) const UINT: u8 = 0;
pub(super) const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const FALSE: u8 = 0xF4;
const TRUE: u8 = 0xF5;

/// Initial byte of a map without entries (major type 5).
pub(super) const EMPTY_MAP: u8 = 0xA0;

/// The highest key of one byte (RFC 8949 §3).
pub(super) const KEY_MAX: u8 = 23;

/// Entries whose count still fits the initial byte (RFC 8949 §3).
pub(super) const ENTRIES_MAX: u8 = 23;

/// The longest text of a body. Longer values are cut: a record must never fail for the length of a name.
const TEXT_BYTES_MAX: usize = 1024;

/// The longest text inside one sub-decision: 256 of them must fit a body.
const ITEM_TEXT_BYTES_MAX: usize = 64;

/// A sub-decision without what is sealed: two such texts, two tags, numbers, and why nothing is sealed.
const ITEM_BYTES_MAX: usize = 2 * (ITEM_TEXT_BYTES_MAX + 3) + 2 * (TAG_BYTES + 2) + 30;

/// What stands behind the sub-decisions: the address, sealed.
const FRAME_BYTES_MAX: usize = 128;

const _: () = assert!(
    super::event::BATCH_ITEMS_MAX * ITEM_BYTES_MAX + FRAME_BYTES_MAX + 2 * (TEXT_BYTES_MAX + 3) + 100
        < BODY_BYTES_MAX,
    "a call about many tokens fits whatever is sealed"
);

#[cfg(test)]
mod tests {
    use minicbor::Encoder;

    use super::*;

    #[test]
    fn items_are_spelled_as_another_encoder_spells_them() {
        let edges = [0, 23, 24, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0xFFFF_FFFF, 0x1_0000_0000, u64::MAX];
        for number in
            edges.into_iter().flat_map(|edge| [edge.saturating_sub(1), edge, edge.saturating_add(1)])
        {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            head(&mut ours, UINT, number);
            head(&mut ours, ARRAY, number);
            Encoder::new(&mut theirs).u64(number).unwrap().array(number).unwrap();
            assert_eq!(ours, theirs, "{number}");
        }
        for len in [0, 1, 23, 24, 255, 256, 1024, 70_000] {
            let text = "t".repeat(len);
            let mut ours = Vec::new();
            let mut body = Body::begin(&mut ours);
            body.uint(0, len as u64);
            body.text_whole(2, &text);
            body.bytes(3, text.as_bytes());
            body.boolean(22, true);
            body.boolean(23, false);
            body.end();
            let mut theirs = Vec::new();
            let mut encoder = Encoder::new(&mut theirs);
            encoder
                .map(5)
                .unwrap()
                .u8(0)
                .unwrap()
                .u64(len as u64)
                .unwrap()
                .u8(2)
                .unwrap()
                .str(&text)
                .unwrap();
            encoder.u8(3).unwrap().bytes(text.as_bytes()).unwrap();
            encoder.u8(22).unwrap().bool(true).unwrap().u8(23).unwrap().bool(false).unwrap();
            assert_eq!(ours, theirs, "{len} bytes");
        }
    }
}
