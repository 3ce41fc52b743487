//! Records the description of a server in the event log, once a minute at most.
//!
//! A server describes itself when a connection opens. The worker masks the description, shortens it, and records it if
//! it differs from the recorded one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use super::tool_sync::{ListOrigin, RecordSchedule, RecordTime, change_of};
use crate::core::command::RecordDescription;
use crate::core::decide::server;
use crate::core::event::Actor;
use crate::core::ids::CommandId;
use crate::core::model::description::{RawObject, ServerDescription};
use crate::time::clock::monotonic;
use crate::workers::mcp::{Connection, Handshake};
use crate::workers::redact::Redactor;

/// The largest description in bytes. Instructions are shortened, and an object that does not fit is left out.
const MAX_DESCRIPTION: usize = 64 * 1024;
/// The longest name of a protocol version in bytes.
const MAX_VERSION: usize = 64;

/// Limits the records of the description of one server.
#[derive(Default)]
pub(super) struct DescriptionRecorder {
    schedule: Mutex<RecordSchedule>,
    /// The newest description, while a task waits to record it.
    unrecorded: Mutex<Option<ServerDescription>>,
}

/// Records the description that a server gave when the connection opened, if it differs from the recorded one. Without
/// the record the server works, and its next start tries again. All users see the description, so `redactor` must not mask
/// values that only other users have.
pub(super) async fn record_description(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    connection: &Connection,
    redactor: &Redactor,
) {
    let Some(handshake) = connection.handshake() else {
        return;
    };
    let description = describe(&handshake, redactor);
    let command = new_command(handle, description);
    let catalog = manager.projection.catalog();
    if server::record_description(&catalog, &command).is_empty() {
        handle.description.unrecorded.lock().take();
        return;
    }
    let changed = change_of(&catalog, handle);
    drop(catalog);
    let time = handle
        .description
        .schedule
        .lock()
        .next(ListOrigin::Start, monotonic(), changed);
    match time {
        RecordTime::Now => append_description(manager, handle, command).await,
        RecordTime::In(pause) => {
            *handle.description.unrecorded.lock() = Some(command.description);
            let recording = record_later(manager.clone(), handle.clone(), pause);
            manager.tasks.spawn(recording);
        }
        RecordTime::Scheduled => {
            *handle.description.unrecorded.lock() = Some(command.description);
        }
    }
}

async fn record_later(manager: Arc<ServerManager>, handle: Arc<ServerHandle>, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = manager.ending.cancelled() => {}
    }
    handle.description.schedule.lock().end_pause();
    // Without a description, the server has returned to the recorded one.
    let unrecorded = handle.description.unrecorded.lock().take();
    if let Some(description) = unrecorded {
        let command = new_command(&handle, description);
        append_description(&manager, &handle, command).await;
    }
}

fn new_command(handle: &ServerHandle, description: ServerDescription) -> RecordDescription {
    RecordDescription {
        server: handle.id,
        description,
        fencing_token: handle.lease.fencing_token(),
    }
}

async fn append_description(
    manager: &ServerManager,
    handle: &ServerHandle,
    command: RecordDescription,
) {
    let id = CommandId(uuid::Uuid::now_v7());
    let lease = handle.lease.clone();
    let recorded = manager
        .appender
        .commit(id, Actor::worker(), move |catalog| {
            // A worker that stood still for longer than its lease records nothing: another worker may own the server.
            if !lease.is_held() {
                return Ok(vec![]);
            }
            Ok(server::record_description(catalog, &command))
        });
    if let Err(failure) = recorded.await {
        tracing::warn!(server = %handle.name, %failure, "the description of a server could not be recorded");
    }
}

/// Returns the description without secrets and within the limit of its size.
fn describe(handshake: &Handshake, redactor: &Redactor) -> ServerDescription {
    let parts = handshake.parts();
    let mut left = MAX_DESCRIPTION;
    let protocol_version = parts
        .protocol_version
        .filter(|version| version.len() <= MAX_VERSION)
        .map(|version| redactor.mask(&version));
    left -= protocol_version.as_deref().map_or(0, str::len);
    let capabilities = masked_object(parts.capabilities, redactor, &mut left);
    let server_info = masked_object(parts.server_info, redactor, &mut left);
    let instructions = parts.instructions.map(|text| {
        let masked = redactor.mask(&text);
        masked[..masked.floor_char_boundary(left)].to_owned()
    });
    ServerDescription::new(capabilities, server_info, instructions, protocol_version)
}

/// Returns an object that fits into the bytes that are left.
fn masked_object(
    object: Option<&RawValue>,
    redactor: &Redactor,
    left: &mut usize,
) -> Option<RawObject> {
    let object = object.filter(|object| object.get().len() <= *left)?;
    let masked = redactor.mask_json(object.get());
    let bytes = masked.len();
    let object = RawObject::parse(masked).filter(|_| bytes <= *left)?;
    *left -= bytes;
    Some(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ValueId;

    fn described(result: &serde_json::Value, redactor: &Redactor) -> ServerDescription {
        describe(&Handshake::Initialize(result.to_string().into()), redactor)
    }

    #[test]
    fn a_description_has_no_secrets() {
        let redactor = Redactor::default();
        redactor.hold(ValueId(Uuid::new_v4()), "planted-secret");
        let result = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
            "serverInfo": { "name": "of planted-secret" }, "instructions": "use planted-secret" });
        let description = described(&result, &redactor);
        let server_info = description.server_info.expect("an object");
        assert_eq!(server_info.raw().get(), r#"{"name":"of ***"}"#);
        assert_eq!(description.instructions.as_deref(), Some("use ***"));
        assert_eq!(description.protocol_version.as_deref(), Some("2025-06-18"));
    }

    #[test]
    fn a_description_has_64_kib_at_most() {
        let redactor = Redactor::default();
        let large = "ä".repeat(MAX_DESCRIPTION);
        let result = json!({ "protocolVersion": large, "capabilities": { "n": large },
            "serverInfo": { "name": "n" }, "instructions": large });
        let description = described(&result, &redactor);
        assert_eq!(description.protocol_version, None);
        assert_eq!(description.capabilities, None);
        let server_info = description
            .server_info
            .expect("an object")
            .raw()
            .get()
            .len();
        let instructions = description.instructions.expect("a text").len();
        assert!(server_info + instructions <= MAX_DESCRIPTION);
        assert!(server_info + instructions > MAX_DESCRIPTION - 4);
    }
}
