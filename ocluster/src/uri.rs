//! Capability URIs: which service, at which address, and who may offer it.
//!
//! ```text
//! capnp://sha-256:FINGERPRINT@HOST:PORT/SERVICE     over TLS; FINGERPRINT is that of the server's public key
//! capnp://sha-256:FINGERPRINT@/PATH/SERVICE         the same over the Unix socket PATH
//! capnp://insecure@HOST:PORT/SERVICE                without TLS
//! ```
//!
//! FINGERPRINT and SERVICE are base64url without padding. SERVICE is a secret: whoever knows it may use the service.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Most bytes of a URI that are looked at.
const LONGEST: usize = 4096;

/// A service of one server.
#[derive(Clone, PartialEq, Eq)]
pub struct CapUri {
    /// Who the server must be.
    pub server: Server,
    /// Where it is.
    pub address: Address,
    /// Which of its services; a secret, any bytes, empty for a server with only one.
    pub service: Vec<u8>,
}

/// Who a server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// Anybody, and everybody on the way may listen.
    Insecure,
    /// The owner of the public key with this SHA-256, of its `SubjectPublicKeyInfo` in DER.
    Sha256([u8; 32]),
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for CapUri {
    /// The URI, secret and all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("capnp://")?;
        match &self.server {
            Server::Insecure => f.write_str("insecure")?,
            Server::Sha256(digest) => write!(f, "sha-256:{}", URL_SAFE_NO_PAD.encode(digest))?,
        }
        write!(f, "@{}/{}", self.address, URL_SAFE_NO_PAD.encode(&self.service))
    }
}

impl fmt::Debug for CapUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the service.
        f.debug_struct("CapUri")
            .field("server", &self.server)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a URI. No part of it that could be secret is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// More bytes than any URI has.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Another kind of URI, or none.
    #[error("it does not begin with `capnp://`")]
    Scheme,
    /// Nothing says who the server must be.
    #[error("it lacks the server's fingerprint: `capnp://sha-256:…@HOST:PORT/…`")]
    NoServer,
    /// A fingerprint of another kind.
    #[error("`{0}` is no kind of fingerprint; write `sha-256:…`, or `insecure` for none")]
    Hash(String),
    /// The fingerprint cannot be read.
    #[error("the fingerprint is not 32 bytes in base64url without padding")]
    Fingerprint,
    /// No address, or no port.
    #[error("`{0}` is not an address such as `HOST:PORT`, `[IPV6]:PORT` or `/PATH`")]
    Address(String),
    /// The port is none.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// Nothing says which service.
    #[error("it lacks the service's id after the address")]
    NoService,
    /// The service's id cannot be read.
    #[error("the service's id is not base64url without padding")]
    Service,
}

impl FromStr for CapUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > LONGEST {
            return Err(UriError::TooLong);
        }
        let rest = text.strip_prefix("capnp://").ok_or(UriError::Scheme)?;
        let (server, rest) = rest.split_once('@').ok_or(UriError::NoServer)?;
        let server = parse_server(server)?;
        let (address, service) = rest.rsplit_once('/').ok_or(UriError::NoService)?;
        let address = parse_address(address)?;
        let service = URL_SAFE_NO_PAD.decode(service).map_err(|_| UriError::Service)?;
        Ok(Self { server, address, service })
    }
}

fn parse_server(text: &str) -> Result<Server, UriError> {
    if text == "insecure" {
        return Ok(Server::Insecure);
    }
    let Some((kind, digest)) = text.split_once(':') else { return Err(UriError::NoServer) };
    if kind != "sha-256" {
        return Err(UriError::Hash(shown(kind)));
    }
    let digest = URL_SAFE_NO_PAD.decode(digest).map_err(|_| UriError::Fingerprint)?;
    digest.try_into().map(Server::Sha256).map_err(|_| UriError::Fingerprint)
}

fn parse_address(text: &str) -> Result<Address, UriError> {
    let wrong = || UriError::Address(shown(text));
    if text.starts_with('/') {
        return if text.contains('\0') { Err(wrong()) } else { Ok(Address::Unix(text.into())) };
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once("]:").ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, port)
        }
        None => text.rsplit_once(':').filter(|(host, _)| is_host(host)).ok_or_else(wrong)?,
    };
    let number =
        if port.bytes().all(|byte| byte.is_ascii_digit()) { port.parse().ok() } else { None };
    let port = number.filter(|port| *port != 0).ok_or_else(|| UriError::Port(shown(port)))?;
    Ok(Address::Tcp { host: host.to_owned(), port })
}

