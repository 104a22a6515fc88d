//! What can go wrong between two ends.

use std::io;

use crate::uri::Address;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("failed to connect to `{address}`")]
    Connect {
        /// Where.
        address: Address,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// Somebody answers, and not as a server of this protocol.
    #[error("failed to agree on TLS with `{address}`")]
    Tls {
        /// Where.
        address: Address,
        /// TLS's word.
        #[source]
        source: io::Error,
    },
    /// Somebody answers who has another public key.
    #[error(
        "the server at `{address}` has the public key `sha-256:{found}`, not the one in the URI"
    )]
    WrongServer {
        /// Where.
        address: Address,
        /// Its fingerprint, in base64url.
        found: String,
    },
    /// It took too long.
    #[error("`{address}` did not answer in {seconds} s")]
    TimedOut {
        /// Where.
        address: Address,
        /// How long was waited.
        seconds: u64,
    },
    /// A key for this connection cannot be made.
    #[error("failed to make a key for this connection")]
    Key(#[source] rcgen::Error),
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other end says so.
    #[error("{0}")]
    Failed(String),
    /// The other end is too busy.
    #[error("{0}")]
    Overloaded(String),
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Disconnected(String),
    /// The other end does not know the method.
    #[error("the other end does not know this call: {0}")]
    Unimplemented(String),
}

impl CallError {
    /// Whether the connection is lost.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Disconnected(_))
    }
}

impl From<capnp::Error> for CallError {
    fn from(error: capnp::Error) -> Self {
        use capnp::ErrorKind;
        let text = if error.extra.is_empty() { error.kind.to_string() } else { error.extra };
        // One for each end that it has passed through.
        let text = text.trim_start_matches("remote exception: ").to_owned();
        match error.kind {
            ErrorKind::Disconnected => Self::Disconnected(text),
            ErrorKind::Overloaded => Self::Overloaded(text),
            ErrorKind::Unimplemented => Self::Unimplemented(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<CallError> for capnp::Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed(text) => Self::failed(text),
            CallError::Overloaded(text) => Self::overloaded(text),
            CallError::Disconnected(text) => Self::disconnected(text),
            CallError::Unimplemented(text) => Self::unimplemented(text),
        }
    }
}

impl From<std::str::Utf8Error> for CallError {
    fn from(_: std::str::Utf8Error) -> Self {
        Self::Failed("a text in the message is not UTF-8".into())
    }
}
