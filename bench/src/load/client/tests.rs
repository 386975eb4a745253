//! The client against small servers that misbehave on purpose.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::att::Algorithm;
use crate::inputs;
use crate::load::pool::Tokens;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Serves each connection on its own thread: `answer` writes the reply to the n-th request of the server, and says
/// whether the connection lives on.
fn serve(answer: impl Fn(u64, &mut TcpStream) -> bool + Send + Sync + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&format!("http://{}/auth/nginx", listener.local_addr().unwrap())).unwrap();
    let answer = Arc::new(answer);
    let served = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer, served) = (stream.unwrap(), Arc::clone(&answer), Arc::clone(&served));
            thread::spawn(move || {
                let (mut buffer, mut requests) = ([0; 4096], Vec::new());
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    requests.extend_from_slice(&buffer[..count]);
                    while let Some(end) = requests.windows(4).position(|w| w == b"\r\n\r\n") {
                        requests.drain(..end + 4);
                        if !answer(served.fetch_add(1, Ordering::Relaxed), &mut stream) {
                            return;
                        }
                    }
                }
            });
        }
    });
    target
}

fn say(text: &'static [u8]) -> impl Fn(u64, &mut TcpStream) -> bool {
    move |_, stream| stream.write_all(text).is_ok()
}

fn plan(requests: u64) -> Plan {
    Plan {
        connections: 3,
        pipeline: 1,
        pace: Pace::Closed,
        bound: Bound::Requests(requests),
        warmup: 0,
        server_pid: None,
        answer_timeout: Duration::from_secs(5),
    }
}

fn load(target: &Target, plan: &Plan, bad_share: f64) -> Result<Outcome, LoadError> {
    let tokens = Tokens { count: 20, bad_share, issued_at: inputs::NOW, lifetime: 60, seed: 1 };
    run(plan, target, &Pool::mint(target, &inputs::minter(Algorithm::Ed25519), &tokens))
}

#[test]
fn every_request_is_answered_and_counted_once() {
    let target = serve(say(OK));
    let outcome = load(&target, &plan(100), 0.0).unwrap();
    assert_eq!(outcome.statuses, [(200, 100)].into());
    assert_eq!((outcome.latency.count(), outcome.errors(), outcome.reconnects), (100, 0, 0));
    assert_eq!(outcome.timeline.iter().sum::<u64>(), 100);
}

#[test]
fn warmup_is_not_counted() {
    let target = serve(say(OK));
    let outcome = load(&target, &Plan { warmup: 40, ..plan(100) }, 0.0).unwrap();
    assert_eq!(outcome.latency.count(), 100);
}

#[test]
fn pipelined_requests_come_back_in_order() {
    let target = serve(say(OK));
    let outcome = load(&target, &Plan { pipeline: 8, ..plan(200) }, 0.0).unwrap();
    assert_eq!((outcome.latency.count(), outcome.errors()), (200, 0));
}

#[test]
fn accepting_a_tampered_token_is_an_error() {
    let target = serve(say(OK));
    let outcome = load(&target, &plan(20), 1.0).unwrap();
    assert_eq!((outcome.mismatches, outcome.lost), (20, 0));
    assert_eq!(outcome.complaints.len(), COMPLAINTS_MAX);
    assert!(
        outcome.complaints[0].contains("should be rejected; the answer is 200"),
        "{:?}",
        outcome.complaints
    );
}

#[test]
fn server_that_closes_politely_loses_nothing() {
    let target = serve(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        false
    });
    let outcome = load(&target, &plan(30), 0.0).unwrap();
    assert_eq!((outcome.latency.count(), outcome.lost, outcome.reconnects), (30, 0, 30));
}

#[test]
fn requests_on_a_connection_that_dies_are_lost_and_reported() {
    let target = serve(|n, stream| n % 10 != 9 && stream.write_all(OK).is_ok());
    let outcome = load(&target, &plan(100), 0.0).unwrap();
    assert_eq!((outcome.lost, outcome.latency.count(), outcome.reconnects), (10, 90, 10));
    assert_eq!(outcome.errors(), 10);
}

#[test]
fn answer_that_is_not_http_is_an_error_and_not_a_hang() {
    let target = serve(say(b"220 ready\r\n\r\n"));
    let outcome = load(&target, &plan(5), 0.0).unwrap();
    assert_eq!((outcome.mismatches, outcome.latency.count()), (5, 0));
}

#[test]
fn silent_server_ends_the_run() {
    let target = serve(|_, _| true);
    let plan = Plan { answer_timeout: Duration::from_millis(50), ..plan(5) };
    assert!(matches!(load(&target, &plan, 0.0), Err(LoadError::Stalled { in_flight: 3, .. })));
}

#[test]
fn absent_server_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    assert!(matches!(load(&target, &plan(1), 0.0), Err(LoadError::Connect { .. })));
}

#[test]
fn duration_bounds_a_run() {
    let target = serve(say(OK));
    let plan = Plan { bound: Bound::Duration(Duration::from_millis(60)), ..plan(0) };
    let outcome = load(&target, &plan, 0.0).unwrap();
    assert!(outcome.latency.count() > 0 && outcome.errors() == 0);
    assert!(outcome.elapsed < Duration::from_secs(5), "{:?}", outcome.elapsed);
}

#[test]
fn stall_is_charged_to_every_request_that_was_due_in_it() {
    // One connection, 1000 requests per second, and one answer that takes 100 ms: a closed loop would see one slow
    // answer, here about a hundred requests were due meanwhile and waited 100 ms, 99 ms, 98 ms …
    let target = serve(|n, stream| {
        if n == 20 {
            thread::sleep(Duration::from_millis(100));
        }
        stream.write_all(OK).is_ok()
    });
    let plan = Plan { connections: 1, pace: Pace::Rate(1000.0), ..plan(200) };
    let outcome = load(&target, &plan, 0.0).unwrap();
    assert_eq!((outcome.latency.count(), outcome.unsent), (200, 0));
    // 20 ran before the stall, about 80 after it has been made up for; the rest waited.
    let p75 = outcome.latency.percentile(75.0);
    assert!(p75 >= 40_000_000, "p75 is {p75} ns");
}

#[test]
fn requests_a_slow_server_left_no_room_for_are_reported() {
    let target = serve(|_, stream| {
        thread::sleep(Duration::from_millis(20));
        stream.write_all(OK).is_ok()
    });
    let plan = Plan {
        connections: 1,
        pace: Pace::Rate(1000.0),
        bound: Bound::Duration(Duration::from_millis(200)),
        ..plan(0)
    };
    let outcome = load(&target, &plan, 0.0).unwrap();
    assert!(outcome.unsent > 100, "{} unsent", outcome.unsent);
}
