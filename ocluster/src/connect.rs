//! Connects to a service.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use capnp::capability::FromClientHook;
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem, twoparty};
use futures::io::{BufReader, BufWriter};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::cut::{Cuttable, Stream};
use crate::error::{CallError, ConnectError};
use crate::identity::Identity;
use crate::network::WithServiceId;
use crate::pin::PinnedServer;
use crate::uri::{Address, CapUri, Server};

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// Longest time until the connection stands, TLS and all.
    pub timeout: Duration,
    /// How long a connection may be silent before it is asked whether it is still there; a tenth of it between the asking.
    pub keepalive: Duration,
    /// Most bytes of one message, and of what is read in it.
    pub largest_message: usize,
}

impl Default for Options {
    /// 30 seconds, a minute, 64 MiB.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            largest_message: 64 << 20,
        }
    }
}

/// A connection. Dropping it closes it, whoever still holds what came over it.
pub struct Session {
    bootstrap: capnp::capability::Client,
    driver: JoinHandle<Result<(), capnp::Error>>,
    disconnector: Option<Disconnector<Side>>,
    stream: Cuttable,
}

impl Session {
    /// The service, as the interface that it has.
    pub(crate) fn service<T: FromClientHook>(&self) -> T {
        T::new(self.bootstrap.as_client_hook().add_ref())
    }

    /// Waits until the connection is lost.
    pub async fn lost(&mut self) {
        // Whether it ended well or by a panic, it has ended.
        let _ = (&mut self.driver).await;
    }

    /// Says goodbye and closes the connection.
    pub async fn close(mut self) -> Result<(), CallError> {
        match self.disconnector.take() {
            Some(disconnector) => Ok(disconnector.await?),
            None => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stream.cut();
    }
}

/// Connects to the service that `uri` names. Must be called in a [`tokio::task::LocalSet`].
///
/// The service is asked for at once, and whether it is there is known when it is first called.
pub async fn connect(uri: &CapUri, options: &Options) -> Result<Session, ConnectError> {
    let stream = tokio::time::timeout(options.timeout, open(uri, options));
    let stream = stream.await.map_err(|_| ConnectError::TimedOut {
        address: uri.address.clone(),
        seconds: options.timeout.as_secs(),
    })??;
    Ok(speak(stream, uri, options))
}

async fn open(uri: &CapUri, options: &Options) -> Result<Box<dyn Stream>, ConnectError> {
    let address = || uri.address.clone();
    let failed = |source| ConnectError::Connect { address: address(), source };
    let stream: Box<dyn Stream> = match &uri.address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(failed)?;
            keep_alive(&stream, options.keepalive).map_err(failed)?;
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
    };
    let Server::Sha256(digest) = uri.server else { return Ok(stream) };
    let pinned = PinnedServer::new(digest);
    let identity = Identity::fresh().map_err(ConnectError::Key)?;
    let tls = |source| ConnectError::Tls { address: address(), source };
    let config = pinned.config(identity).map_err(|error| tls(io::Error::other(error)))?;
    // The name is neither sent nor looked at.
    let name = ServerName::try_from("capnp").expect("it is a name");
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(match pinned.turned_away() {
            Some(found) => ConnectError::WrongServer {
                address: address(),
                found: URL_SAFE_NO_PAD.encode(found),
            },
            None => tls(source),
        }),
    }
}

/// Has the system notice when the other end is gone, and send what is written at once.
fn keep_alive(stream: &TcpStream, idle: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let interval = (idle / 10).max(Duration::from_secs(1));
    let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(6);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // While something that was written waits for its receipt, nothing is asked, and the system may try for a quarter of an hour.
    crate::system::give_up_after(&socket, idle + interval * 6)
}

/// Reads messages as `options` allow.
pub(crate) fn reader_options(options: &Options) -> ReaderOptions {
    let mut reader = ReaderOptions::new();
    reader.traversal_limit_in_words(Some(options.largest_message / 8)).nesting_limit(64);
    reader
}

/// Begins to speak over `stream`. Must be called in a [`tokio::task::LocalSet`].
pub(crate) fn speak(stream: Box<dyn Stream>, uri: &CapUri, options: &Options) -> Session {
    let stream = Cuttable::new(stream);
    let (read, write) = (stream.clone(), stream.clone());
    let network = twoparty::VatNetwork::new(
        BufReader::with_capacity(32 << 10, read.compat()),
        BufWriter::with_capacity(32 << 10, write.compat_write()),
        Side::Client,
        reader_options(options),
    );
    let mut system = RpcSystem::new(Box::new(WithServiceId::new(network, &uri.service)), None);
    let bootstrap: capnp::capability::Client = system.bootstrap(Side::Server);
    let disconnector = Some(system.get_disconnector());
    Session { bootstrap, driver: tokio::task::spawn_local(system), disconnector, stream }
}
