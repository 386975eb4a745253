//! A syslog receiver: how a line is written, and the ways it goes.

use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::place::SETTLE_TIME;
use super::target::Line;
use crate::audit::{Pair, SD_ID};
use crate::config;

/// A receiver, and the connection to it while there is one.
pub(super) struct Syslog {
    settings: config::Syslog,
    host: String,
    pipe: Option<Pipe>,
    // Reused from batch to batch.
    message: Vec<u8>,
    frames: Vec<u8>,
}

enum Pipe {
    Tcp(TcpStream),
    Tls(Box<ClientConnection>, TcpStream),
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

impl Syslog {
    pub(super) fn new(settings: config::Syslog) -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let plain = !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic());
        let host = if plain { name } else { "-".to_owned() };
        Self { settings, host, pipe: None, message: Vec::new(), frames: Vec::new() }
    }

    /// Whether it is a connection, which may break with what is in its buffers.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self.settings.receiver, config::Receiver::Tcp(_) | config::Receiver::Tls(_))
    }

    pub(super) fn connect(&mut self) -> Result<(), String> {
        self.pipe = None;
        let Self { settings, .. } = self;
        let failed = |error: io::Error| format!("cannot connect to {}: {}", settings.receiver, plain(&error));
        self.pipe = Some(match &settings.receiver {
            config::Receiver::Tcp(at) => Pipe::Tcp(connect_tcp(at, settings.timeout).map_err(failed)?),
            config::Receiver::Tls(at) => {
                let mut tls = client(settings, at)?;
                let mut socket = connect_tcp(at, settings.timeout).map_err(failed)?;
                shake_hands(&mut tls, &mut socket, settings.timeout).map_err(failed)?;
                Pipe::Tls(Box::new(tls), socket)
            }
            config::Receiver::Udp(at) => Pipe::Udp(connect_udp(at).map_err(failed)?),
            config::Receiver::Unix(path) => {
                let socket = UnixDatagram::unbound().map_err(failed)?;
                socket.connect(path).map_err(failed)?;
                socket.set_write_timeout(Some(settings.timeout)).map_err(failed)?;
                Pipe::Unix(socket)
            }
        });
        Ok(())
    }

    /// Sends the lines; returns bytes.
    pub(super) fn deliver(&mut self, lines: &[Line]) -> Result<usize, String> {
        let deadline = Instant::now() + self.settings.timeout * DELIVER_TIMEOUTS;
        let pipe = self.pipe.as_mut().ok_or("there is no connection")?;
        let to = &self.settings.receiver;
        let failed = |error: io::Error| format!("cannot send to {to}: {}", plain(&error));
        self.frames.clear();
        for line in lines {
            self.message.clear();
            write_message(&mut self.message, &self.host, &line.pairs);
            match pipe {
                Pipe::Tcp(_) | Pipe::Tls(..) => {
                    // Octet counting (RFC 5425 §4.3, RFC 6587 §3.4.1): what a message holds cannot end it.
                    self.frames.extend_from_slice(format!("{} ", self.message.len()).as_bytes());
                    self.frames.extend_from_slice(&self.message);
                }
                Pipe::Udp(socket) => drop(socket.send(&self.message).map_err(failed)?),
                Pipe::Unix(socket) => drop(socket.send(&self.message).map_err(failed)?),
            }
        }
        match pipe {
            Pipe::Tcp(socket) => send(socket, &self.frames, deadline).map_err(failed)?,
            Pipe::Tls(tls, socket) => {
                let mut stream = rustls::Stream::new(&mut **tls, socket);
                send(&mut stream, &self.frames, deadline).map_err(failed)?;
            }
            Pipe::Udp(_) | Pipe::Unix(_) => {}
        }
        Ok(self.frames.len())
    }

    /// Whether the receiver is still there. A receiver sends nothing, so what can be read is its end or its refusal.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let to = &self.settings.receiver;
        let lost = |error: io::Error| format!("lost the connection to {to}: {}", plain(&error));
        match self.pipe.as_mut().ok_or("there is no connection")? {
            Pipe::Tcp(socket) => while_unblocked(socket, |socket| match socket.read(&mut [0; 1024])? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }),
            Pipe::Tls(tls, socket) => while_unblocked(socket, |mut socket| {
                let read = tls.read_tls(&mut socket)?;
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                let mut said = vec![0; state.plaintext_bytes_to_read()];
                let _ = tls.reader().read(&mut said);
                if read == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
            }),
            Pipe::Udp(socket) => socket.take_error().and_then(|error| error.map_or(Ok(()), Err)),
            Pipe::Unix(_) => Ok(()),
        }
        .map_err(lost)
    }

    /// Ends the connection in order; whether the receiver ended it too, having read everything.
    pub(super) fn close(&mut self) -> bool {
        let ended = |socket: &mut TcpStream| -> io::Result<()> {
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            socket.shutdown(Shutdown::Write)?;
            socket.set_read_timeout(Some(CLOSE_TIMEOUT))?;
            while socket.read(&mut [0; 1024])? > 0 {
                if Instant::now() > deadline {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Ok(())
        };
        match self.pipe.take() {
            None => false,
            Some(Pipe::Tcp(mut socket)) => ended(&mut socket).is_ok(),
            Some(Pipe::Tls(mut tls, mut socket)) => {
                tls.send_close_notify();
                let told = tls.complete_io(&mut socket);
                told.is_ok() && ended(&mut socket).is_ok()
            }
            Some(Pipe::Udp(_) | Pipe::Unix(_)) => true,
        }
    }
}

fn connect_tcp(at: &config::HostPort, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = ErrorKind::AddrNotAvailable.into();
    for address in at.to_string().to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(timeout))?;
                socket.set_write_timeout(Some(timeout))?;
                // A byte that is not acknowledged for so long ends the connection, so one that lives has them all.
                let millis = u32::try_from(SETTLE_TIME.as_millis()).unwrap_or(u32::MAX);
                sockopt::set_tcp_user_timeout(&socket, millis)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_udp(at: &config::HostPort) -> io::Result<UdpSocket> {
    let address = at.to_string().to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

/// What a connection is encrypted with; files are read each time, so that they can be changed.
fn client(settings: &config::Syslog, at: &config::HostPort) -> Result<ClientConnection, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("cannot use {}: {error}", path.display()))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match &settings.certificate {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("cannot use the private key in {}: {error}", key.display()))?;
            config
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(|error| format!("cannot use {} with its key: {error}", chain.display()))?
        }
    };
    let name = ServerName::try_from(at.host.clone()).map_err(|error| format!("{}: {error}", at.host))?;
    ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot use {}: {error}", path.display());
    let text = fs::read(path).map_err(|error| failed(&error))?;
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    if all.is_empty() { Err(failed(&"there is no certificate in it")) } else { Ok(all) }
}

