//! Everything that comes from other people's programs: no input causes a panic, a wait without an end, or memory that
//! grows without a bound.
//!
//! Each property runs for about two seconds with a new seed. `MCP_TEST_FUZZ` is a longer time in seconds. A failure
//! names its seed, and `MCP_TEST_SEED` begins with this seed.

mod authorization;
mod headers;
mod http;
mod lines;
mod messages;
mod packages;
mod streams;

use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::memory::peak_bytes;

/// The time of one property, unless `MCP_TEST_FUZZ` says another one.
const USUAL_TIME: Duration = Duration::from_secs(2);
/// The inputs of one seed.
const CASES: u32 = 32;
/// One seed never needs this long. A property that needs longer waits without an end.
const LONGEST_SEED: Duration = Duration::from_secs(120);
/// Memory that no input explains.
const SLACK: usize = 1 << 20;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Checks a property with one seed after another until its time is over.
///
/// # Panics
/// Panics if the property fails, or if one seed has no end. The message names the seed.
pub fn check<S: Strategy>(
    inputs: impl Fn() -> S + Clone + Send + 'static,
    property: impl Fn(S::Value) + Clone + Send + 'static,
) {
    let time = number("MCP_TEST_FUZZ").map_or(USUAL_TIME, Duration::from_secs);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = number("MCP_TEST_SEED").unwrap_or_else(|| now.expect("a time").as_micros() as u64);
    let began = Instant::now();
    for seed in first.. {
        check_seed(seed, inputs.clone(), property.clone());
        if began.elapsed() > time {
            println!("seeds {first} to {seed}");
            return;
        }
    }
}

/// Checks a property on a thread of its own.
fn check_seed<S: Strategy>(
    seed: u64,
    inputs: impl FnOnce() -> S + Send + 'static,
    property: impl Fn(S::Value) + Send + 'static,
) {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let config = ProptestConfig {
            rng_seed: RngSeed::Fixed(seed),
            max_shrink_time: 10_000,
            ..super::cases(CASES)
        };
        let result = TestRunner::new(config).run(&inputs(), |input| {
            property(input);
            Ok(())
        });
        let _ = sender.send(result.map_err(|error| error.to_string()));
    });
    match receiver.recv_timeout(LONGEST_SEED) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("seed {seed}: {error}"),
        Err(_) => panic!("seed {seed}: the property has no end, or it aborted"),
    }
}

/// Runs the work on this thread, and fails if it holds more than `per_byte` times the input, and some slack, at once.
pub fn within_memory<T>(input: usize, per_byte: usize, work: impl FnOnce() -> T) -> T {
    let (result, peak) = peak_bytes(work);
    let limit = input * per_byte + SLACK;
    assert!(
        peak < limit as isize,
        "{input} bytes of input cost {peak} bytes"
    );
    result
}

/// Runs the work on a runtime of this thread.
pub fn run_async<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// Pieces that parsers treat in a special way.
const PIECES: &[&[u8]] = &[
    b"null",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"=",
    b";",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"%",
    b"%00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"-",
    b"1e999",
    b"-0",
    b"99999999999999999999",
    b"NaN",
    b"true",
    b"data:",
    b"id:",
    b"retry:",
    b"event:",
    b"Bearer ",
    b"http://",
    b"../",
    b"***",
];

/// Returns texts like the samples: joined, cut, repeated and with foreign pieces.
pub fn like(samples: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let joined = prop::collection::vec(prop::sample::select(samples), 1..4);
    let change = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..5_u8,
        piece(),
    );
    (joined, prop::collection::vec(change, 0..6)).prop_map(|(texts, changes)| {
        let mut bytes = texts.concat().into_bytes();
        for (at, other, kind, piece) in changes {
            change_bytes(&mut bytes, &at, &other, kind, &piece);
        }
        bytes
    })
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(PIECES).prop_map(<[u8]>::to_vec);
    let repeated = (prop::sample::select(PIECES), 100..3000_usize);
    prop_oneof![
        6 => known,
        1 => repeated.prop_map(|(piece, times)| piece.repeat(times)),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ]
}

fn change_bytes(
    bytes: &mut Vec<u8>,
    at: &prop::sample::Index,
    other: &prop::sample::Index,
    kind: u8,
    piece: &[u8],
) {
    let first = at.index(bytes.len() + 1);
    let second = other.index(bytes.len() + 1);
    let range = first.min(second)..first.max(second);
    match kind {
        0 => drop(bytes.splice(range, [])),
        1 => {
            let copy = bytes[range].to_vec();
            bytes.splice(first..first, copy);
        }
        2 => drop(bytes.splice(range, piece.iter().copied())),
        _ => drop(bytes.splice(first..first, piece.iter().copied())),
    }
}

/// The harness itself: a property that fails names its seed, and one that never ends fails.
#[test]
#[should_panic(expected = "seed 7")]
fn a_failure_names_its_seed() {
    check_seed(7, || 0..100_u8, |number| assert!(number < 50));
}
