//! What agent and client say to one another, as bytes. Pure.
//!
//! A frame is its length (4 bytes, of what follows), its kind (1 byte) and fields ([`super::wire`]), all little-endian. The first of
//! a connection, [`Hello`], holds the version; whoever knows another one says so and ends it. Requests and replies travel many
//! in a frame: whatever is there when the sender wakes up.

use std::io::{self, Read};
use std::time::Duration;

use zeroize::Zeroizing;

use super::names::{
    key_name, named_key, public_key, purpose, put_algorithm, put_key, put_public_key, put_purpose, uri,
};
use super::refusal;
use super::status::Status;
use super::wire::{Decoder, Encoder, FrameError, TEXT_BYTES_MAX};
use crate::pool::{Output, Work};
use crate::{HsmError, KeyName, PIN_BYTES_MAX, Pkcs11Uri, PublicKey, Purpose};

/// Of a frame, its length not counted.
pub(super) const FRAME_BYTES_MAX: usize = 2 << 20;

/// Requests, or replies, in one frame.
pub(super) const BATCH_LEN_MAX: usize = 512;

/// Of what is signed, wrapped or opened.
pub(super) const DATA_BYTES_MAX: usize = 256 << 10;

/// What a batch gathers before it is sent. One request more, of the largest, still fits its frame.
pub(super) const BATCH_BYTES: usize = 512 << 10;

const _: () = assert!(BATCH_BYTES + DATA_BYTES_MAX + 4 * TEXT_BYTES_MAX < FRAME_BYTES_MAX);

const MAGIC: [u8; 8] = *b"edgehsm\n";

/// Grows with each change that the other side would not understand.
pub(super) const VERSION: u16 = 1;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Requests to use keys.
    Use,
    /// One PIN.
    Unlock,
}

/// The first frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) role: Role,
}

/// What an agent is asked, once it knows who asks.
pub(super) enum ToAgent {
    Requests(Vec<Request>),
    Unlock(Zeroizing<String>),
}

/// What an agent says.
pub(super) enum FromAgent {
    /// How the token stands; unasked, and at least once in a heartbeat.
    Status(Box<Status>),
    Refused(String),
    /// Not now; it may serve later.
    Busy(String),
    Replies(Vec<Reply>),
    Unlocked(Result<(), HsmError>),
    /// It serves this token.
    Welcome(Pkcs11Uri),
}

/// One request.
pub(super) struct Request {
    /// The client's number for it; the answer has it too.
    pub(super) id: u64,
    pub(super) purpose: Purpose,
    /// The time that is left for it. Clocks are not compared.
    pub(super) left: Duration,
    pub(super) errand: Errand,
}

/// [`Work`] whose key is named, and not yet looked for.
#[derive(Debug, PartialEq)]
pub(super) enum Errand {
    Destroy { uri: Pkcs11Uri, public_key: PublicKey },
    FindSigning { uri: Pkcs11Uri },
    FindWrapping { uri: Pkcs11Uri },
    Make { name: KeyName },
    Open { key: NamedKey, iv: [u8; 12], data: Vec<u8>, associated: Vec<u8> },
    Seal { key: NamedKey, data: Zeroizing<Vec<u8>>, associated: Vec<u8> },
    Sign { key: NamedKey, message: Vec<u8> },
}

/// A key as a request names it. The same key is named in the same words by one client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NamedKey {
    pub(super) uri: String,
    /// `None` for an AES key.
    pub(super) public_key: Option<PublicKey>,
}

/// One answer.
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) outcome: Result<Output, HsmError>,
}

/// A frame that is being written.
pub(super) struct Draft {
    fields: Encoder,
    // Where the number of things is written, and how many there are.
    count: u32,
}

const HELLO: u8 = 1;
const REQUESTS: u8 = 2;
const UNLOCK: u8 = 3;
const WELCOME: u8 = 16;
const REFUSED: u8 = 17;
const REPLIES: u8 = 18;
const STATUS: u8 = 19;
const UNLOCKED: u8 = 20;
const BUSY: u8 = 21;

/// Where the fields begin: after length and kind.
const HEAD_BYTES: usize = 5;