fn shake_hands(tls: &mut ClientConnection, socket: &mut TcpStream, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    while tls.is_handshaking() {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        tls.complete_io(socket)?;
    }
    Ok(())
}

/// Writes everything, in pieces, so that a receiver that takes a byte now and then is found out.
fn send(stream: &mut impl io::Write, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    for piece in bytes.chunks(PIECE_BYTES) {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.write_all(piece)?;
    }
    stream.flush()
}

/// Does something that must not wait; that there is nothing is fine.
fn while_unblocked(
    socket: &mut TcpStream,
    look: impl FnOnce(&mut TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let seen = look(socket);
    socket.set_nonblocking(false)?;
    match seen {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        seen => seen,
    }
}

/// What the system or the TLS library said, in words for an operator.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it did not answer in time".to_owned(),
        ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

/// Appends one message (RFC 5424): everything is structured data, there is no free text.
fn write_message(out: &mut Vec<u8>, host: &str, pairs: &[Pair]) {
    let value = |name: &str| pairs.iter().find(|(own, _)| own == name).map_or("-", |(_, text)| text.as_str());
    let kind = value("kind");
    let severity = if WARNINGS.contains(&kind) { WARNING } else { INFORMATIONAL };
    // Writing to a vector does not fail.
    let _ =
        write!(out, "<{}>1 {} {host} edgate - {kind} [{SD_ID}", FACILITY_AUDIT * 8 + severity, value("time"));
    for (name, text) in pairs {
        let _ = write!(out, " {name}=\"");
        for character in text.chars() {
            match character {
                '"' | '\\' | ']' => {
                    let _ = write!(out, "\\{character}");
                }
                // A line stays one, whoever chose the text: a `kid` is chosen by whoever makes a token.
                control if control.is_control() => {
                    let _ = write!(out, "\\\\u{:04x}", u32::from(control));
                }
                character => {
                    let _ = write!(out, "{character}");
                }
            }
        }
        out.push(b'"');
    }
    out.push(b']');
}

/// "log audit" (RFC 5424 table 1).
const FACILITY_AUDIT: u8 = 13;
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;

/// Kinds that an operator should see.
const WARNINGS: [&str; 6] = ["gap", "recovery", "disk_state", "clock_jump", "erase", crate::audit::GAP_KIND];

/// Bytes written between two looks at the clock.
const PIECE_BYTES: usize = 16 << 10;

/// A batch may take so many times as long as one write.
const DELIVER_TIMEOUTS: u32 = 4;

/// How long an orderly end may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod message_tests {
    use super::*;

    #[test]
    fn whatever_a_value_holds_it_stays_inside_its_quotes_and_its_line() {
        let pairs: Vec<Pair> = vec![
            ("kind".into(), "decision".into()),
            ("time".into(), "2026-11-28T00:00:00.000001Z".into()),
            ("kid".into(), "a\"] <13>1 - - \\ \n\u{7f}é".into()),
        ];
        let mut out = Vec::new();
        write_message(&mut out, "node", &pairs);
        let text = String::from_utf8(out).unwrap();
        let expected = "<110>1 2026-11-28T00:00:00.000001Z node edgate - decision [edgate@32473 kind=\"decision\" \
                        time=\"2026-11-28T00:00:00.000001Z\" kid=\"a\\\"\\] <13>1 - - \\\\ \\\\u000a\\\\u007fé\"]";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_gap_is_a_warning_without_a_time() {
        let mut out = Vec::new();
        write_message(&mut out, "-", &Line::gap(3, 7, "gone").pairs);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with(
            "<108>1 - - edgate - mirror_gap [edgate@32473 kind=\"mirror_gap\" from=\"3\" to=\"7\""
        ));
    }
}
