//! The queue of frames that wait for the server to read them.

use tokio::sync::OwnedSemaphorePermit;

use crate::workers::mcp::frame::Frame;

/// Bytes of frames that wait for the server to read. A call beyond the limit waits within its own timeout.
pub const QUEUE_LIMIT: usize = 32 << 20;
/// Bytes that one permit of the queue stands for. Each frame takes at least one permit.
pub(super) const PERMIT_BYTES: usize = 1024;

/// An entry of the queue.
pub(super) enum QueueEntry {
    /// The frame of this request, unless the request has ended.
    Request(u64),
    Message(QueuedFrame),
}

/// A frame and its space in the queue.
pub struct QueuedFrame {
    pub frame: Frame,
    pub(super) _space: OwnedSemaphorePermit,
}

/// The space of one frame in the queue.
pub struct QueueSpace(pub(super) OwnedSemaphorePermit);

/// Returns the permits that a frame of this size takes.
pub(super) fn permits_for(bytes: usize) -> u32 {
    (bytes / PERMIT_BYTES + 1).min(QUEUE_LIMIT / PERMIT_BYTES) as u32
}