impl Hello {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(HELLO, 64);
        fields.raw(&MAGIC);
        fields.u16(self.version);
        fields.u8(match self.role {
            Role::Use => 0,
            Role::Unlock => 1,
        });
        finish(fields)
    }

    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Decoder::new(frame);
        if fields.u8()? != HELLO || fields.array()? != MAGIC {
            return Err(FrameError::Unknown("beginning"));
        }
        let version = fields.u16()?;
        if version != VERSION {
            // Whatever follows is another version's.
            return Ok(Self { version, role: Role::Use });
        }
        let role = match fields.u8()? {
            0 => Role::Use,
            1 => Role::Unlock,
            _ => return Err(FrameError::Unknown("role")),
        };
        fields.end()?;
        Ok(Self { version, role })
    }
}

impl Draft {
    /// A frame of requests; `bytes` is about how many they take.
    pub(super) fn requests(bytes: usize) -> Self {
        Self::of(REQUESTS, bytes)
    }

    /// A frame of replies.
    pub(super) fn replies(bytes: usize) -> Self {
        Self::of(REPLIES, bytes)
    }

    fn of(kind: u8, bytes: usize) -> Self {
        let mut fields = begin(kind, bytes + HEAD_BYTES + 4);
        fields.u32(0);
        Self { fields, count: 0 }
    }

    pub(super) fn request(&mut self, id: u64, purpose: Purpose, left: Duration, work: &Work) {
        self.count += 1;
        let fields = &mut self.fields;
        fields.u64(id);
        put_purpose(fields, purpose);
        fields.u32(u32::try_from(left.as_micros()).unwrap_or(u32::MAX));
        match work {
            Work::Destroy { uri, public_key } => {
                fields.u8(0);
                fields.text(&uri.to_string());
                put_public_key(fields, public_key);
            }
            // Which algorithms are allowed follows from the purpose.
            Work::FindSigning { uri, allowed: _ } => {
                fields.u8(1);
                fields.text(&uri.to_string());
            }
            Work::FindWrapping { uri } => {
                fields.u8(2);
                fields.text(&uri.to_string());
            }
            Work::Make { name } => {
                fields.u8(3);
                put_purpose(fields, name.purpose());
                fields.option(name.algorithm(), put_algorithm);
                fields.u8(u8::from(name.is_wrappable()));
                fields.text(name.name());
            }
            Work::Open { key, iv, data, associated } => {
                fields.u8(4);
                put_key(fields, key);
                fields.raw(iv);
                fields.bytes(data);
                fields.bytes(associated);
            }
            Work::Seal { key, data, associated } => {
                fields.u8(5);
                put_key(fields, key);
                fields.bytes(data);
                fields.bytes(associated);
            }
            Work::Sign { key, message } => {
                fields.u8(6);
                put_key(fields, key);
                fields.bytes(message);
            }
        }
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        self.count += 1;
        let fields = &mut self.fields;
        fields.u64(reply.id);
        match &reply.outcome {
            Err(error) => {
                fields.u8(0);
                refusal::encode(error, fields);
            }
            Ok(Output::Destroyed) => fields.u8(1),
            Ok(Output::Found { public_key, label, id }) => {
                fields.u8(2);
                fields.option(public_key.as_ref(), put_public_key);
                fields.option(label.as_deref(), Encoder::text);
                fields.bytes(id);
            }
            Ok(Output::Made { uri }) => {
                fields.u8(3);
                fields.text(&uri.to_string());
            }
            Ok(Output::Opened(data)) => {
                fields.u8(4);
                fields.bytes(data);
            }
            Ok(Output::Sealed { iv, data }) => {
                fields.u8(5);
                fields.raw(iv);
                fields.bytes(data);
            }
            Ok(Output::Signature(signature)) => {
                fields.u8(6);
                fields.raw(signature);
            }
        }
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        let mut frame = finish(self.fields);
        if let Some(count) = frame.get_mut(HEAD_BYTES..HEAD_BYTES + 4) {
            count.copy_from_slice(&self.count.to_le_bytes());
        }
        frame
    }
}

