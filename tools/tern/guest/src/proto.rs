// SPDX-License-Identifier: MIT OR Apache-2.0

//! What [`tern-guest`](crate) and the guest's init say to each other.
//!
//! One virtio-serial port carries everything, so that the exit status cannot
//! overtake output that was written before it. A message is a *frame*: one
//! byte for the kind, four bytes for the length (little endian), and the
//! payload, which is raw bytes for data and JSON for the rest.
//!
//! ```text
//! guest                 host
//!   Ready       ->
//!               <-   Start
//!               <-   Stdin*, StdinEnd, Resize*
//!   Stdout*     ->
//!   Stderr*     ->
//!   Exit        ->
//! ```

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest payload in bytes; a longer one means that the stream is damaged.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes of data that a sender puts in one frame.
pub const CHUNK: usize = 32 << 10;

/// Name of the virtio-serial port that carries the frames.
pub const PORT_NAME: &str = "tern.guest";

/// 9p mount tag of the guest's root file system.
pub const ROOT_TAG: &str = "tern-root";

/// 9p mount tag of the shared directory.
pub const SHARE_TAG: &str = "tern-share";

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Number of lines.
    pub rows: u16,
    /// Number of characters in a line.
    pub columns: u16,
}

/// What the guest is to run, and around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Working directory in the guest.
    pub cwd: String,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// User and group that the command runs as.
    pub uid: u32,
    /// A controlling terminal of this size instead of three pipes.
    pub tty: Option<Size>,
    /// Whether [`Frame::Stdin`] follows; otherwise stdin is `/dev/null`.
    pub stdin: bool,
    /// Where the shared directory is mounted, if there is one.
    pub share: Option<String>,
    /// Directory of the root file system that becomes `/lib/modules`.
    pub modules: Option<String>,
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It could not be started, for this reason.
    NotStarted(String),
    /// The guest could not be set up, for this reason.
    SetupFailed(String),
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The guest is up and waits for [`Frame::Start`].
    Ready,
    /// Run this.
    Start(Start),
    /// Input of the command.
    Stdin(Vec<u8>),
    /// The input has ended.
    StdinEnd,
    /// The terminal has a new size.
    Resize(Size),
    /// Output of the command, or of its terminal.
    Stdout(Vec<u8>),
    /// Error output of the command.
    Stderr(Vec<u8>),
    /// The command has ended, and so has its output.
    Exit(Outcome),
}

const READY: u8 = 1;
const START: u8 = 2;
const STDIN: u8 = 3;
const STDIN_END: u8 = 4;
const RESIZE: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const EXIT: u8 = 8;

impl Frame {
    /// Reads the next frame; `None` when the stream ends between two frames.
    ///
    /// # Errors
    ///
    /// Fails when reading does, when the stream ends inside a frame, and with
    /// [`io::ErrorKind::InvalidData`] when the bytes are not a frame.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0u8];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let mut length = [0u8; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid(format!("a frame of {length} bytes is too long")));
        }
        let mut payload = vec![0u8; length];
        from.read_exact(&mut payload)?;
        Self::decode(kind[0], payload).map(Some)
    }

    /// Writes the frame with one call of `write_all`.
    ///
    /// # Errors
    ///
    /// Fails when writing does, and with [`io::ErrorKind::InvalidData`] when
    /// the payload is longer than [`MAX_PAYLOAD`].
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.encode()?;
        if payload.len() > MAX_PAYLOAD {
            return Err(invalid(format!(
                "a message of {} bytes is too long",
                payload.len()
            )));
        }
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        to.write_all(&bytes)
    }

    fn encode(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Self::Ready => (READY, Vec::new()),
            Self::Start(start) => (START, serde_json::to_vec(start)?),
            Self::Stdin(data) => (STDIN, data.clone()),
            Self::StdinEnd => (STDIN_END, Vec::new()),
            Self::Resize(size) => (RESIZE, serde_json::to_vec(size)?),
            Self::Stdout(data) => (STDOUT, data.clone()),
            Self::Stderr(data) => (STDERR, data.clone()),
            Self::Exit(outcome) => (EXIT, serde_json::to_vec(outcome)?),
        })
    }

    fn decode(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        Ok(match kind {
            READY => Self::Ready,
            START => Self::Start(json(&payload)?),
            STDIN => Self::Stdin(payload),
            STDIN_END => Self::StdinEnd,
            RESIZE => Self::Resize(json(&payload)?),
            STDOUT => Self::Stdout(payload),
            STDERR => Self::Stderr(payload),
            EXIT => Self::Exit(json(&payload)?),
            other => return Err(invalid(format!("there is no frame of kind {other}"))),
        })
    }
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(|e| invalid(format!("a frame has bad JSON: {e}")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start {
            argv: vec!["sh".into(), "-c".into(), "echo ä".into()],
            cwd: "/host".into(),
            env: vec![("A".into(), "1=2".into())],
            uid: 1000,
            tty: Some(Size {
                rows: 24,
                columns: 80,
            }),
            stdin: true,
            share: Some("/host".into()),
            modules: None,
        }
    }

    #[test]
    fn every_frame_survives_the_stream() {
        let frames = [
            Frame::Ready,
            Frame::Start(start()),
            Frame::Stdin(b"in\0put".to_vec()),
            Frame::StdinEnd,
            Frame::Resize(Size {
                rows: 1,
                columns: 65535,
            }),
            Frame::Stdout(vec![0xff; CHUNK]),
            Frame::Stderr(Vec::new()),
            Frame::Exit(Outcome::Exited(3)),
            Frame::Exit(Outcome::Signaled(9)),
            Frame::Exit(Outcome::NotStarted("no such program".into())),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut stream = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut stream).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_is_an_error() {
        let mut bytes = Vec::new();
        Frame::Start(start()).write(&mut bytes).unwrap();
        for length in 1..bytes.len() {
            let error = Frame::read(&mut &bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {length}");
        }
    }

    #[test]
    fn damaged_frames_are_refused() {
        for bytes in [
            &[STDOUT, 0xff, 0xff, 0xff, 0xff][..],
            &[99, 0, 0, 0, 0],
            &[RESIZE, 1, 0, 0, 0, b'{'],
        ] {
            let error = Frame::read(&mut &bytes[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn an_oversized_payload_is_not_sent() {
        let mut sink = Vec::new();
        let frame = Frame::Stdout(vec![0; MAX_PAYLOAD + 1]);
        assert!(frame.write(&mut sink).is_err());
        assert!(sink.is_empty());
    }
}