/// Whether `host` is a name or an IPv4 address, as far as its letters go.
fn is_host(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The beginning of `text`, fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "0_tVPHQ3gz5vKNVwc_t0llFzCEPqqXLEbBDGEb1sBAI";

    fn check(text: &str, address: Address, service: &[u8]) {
        let uri: CapUri = text.parse().unwrap();
        assert_eq!(uri.address, address);
        assert_eq!(uri.service, service);
        assert_eq!(uri.to_string(), text);
        let shown = format!("{uri:?}");
        assert!(service.is_empty() || !shown.contains(&URL_SAFE_NO_PAD.encode(service)), "{shown}");
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn uris_are_read_and_printed() {
        check(
            &format!("capnp://sha-256:{DIGEST}@10.1.2.3:9000/aGVsbG8"),
            tcp("10.1.2.3", 9000),
            b"hello",
        );
        check(
            &format!("capnp://sha-256:{DIGEST}@ci.example.org:1/"),
            tcp("ci.example.org", 1),
            b"",
        );
        check("capnp://insecure@[::1]:9000/__79", tcp("::1", 9000), &[0xff, 0xfe, 0xfd]);
        check(
            "capnp://insecure@/run/s.sock/aGVsbG8",
            Address::Unix("/run/s.sock".into()),
            b"hello",
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| text.parse::<CapUri>().unwrap_err();
        assert_eq!(error(""), UriError::Scheme);
        assert_eq!(error("https://x"), UriError::Scheme);
        assert_eq!(error("capnp://x:1/aa"), UriError::NoServer);
        assert_eq!(error("capnp://secure@x:1/aa"), UriError::NoServer);
        assert_eq!(
            error(&format!("capnp://sha256:{DIGEST}@x:1/aa")),
            UriError::Hash("sha256".into())
        );
        assert_eq!(error("capnp://sha-256:abcd@x:1/aa"), UriError::Fingerprint);
        assert_eq!(error(&format!("capnp://sha-256:{DIGEST}=@x:1/aa")), UriError::Fingerprint);
        assert_eq!(error("capnp://insecure@x/aa"), UriError::Address("x".into()));
        assert_eq!(error("capnp://insecure@:1/aa"), UriError::Address(":1".into()));
        assert_eq!(error("capnp://insecure@::1:9/aa"), UriError::Address("::1:9".into()));
        assert_eq!(error("capnp://insecure@[x]:9/aa"), UriError::Address("[x]:9".into()));
        assert_eq!(error("capnp://insecure@x:+9/aa"), UriError::Port("+9".into()));
        assert_eq!(error("capnp://insecure@x:65536/aa"), UriError::Port("65536".into()));
        assert_eq!(error("capnp://insecure@x:0/aa"), UriError::Port("0".into()));
        assert_eq!(error("capnp://insecure@x:1"), UriError::NoService);
        assert_eq!(error("capnp://insecure@x:1/a a"), UriError::Service);
        assert_eq!(error(&"c".repeat(LONGEST + 1)), UriError::TooLong);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = text.parse::<CapUri>();
            let _ = format!("capnp://insecure@{text}").parse::<CapUri>();
            let _ = format!("capnp://sha-256:{DIGEST}@{text}").parse::<CapUri>();
        }

        #[test]
        fn what_is_printed_can_be_read(
            digest: [u8; 32], insecure: bool, unix: bool, port in 1u16.., service: Vec<u8>,
            host in "[a-z0-9.-]{1,20}", path in "(/[a-z@: ]{1,9}){1,3}",
        ) {
            let server = if insecure { Server::Insecure } else { Server::Sha256(digest) };
            let address = if unix { Address::Unix(path.into()) } else { Address::Tcp { host, port } };
            let uri = CapUri { server, address, service };
            prop_assert_eq!(uri.to_string().parse::<CapUri>().unwrap(), uri);
        }
    }
}
