//! Random and mutated requests: no crash, no hang, no growth.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::{Edgate, PATIENCE};

/// Small, fast and seeded: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Requests sent; a longer run sets `EDGATE_HOSTILE_REQUESTS`.
fn requests() -> usize {
    std::env::var("EDGATE_HOSTILE_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len().max(1));
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] = random.next().to_le_bytes()[0],
            1 => bytes.insert(at.min(bytes.len()), random.next().to_le_bytes()[0]),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                bytes.splice(at.min(bytes.len()).., other[from..].iter().copied());
            }
            5 => {
                let repeat = bytes[at.min(bytes.len())..].to_vec();
                bytes.extend_from_slice(&repeat);
            }
            _ => bytes = (0..random.below(300)).map(|_| random.next().to_le_bytes()[0]).collect(),
        }
    }
    bytes.truncate(40_000);
    bytes
}

#[test]
fn mutated_requests_neither_crash_nor_hang_nor_fill_memory() {
    let seed = std::env::var("EDGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed_u64);
    eprintln!("EDGATE_SEED={seed}");
    let mut random = Random(seed);
    let edgate = Edgate::start_with("shards = 1\nheader_timeout_ms = 2000", "");
    let token = edgate.issuer.token("a");
    let body = format!(
        "{{\"tokens\":[\"{token}\",\"x\"],\"audience\":\"orders\",\"scope\":[\"a.b\"],\"claims\":true}}"
    );
    let seeds: Vec<Vec<u8>> = [
        format!("GET /auth/nginx?scope=a+b HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!(
            "POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
        "GET /.well-known/jwks.json HTTP/1.0\r\nIf-None-Match: *\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec();

    let mut after_warmup = 0;
    let count = requests();
    for i in 0..count {
        let mut stream = TcpStream::connect(edgate.data).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes = mutate(&mut random, &seeds);
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        // The server ends the connection: by answering and closing, or with a reset. A timeout would be a hang.
        if let Err(error) = ended {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "request {i} hung: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        assert!(!answer.starts_with(b"HTTP/1.1 500"), "request {i}");
        if i == count / 5 {
            after_warmup = resident_kib(edgate.pid());
        }
    }
    assert_eq!(edgate.forward(&token).status, 200, "it still decides");
    let grown = resident_kib(edgate.pid()).saturating_sub(after_warmup);
    assert!(grown < 16 * 1024, "resident memory grew by {grown} KiB");
    // The last ones are closed by the client a moment before the server hears of it.
    let until = std::time::Instant::now() + PATIENCE;
    while edgate.metric("connections") != 0.0 {
        assert!(std::time::Instant::now() < until, "connections are left behind");
    }
}
