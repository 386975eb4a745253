//! FORMAT.md cannot drift: its tables come from the registry, its example from the writer. With `EDGATE_WRITE_FORMAT`
//! set the test writes them; without, it compares.

use std::{fmt::Write as _, fs, path::Path, sync::Arc};

use super::{
    Event, StopEvent, body,
    clock::{Clock, Reading},
    folder::{Folder, segment_name},
    hex::hex,
    record::{HEADER_BYTES, event_hash},
    schema::{Class, Field, Kind, Shape},
    sealed::{self, Seals},
    sim::Sim,
    tag::{OpenTags, TagKey},
    walk::{genesis_hash, read_record},
    writer::{Head, Identity, Stamp, Writer, finish_record},
};

#[test]
fn format_page_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/FORMAT.md");
    let page = fs::read_to_string(&path).unwrap();
    let wanted = replace(&replace(&page, "kinds", &kinds()), "example", &example());
    let wanted = replace(&wanted, "sealed", &sealed::example());
    if std::env::var_os("EDGATE_WRITE_FORMAT").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(page, wanted, "run this test once with EDGATE_WRITE_FORMAT=1 and look at the difference");
}

fn replace(page: &str, part: &str, content: &str) -> String {
    let (before, rest) = page.split_once(&format!("<!-- generated: {part} -->\n")).unwrap();
    let (_, after) = rest.split_once(&format!("<!-- end: {part} -->")).unwrap();
    format!("{before}<!-- generated: {part} -->\n{content}<!-- end: {part} -->{after}")
}

fn kinds() -> String {
    let mut text = String::from(
        "## Kinds\n\n| code | kind | fields: key name shape (`?` optional, class unless public) |\n| --- | --- | --- |\n",
    );
    for kind in Kind::ALL {
        writeln!(text, "| {} | {} | {} |", kind.code(), kind.name(), fields(kind.fields())).unwrap();
    }
    text
}

fn fields(fields: &[Field]) -> String {
    let one = |field: &Field| {
        let optional = if field.required { "" } else { "?" };
        let class = match field.class {
            Class::Public => "",
            Class::Tag => " tag",
            Class::Sealed => " sealed",
        };
        format!("{} {}{optional} {}{class}", field.key, field.name, shape(field.shape))
    };
    fields.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn shape(shape: Shape) -> String {
    match shape {
        Shape::Bool => "bool".into(),
        Shape::Bytes(Some(len)) => format!("bytes[{len}]"),
        Shape::Bytes(None) => "bytes".into(),
        Shape::Items(items) => format!("array of {{{}}}", fields(items)),
        Shape::Text => "text".into(),
        Shape::Texts => "array of text".into(),
        Shape::Uint => "uint".into(),
    }
}

/// The first two records of a log whose every input is fixed.
fn example() -> String {
    let identity = Identity {
        origin: "example.com/log".into(),
        log_id: [0x11; 16],
        boot: 0x22,
        writer: "edgate 0.1.0",
        tag_epoch: 1,
    };
    let genesis = genesis_hash(&identity.origin, &identity.log_id);
    let sim = Sim::new(0);
    let folder = Folder::new(Box::new(sim));
    let prepared = folder.prepare(1, 8192).unwrap();
    let clock = Clock::new(|| Reading { wall_ns: 1_700_000_000_000_000_000, mono_ns: 5 });
    let head = Head { size: 0, hash: genesis };
    let mut writer = Writer::begin(identity, clock, head, None, prepared).unwrap();
    let mut batch = vec![0; HEADER_BYTES];
    let mut tags = OpenTags::new(Arc::new(TagKey::new(&[0; 32])));
    body::encode(&Event::Stop(StopEvent { reason: "bye" }), &mut tags, &mut Seals::none(), &mut batch);
    finish_record(&mut batch, 0, &Stamp { kind: Kind::Stop, flags: 1, core: 0, core_seq: 1, epoch: 0 });
    writer.append(&mut batch).unwrap();
    let bytes = folder.read(1).unwrap_or_else(|error| panic!("{}: {error}", segment_name(1)));

    let mut text = String::from(
        "The first two records of the log `example.com/log` with log_id `11…11` and boot `22`, as hex.\n\n",
    );
    writeln!(
        text,
        "Genesis: SHA-256(`edgate audit log v1\\nexample.com/log\\n` ‖ `11…11`) =\n`{}`.\n",
        hex(&genesis)
    )
    .unwrap();
    let mut offset = 0;
    for (title, meaning) in [
        (
            "Record 0, SEGMENT_OPEN",
            "map(8): 1 origin, 2 log_id, 3 segment 1, 4 boot 0x22, 5 sink, 6 writer, 10 tag epoch 1, 11 emergency false",
        ),
        ("Record 1, STOP", "map(1): key 1 (reason), text(3) `bye`"),
    ] {
        let record = read_record(&bytes, offset).unwrap();
        let at = |from: usize, to: usize| hex(&bytes[offset + from..offset + to]);
        let header: &[u8; HEADER_BYTES] = bytes[offset..][..HEADER_BYTES].try_into().unwrap();
        writeln!(text, "**{title}**, offset {offset}\n\n```text").unwrap();
        for (from, to, name) in [
            (0, 4, "magic, version 1"),
            (4, 8, "body_len"),
            (8, 16, "seq"),
            (16, 24, "wall_ns"),
            (24, 32, "mono_ns"),
            (32, 34, "kind"),
            (34, 36, "flags: critical"),
            (36, 38, "core"),
            (38, 40, "schema"),
            (40, 48, "core_seq"),
            (48, 80, "body_digest"),
            (80, 112, "prev_hash"),
            (112, 116, "epoch"),
            (116, 120, "crc32c"),
            (120, 128, "zero"),
        ] {
            writeln!(text, "{from:>3} {:<64} {name}", at(from, to)).unwrap();
        }
        for (line, chunk) in record.body.chunks(32).enumerate() {
            writeln!(text, "{:>3} {}", HEADER_BYTES + 32 * line, hex(chunk)).unwrap();
        }
        writeln!(text, "```\n\nBody: {meaning}.\nEvent hash: `{}`.\n", hex(&event_hash(header))).unwrap();
        offset = record.next;
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
