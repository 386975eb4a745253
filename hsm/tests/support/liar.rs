//! An agent that speaks the protocol and answers what the test tells it to.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use ed25519_dalek::{Signer as _, SigningKey};

/// A request to sign, as far as it matters.
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) message: Vec<u8>,
}

/// What is written for a request, bytes of whole frames.
pub(crate) type Answer = dyn Fn(&SigningKey, &Asked) -> Vec<u8> + Send;

/// Listens until the process ends. What it answers can be changed meanwhile.
pub(crate) struct Liar(Arc<Mutex<Box<Answer>>>);

impl Liar {
    pub(crate) fn listen(socket: &Path, token: &str, key: SigningKey) -> Self {
        let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(honest)));
        let listener = UnixListener::bind(socket).unwrap();
        let (token, answering) = (token.to_owned(), Arc::clone(&answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (token, key, answering) = (token.clone(), key.clone(), Arc::clone(&answering));
                // A client that does not like what it hears hangs up.
                std::thread::spawn(move || converse(stream.unwrap(), &token, &key, &answering));
            }
        });
        Self(answer)
    }

    pub(crate) fn answers(&self, answer: impl Fn(&SigningKey, &Asked) -> Vec<u8> + Send + 'static) {
        *self.0.lock().unwrap() = Box::new(answer);
    }
}

fn converse(
    mut stream: UnixStream,
    token: &str,
    key: &SigningKey,
    answer: &Mutex<Box<Answer>>,
) -> Option<()> {
    assert_eq!(read_frame(&mut stream)?[0], 1, "hello");
    stream.write_all(&frame(16, &text(token))).ok()?;
    let mut beating = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        while beating.write_all(&status()).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    loop {
        let requests = read_frame(&mut stream)?;
        let mut fields = &requests[1..];
        let count = u32::from_le_bytes(take(&mut fields).try_into().unwrap());
        for _ in 0..count {
            let id = u64::from_le_bytes(split(&mut fields, 8).try_into().unwrap());
            split(&mut fields, 5);
            let kind = split(&mut fields, 1)[0];
            let length = u32::from_le_bytes(take(&mut fields).try_into().unwrap());
            split(&mut fields, length as usize);
            let bytes = match kind {
                // Where is the key, and what does it look like?
                1 => reply(id, &[&[2, 1, 0][..], key.verifying_key().as_bytes(), &[0, 0, 0, 0, 0]].concat()),
                6 => {
                    split(&mut fields, 34);
                    let length = u32::from_le_bytes(take(&mut fields).try_into().unwrap());
                    let message = split(&mut fields, length as usize).to_vec();
                    (answer.lock().unwrap())(key, &Asked { id, message })
                }
                _ => panic!("request {kind}"),
            };
            stream.write_all(&bytes).ok()?;
        }
    }
}

pub(crate) fn honest(key: &SigningKey, asked: &Asked) -> Vec<u8> {
    signature(asked.id, key.sign(&asked.message).to_bytes())
}

pub(crate) fn signature(id: u64, signature: [u8; 64]) -> Vec<u8> {
    reply(id, &[&[6][..], &signature].concat())
}

/// A frame of one reply.
pub(crate) fn reply(id: u64, outcome: &[u8]) -> Vec<u8> {
    frame(18, &[&1_u32.to_le_bytes()[..], &id.to_le_bytes(), outcome].concat())
}

pub(crate) fn frame(kind: u8, fields: &[u8]) -> Vec<u8> {
    [&(fields.len() as u32 + 1).to_le_bytes()[..], &[kind], fields].concat()
}

/// It stands well, whatever it does: four workers, and nothing counted.
fn status() -> Vec<u8> {
    let numbers = [0_u8; 8 * (5 + 13 + 1)];
    frame(19, &[&[1][..], &4_u32.to_le_bytes(), &[0; 4], &numbers, &[0; 4]].concat())
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn take<'a>(fields: &mut &'a [u8]) -> &'a [u8] {
    split(fields, 4)
}

fn split<'a>(fields: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (first, rest) = fields.split_at(length);
    *fields = rest;
    first
}
