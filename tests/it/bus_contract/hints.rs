//! The promises of a bus about hints.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::harness::PATIENCE;
use mcp_api::core::ids::Position;
use mcp_api::ports::bus::{Bus, Hint};

async fn receive(listener: &mut Receiver<Hint>) -> Result<Hint, RecvError> {
    tokio::time::timeout(PATIENCE, listener.recv())
        .await
        .expect("in time")
}

pub async fn every_listener_receives_every_hint(bus: Arc<dyn Bus>) {
    let (mut a, mut b) = (bus.hints(), bus.hints());
    bus.publish(Hint::LogMoved(Position(7)));
    bus.publish(Hint::Status(Bytes::from_static(b"{}")));
    for listener in [&mut a, &mut b] {
        assert!(matches!(
            receive(listener).await,
            Ok(Hint::LogMoved(Position(7)))
        ));
        assert!(matches!(receive(listener).await, Ok(Hint::Status(status)) if status == "{}"));
    }
}

pub async fn a_hint_without_listeners_is_no_error(bus: Arc<dyn Bus>) {
    bus.publish(Hint::LogMoved(Position(1)));
    let mut late = bus.hints();
    bus.publish(Hint::LogMoved(Position(2)));
    assert!(
        matches!(receive(&mut late).await, Ok(Hint::LogMoved(Position(2)))),
        "earlier hints are not repeated"
    );
}

pub async fn a_lagging_listener_gets_an_error(bus: Arc<dyn Bus>) {
    const MANY: u64 = 20_000;
    let mut slow = bus.hints();
    for number in 1..=MANY {
        bus.publish(Hint::LogMoved(Position(number)));
    }
    let mut lagged = false;
    loop {
        match receive(&mut slow).await {
            Ok(Hint::LogMoved(Position(MANY))) => break,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => lagged = true,
            Err(RecvError::Closed) => panic!("the bus has ended"),
        }
    }
    assert!(lagged, "the bus stored {MANY} hints for a slow listener");
}