/// About how many bytes a request takes.
pub(super) fn request_bytes(work: &Work) -> usize {
    let data = match work {
        Work::Open { data, associated, .. } => data.len().saturating_add(associated.len()),
        Work::Seal { data, associated, .. } => data.len().saturating_add(associated.len()),
        Work::Sign { message, .. } => message.len(),
        Work::Destroy { .. } | Work::FindSigning { .. } | Work::FindWrapping { .. } | Work::Make { .. } => 0,
    };
    let name = work.key().map_or(TEXT_BYTES_MAX, |key| name_bytes(&key.uri));
    data.saturating_add(name).saturating_add(128)
}

/// No name takes more, with every byte percent-encoded.
fn name_bytes(uri: &Pkcs11Uri) -> usize {
    let texts = [&uri.token, &uri.manufacturer, &uri.serial, &uri.model, &uri.object];
    let text = texts.into_iter().flatten().map(String::len).sum::<usize>();
    (text + uri.id.as_ref().map_or(0, Vec::len)) * 3 + 128
}

/// About how many bytes a reply takes.
pub(super) fn reply_bytes(reply: &Reply) -> usize {
    match &reply.outcome {
        Ok(Output::Opened(data)) => data.len() + 64,
        Ok(Output::Sealed { data, .. }) => data.len() + 64,
        Ok(Output::Signature(_) | Output::Destroyed) => 96,
        Ok(Output::Found { .. } | Output::Made { .. }) | Err(_) => TEXT_BYTES_MAX,
    }
}

impl ToAgent {
    pub(super) fn unlock(pin: &str) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(UNLOCK, pin.len() + 16);
        fields.bytes(pin.as_bytes());
        finish(fields)
    }

    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Decoder::new(frame);
        let said = match fields.u8()? {
            REQUESTS => Self::Requests(batch(&mut fields, Request::decode)?),
            UNLOCK => {
                let pin = std::str::from_utf8(fields.bytes(PIN_BYTES_MAX, "PIN")?);
                Self::Unlock(Zeroizing::new(pin.map_err(|_| FrameError::Text("PIN"))?.to_owned()))
            }
            _ => return Err(FrameError::Unknown("kind")),
        };
        fields.end()?;
        Ok(said)
    }
}

impl FromAgent {
    /// All but replies, which are drafted one by one.
    pub(super) fn welcome(token: &Pkcs11Uri) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(WELCOME, TEXT_BYTES_MAX);
        fields.text(&token.to_string());
        finish(fields)
    }

    pub(super) fn refused(words: &str) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(REFUSED, words.len() + 16);
        fields.text(words);
        finish(fields)
    }

    pub(super) fn busy(words: &str) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(BUSY, words.len() + 16);
        fields.text(words);
        finish(fields)
    }

    pub(super) fn status(status: &Status) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(STATUS, TEXT_BYTES_MAX);
        status.encode(&mut fields);
        finish(fields)
    }

    pub(super) fn unlocked(outcome: &Result<(), HsmError>) -> Zeroizing<Vec<u8>> {
        let mut fields = begin(UNLOCKED, TEXT_BYTES_MAX);
        fields.option(outcome.as_ref().err(), |fields, error| refusal::encode(error, fields));
        finish(fields)
    }

    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Decoder::new(frame);
        let said = match fields.u8()? {
            WELCOME => Self::Welcome(uri(&mut fields)?),
            REFUSED => Self::Refused(fields.words("refusal")?),
            BUSY => Self::Busy(fields.words("refusal")?),
            REPLIES => Self::Replies(batch(&mut fields, Reply::decode)?),
            STATUS => Self::Status(Box::new(Status::decode(&mut fields)?)),
            UNLOCKED => Self::Unlocked(fields.option(refusal::decode)?.map_or(Ok(()), Err)),
            _ => return Err(FrameError::Unknown("kind")),
        };
        fields.end()?;
        Ok(said)
    }
}

impl Request {
    /// About how much memory it takes until it is answered.
    pub(super) fn bytes(&self) -> usize {
        let data = match &self.errand {
            Errand::Open { data, associated, .. } => data.len().saturating_add(associated.len()),
            Errand::Seal { data, associated, .. } => data.len().saturating_add(associated.len()),
            Errand::Sign { message, .. } => message.len(),
            Errand::Destroy { .. }
            | Errand::FindSigning { .. }
            | Errand::FindWrapping { .. }
            | Errand::Make { .. } => 0,
        };
        data.saturating_add(TEXT_BYTES_MAX)
    }

