//! Event streams of servers behind a URL.

use proptest::prelude::*;

use super::{check, like, within_memory};
use mcp_api::workers::mcp::http::sse::{Parser, SseError, SseEvent};

const LIMIT: usize = 10_000;
/// The bytes of a stream that never ends.
const ENDLESS: usize = 2 << 20;

const STREAMS: &[&str] = &[
    "event: endpoint\ndata: /messages?sessionId=1\n\n",
    "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n",
    "\u{feff}data: first\r\ndata: second\r\rdata: third\n\n",
    ": a comment\n\nretry: 1000\n\n",
    "event:message\ndata\nid\ndata: x\n\n",
];

/// Returns all events of these chunks, and the error that ended them.
fn events(chunks: &[&[u8]]) -> (Vec<SseEvent>, Option<SseError>) {
    let mut parser = Parser::new(LIMIT);
    let mut events = Vec::new();
    for chunk in chunks {
        parser.push(chunk);
        loop {
            match parser.next() {
                Ok(Some(event)) => {
                    assert!(
                        event.data.len() <= LIMIT + 1,
                        "{} bytes of data",
                        event.data.len()
                    );
                    events.push(event);
                }
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

#[test]
fn the_chunks_of_a_stream_do_not_change_its_events() {
    let input = || {
        (
            like(STREAMS),
            prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        )
    };
    check(
        input,
        |(bytes, cuts): (Vec<u8>, Vec<prop::sample::Index>)| {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let (whole, error) = events(&[&bytes]);
            let (cut, error_of_cut) = events(&chunks);
            if error.is_none() && error_of_cut.is_none() {
                assert_eq!(whole, cut);
            }
        },
    );
}

#[test]
fn an_endless_stream_is_cut_off() {
    check(
        || like(STREAMS),
        |bytes: Vec<u8>| {
            within_memory(bytes.len() + LIMIT, 20, || {
                let mut parser = Parser::new(LIMIT);
                let mut fed = 0;
                while fed < ENDLESS {
                    parser.push(&bytes);
                    fed += bytes.len().max(1);
                    loop {
                        match parser.next() {
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(_) => return,
                        }
                    }
                }
            });
        },
    );
}
