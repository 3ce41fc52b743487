//! The messages between the worker and the guard starter: a request with the descriptors of a guard, and a reply with the
//! id of its process. The socket (SEQPACKET) delivers whole messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
};
use rustix::process::Pid;

/// The number of descriptors in a request.
const DESCRIPTORS: usize = 5;
/// A message with descriptors needs at least one byte.
const REQUEST: [u8; 1] = *b"G";

/// The descriptors with which a guard starts.
pub(super) struct GuardDescriptors {
    /// The guard's end of the pipe through which the worker sends messages.
    pub(super) life: OwnedFd,
    /// The file with the program of the child.
    pub(super) program: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Asks the starter for a guard.
pub(super) fn send_request(
    socket: BorrowedFd<'_>,
    descriptors: &GuardDescriptors,
) -> io::Result<()> {
    let descriptors = [
        descriptors.life.as_fd(),
        descriptors.program.as_fd(),
        descriptors.stdin.as_fd(),
        descriptors.stdout.as_fd(),
        descriptors.stderr.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let request = [IoSlice::new(&REQUEST)];
    // The worker must not get a signal if the starter is gone.
    retry_on_intr(|| sendmsg(socket, &request, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives the next request. `None`: the worker is gone.
///
/// # Errors
/// The error of the system, and an error if the request has not all descriptors.
pub(super) fn receive_request(socket: BorrowedFd<'_>) -> io::Result<Option<GuardDescriptors>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut request = REQUEST;
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = retry_on_intr(|| {
        let mut request = [IoSliceMut::new(&mut request)];
        recvmsg(socket, &mut request, &mut control, flags)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten();
    let mut next = || {
        let missing = || io::Error::other("the request has too few descriptors");
        descriptors.next().ok_or_else(missing)
    };
    Ok(Some(GuardDescriptors {
        life: next()?,
        program: next()?,
        stdin: next()?,
        stdout: next()?,
        stderr: next()?,
    }))
}

/// Sends the id of a guard, or the error of the system that prevents its start.
pub(super) fn send_reply(socket: BorrowedFd<'_>, guard: Result<Pid, Errno>) -> io::Result<()> {
    let number = match guard {
        Ok(pid) => pid.as_raw_nonzero().get(),
        Err(error) => -error.raw_os_error(),
    };
    retry_on_intr(|| send(socket, &number.to_ne_bytes(), SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives the reply to a request. The inner error is the error that the starter has replied.
///
/// # Errors
/// The error of the system, and an error if the starter is gone.
pub(super) fn receive_reply(socket: BorrowedFd<'_>) -> io::Result<Result<Pid, Errno>> {
    let mut number = [0; size_of::<i32>()];
    let (_, length) = retry_on_intr(|| recv(socket, &mut number, RecvFlags::empty()))?;
    if length != number.len() {
        return Err(io::Error::other("the guard starter has ended"));
    }
    let number = i32::from_ne_bytes(number);
    let error = || Errno::from_raw_os_error(-number);
    let pid = (number > 0).then(|| Pid::from_raw(number)).flatten();
    Ok(pid.ok_or_else(error))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn sockets() -> (OwnedFd, OwnedFd) {
        let kind = SocketType::SEQPACKET;
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("two sockets")
    }

    #[test]
    fn a_request_passes_the_descriptors_in_their_order() {
        let (worker, starter) = sockets();
        let pipes: Vec<_> = (0..DESCRIPTORS)
            .map(|_| io::pipe().expect("a pipe"))
            .collect();
        let (mut readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let [life, program, stdin, stdout, stderr] = writers
            .into_iter()
            .map(OwnedFd::from)
            .collect::<Vec<_>>()
            .try_into()
            .expect("five");
        let sent = GuardDescriptors {
            life,
            program,
            stdin,
            stdout,
            stderr,
        };
        send_request(worker.as_fd(), &sent).expect("a request");
        drop(sent);
        let received = receive_request(starter.as_fd())
            .expect("a request")
            .expect("no end");
        let GuardDescriptors {
            life,
            program,
            stdin,
            stdout,
            stderr,
        } = received;
        for (number, descriptor) in [life, program, stdin, stdout, stderr]
            .into_iter()
            .enumerate()
        {
            let text = number.to_string();
            File::from(descriptor)
                .write_all(text.as_bytes())
                .expect("an open pipe");
            let mut read = String::new();
            // The read ends, because the last writer is closed.
            readers[number].read_to_string(&mut read).expect("a text");
            assert_eq!(read, text);
        }
        drop(worker);
        assert!(receive_request(starter.as_fd()).expect("an end").is_none());
    }

    #[test]
    fn a_request_without_descriptors_is_an_error() {
        let (worker, starter) = sockets();
        send(&worker, &REQUEST, SendFlags::empty()).expect("a message");
        assert!(receive_request(starter.as_fd()).is_err());
    }

    #[test]
    fn a_reply_is_a_process_or_an_error() {
        let (worker, starter) = sockets();
        for reply in [Ok(Pid::INIT), Err(Errno::AGAIN)] {
            send_reply(starter.as_fd(), reply).expect("a reply");
            assert_eq!(receive_reply(worker.as_fd()).expect("a reply"), reply);
        }
        drop(starter);
        assert!(receive_reply(worker.as_fd()).is_err());
    }
}