    fn decode(fields: &mut Decoder<'_>) -> Result<Self, FrameError> {
        let id = fields.u64()?;
        let purpose = purpose(fields)?;
        let left = Duration::from_micros(fields.u32()?.into());
        let errand = match fields.u8()? {
            0 => Errand::Destroy { uri: uri(fields)?, public_key: public_key(fields)? },
            1 => Errand::FindSigning { uri: uri(fields)? },
            2 => Errand::FindWrapping { uri: uri(fields)? },
            3 => Errand::Make { name: key_name(fields)? },
            4 => Errand::Open {
                key: named_key(fields)?,
                iv: fields.array()?,
                data: fields.bytes(DATA_BYTES_MAX, "data")?.to_vec(),
                associated: fields.bytes(DATA_BYTES_MAX, "data")?.to_vec(),
            },
            5 => Errand::Seal {
                key: named_key(fields)?,
                data: Zeroizing::new(fields.bytes(DATA_BYTES_MAX, "data")?.to_vec()),
                associated: fields.bytes(DATA_BYTES_MAX, "data")?.to_vec(),
            },
            6 => Errand::Sign {
                key: named_key(fields)?,
                message: fields.bytes(DATA_BYTES_MAX, "data")?.to_vec(),
            },
            _ => return Err(FrameError::Unknown("request")),
        };
        Ok(Self { id, purpose, left, errand })
    }
}

impl Reply {
    fn decode(fields: &mut Decoder<'_>) -> Result<Self, FrameError> {
        let id = fields.u64()?;
        let output = match fields.u8()? {
            0 => return Ok(Self { id, outcome: Err(refusal::decode(fields)?) }),
            1 => Output::Destroyed,
            2 => Output::Found {
                public_key: fields.option(public_key)?,
                label: fields.option(|fields| fields.text("label").map(str::to_owned))?,
                id: fields.bytes(TEXT_BYTES_MAX, "id")?.to_vec(),
            },
            3 => Output::Made { uri: uri(fields)? },
            4 => Output::Opened(Zeroizing::new(fields.bytes(DATA_BYTES_MAX, "data")?.to_vec())),
            5 => Output::Sealed { iv: fields.array()?, data: fields.bytes(DATA_BYTES_MAX, "data")?.to_vec() },
            6 => Output::Signature(fields.array()?),
            _ => return Err(FrameError::Unknown("answer")),
        };
        Ok(Self { id, outcome: Ok(output) })
    }
}

/// Why no frame came.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The other side ended it, between two frames.
    Closed,
    /// The system's answer; a time-out among them.
    Io(io::Error),
    /// A frame of this length is not read.
    TooLong(usize),
}

/// Reads one frame: its kind and fields. Blocks for as long as the stream does.
pub(super) fn read_frame(stream: &mut impl Read) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let mut length = [0; 4];
    let mut read = 0;
    while let Some(rest) = length.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if read == 0 => return Err(ReadError::Closed),
            Ok(0) => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(ReadError::TooLong(length));
    }
    let mut frame = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut frame).map_err(ReadError::Io)?;
    Ok(frame)
}

fn begin(kind: u8, bytes: usize) -> Encoder {
    let mut fields = Encoder::new(bytes + HEAD_BYTES);
    fields.u32(0);
    fields.u8(kind);
    fields
}

fn finish(fields: Encoder) -> Zeroizing<Vec<u8>> {
    let mut frame = fields.into_bytes();
    let length = u32::try_from(frame.len().saturating_sub(4)).unwrap_or(u32::MAX);
    if let Some(head) = frame.first_chunk_mut() {
        *head = length.to_le_bytes();
    }
    frame
}

fn batch<T>(
    fields: &mut Decoder<'_>,
    read: impl Fn(&mut Decoder<'_>) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    let count = fields.count(BATCH_LEN_MAX, "requests")?;
    (0..count).map(|_| read(fields)).collect()
}
