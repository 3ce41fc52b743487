//! The memory of large structures. The allocator counts the bytes of each thread, because the kernel counts pages.

// An allocator is unsafe code.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use uuid::Uuid;

use crate::samples::{registered, restored, snapshot, value_id};
use mcp_api::core::catalog::Catalog;
use mcp_api::core::event::{JobAccepted, TokenCreated};
use mcp_api::core::ids::{JobId, TokenId};
use mcp_api::core::model::caller::{AllowedServers, Scopes};
use mcp_api::core::model::token::{Token, TokenDigest};

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The allocator of the system. It counts the bytes that each thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // A thread that ends has destroyed its counter already.
    let _ = BYTES.try_with(|all| {
        let held = all.get() + bytes;
        all.set(held);
        PEAK.with(|peak| peak.set(peak.get().max(held)));
    });
}

/// Returns the result of the work, and the most bytes that this thread held more during the work than before it.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let before = BYTES.get();
    PEAK.set(before);
    let result = work();
    (result, PEAK.get() - before)
}

// SAFETY: the allocator of the system does all the work; this type only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }
}

/// Returns a catalog with this many waiting jobs of a hundred users for one server.
pub fn with_jobs(jobs: u64) -> Catalog {
    let mut catalog = Catalog::default();
    catalog.apply(&registered(1));
    for n in 0..jobs {
        let event = JobAccepted {
            job: JobId(Uuid::now_v7()),
            user: format!("user-{}@example.com", n % 100)
                .parse()
                .expect("a name"),
            command: "tools.call".into(),
            server: Some("server-1".parse().expect("a name")),
            tool: Some("a-tool-with-a-long-name".parse().expect("a name")),
            arguments: value_id(),
            key: None,
            token: None,
        };
        catalog.apply(&event.into());
    }
    catalog
}

#[test]
fn a_waiting_job_costs_at_most_two_hundred_bytes() {
    const JOBS: u64 = 100_000;
    let before = BYTES.get();
    let catalog = with_jobs(JOBS);
    let accepted = (BYTES.get() - before) / JOBS as isize;
    let stored = snapshot(&catalog);
    drop(catalog);
    let before = BYTES.get();
    let restored = restored(&stored).expect("a catalogue");
    let read = (BYTES.get() - before) / JOBS as isize;
    assert_eq!(restored.jobs.waiting(), JOBS as usize);
    println!("a waiting job: {accepted} bytes where it was accepted, {read} after a start");
    assert!(
        accepted <= 200 && read <= 200,
        "{accepted} and {read} bytes"
    );
}

/// Returns a catalog with one token for each of this many users. An administrator made the tokens.
fn with_tokens(tokens: u64) -> Catalog {
    let mut catalog = Catalog::default();
    for n in 0..tokens {
        let token = Token {
            id: TokenId(Uuid::now_v7()),
            user: format!("user-{n}@example.com").parse().expect("a name"),
            digest: TokenDigest([7; 32]),
            scopes: Scopes::DEFAULT.into_iter().collect(),
            servers: AllowedServers::All,
            label: None,
            created_at: n,
            expires_at: Some(u64::MAX),
            created_by: None,
            maker: None,
        };
        catalog.apply(&TokenCreated(token).into());
    }
    catalog
}

#[test]
fn a_token_costs_at_most_three_hundred_bytes() {
    const TOKENS: u64 = 100_000;
    let before = BYTES.get();
    let catalog = with_tokens(TOKENS);
    let created = (BYTES.get() - before) / TOKENS as isize;
    let stored = snapshot(&catalog);
    drop(catalog);
    let before = BYTES.get();
    let restored = restored(&stored).expect("a catalog");
    let read = (BYTES.get() - before) / TOKENS as isize;
    assert_eq!(restored.tokens.all().count(), TOKENS as usize);
    println!("a token: {created} bytes where it was created, {read} after a start");
    assert!(created <= 300 && read <= 300, "{created} and {read} bytes");
}
