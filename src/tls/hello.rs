//! Whether a client comes back with a ticket: a hint, by which nothing but the order of work is decided.

/// The extension in which TLS 1.2 tickets come (RFC 5077 §3.2).
const SESSION_TICKET: u16 = 35;
/// The extension in which TLS 1.3 tickets come (RFC 8446 §4.2.11).
const PRE_SHARED_KEY: u16 = 41;

/// Whether `bytes` are a whole ClientHello in one record that offers a ticket.
pub(super) fn offers_ticket(bytes: &[u8]) -> bool {
    extensions(bytes).is_some_and(|extensions| {
        Extensions(extensions)
            .any(|(kind, body)| kind == PRE_SHARED_KEY || (kind == SESSION_TICKET && !body.is_empty()))
    })
}

/// The extensions of a ClientHello (RFC 8446 §4.1.2) in a record (§5.1).
fn extensions(bytes: &[u8]) -> Option<&[u8]> {
    // Record: handshake, version, length. Message: client_hello, length.
    let ([22, 3, ..], record) = bytes.split_at_checked(5)? else { return None };
    let ([1, ..], hello) = record.split_at_checked(4)? else { return None };
    // Version and random.
    let (_, rest) = hello.split_at_checked(2 + 32)?;
    let (_, rest) = vector8(rest)?;
    let (_, rest) = vector16(rest)?;
    let (_, rest) = vector8(rest)?;
    vector16(rest).map(|(extensions, _)| extensions)
}

struct Extensions<'a>(&'a [u8]);

impl<'a> Iterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.0.split_first_chunk()?;
        let (body, rest) = vector16(rest)?;
        self.0 = rest;
        Some((u16::from_be_bytes(*kind), body))
    }
}

fn vector8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn vector16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello with these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([2, 9, 9]);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        let written: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| {
                let length = u16::try_from(body.len()).unwrap().to_be_bytes();
                [&kind.to_be_bytes()[..], &length, body].concat()
            })
            .collect();
        body.extend(u16::try_from(written.len()).unwrap().to_be_bytes());
        body.extend(written);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let record = u16::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[22, 3, 1], &record[..], &[1], &length[1..], &body].concat()
    }

    #[test]
    fn a_ticket_is_seen_and_a_promise_to_take_one_is_none() {
        assert!(offers_ticket(&hello(&[(0, b"name"), (PRE_SHARED_KEY, b"ticket")])));
        assert!(offers_ticket(&hello(&[(SESSION_TICKET, b"ticket"), (10, b"x")])));
        assert!(!offers_ticket(&hello(&[(SESSION_TICKET, b""), (10, b"x")])));
        assert!(!offers_ticket(&hello(&[])));
        let whole = hello(&[(PRE_SHARED_KEY, b"ticket")]);
        assert!(
            (0..whole.len()).all(|end| !offers_ticket(&whole[..end])),
            "a part of one is as good as none"
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            offers_ticket(&bytes);
            offers_ticket(&[&[22, 3, 1, 1, 0, 1][..], &bytes].concat());
        }
    }
}
