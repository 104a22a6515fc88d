//! The scheduler's thread, and a test's handle on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capnp::capability::{Client, FromClientHook};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::io::{BufReader, BufWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::faults::{Call, Fault};
use super::guard::{Guarded, Look};
use super::listener::{Key, Listener};
use super::pool::{Pool, count};
use super::services::Services;
use crate::connect::{Options, reader_options};
use crate::cut::{Cuttable, Stream};
use crate::job_descr::JobDescr;
use crate::schema_capnp::{admin, registration, submission};
use crate::uri::{Address, CapUri};

/// How a scheduler is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// TLS on IPv4 loopback.
    Tls,
    /// TLS on IPv6 loopback.
    TlsV6,
    /// TLS over a Unix socket.
    TlsUnix(PathBuf),
    /// TCP without TLS.
    Insecure,
}

/// What is there right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Live {
    /// Connections.
    pub connections: usize,
    /// Queues that workers hold.
    pub queues: usize,
    /// Tickets that clients hold.
    pub tickets: usize,
    /// Jobs that no worker has.
    pub waiting: usize,
    /// Registrations so far.
    pub registrations: u64,
    /// Faults that have not happened yet.
    pub faults: usize,
    /// Messages received so far.
    pub messages: u64,
}

const SERVICES: [&[u8]; 3] =
    [b"\xffregistration\x00secret", b"\xfesubmission secret", b"\xfdadmin secret"];

type Order = Box<dyn FnOnce(&Rc<Pool>) + Send>;

/// A job that the scheduler itself has submitted: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted(pub u64);

/// A scheduler with one pool. Dropping it stops it, as a crash would.
pub struct Scheduler {
    key: Option<Key>,
    address: Address,
    uris: [CapUri; 3],
    pool: String,
    running: Option<(mpsc::UnboundedSender<Order>, JoinHandle<()>)>,
    /// Violations of former lives.
    past: Vec<String>,
}

impl Scheduler {
    /// Starts a scheduler with the pool `pool`.
    pub fn start(pool: &str, security: Security) -> Self {
        let tcp = |host: &str| Address::Tcp { host: host.into(), port: 0 };
        let (address, secure) = match security {
            Security::Tls => (tcp("127.0.0.1"), true),
            Security::TlsV6 => (tcp("::1"), true),
            Security::TlsUnix(path) => (Address::Unix(path), true),
            Security::Insecure => (tcp("127.0.0.1"), false),
        };
        let key = secure.then(Key::new);
        let (listener, running) = run(pool, &address, key.as_ref());
        let (server, address) = listener;
        let uri =
            |service: &[u8]| CapUri { server, address: address.clone(), service: service.to_vec() };
        let uris = SERVICES.map(uri);
        Self { key, address, uris, pool: pool.into(), running: Some(running), past: Vec::new() }
    }

    /// Where workers register.
    pub fn registration(&self) -> &CapUri {
        &self.uris[0]
    }

    /// Where clients submit.
    pub fn submission(&self) -> &CapUri {
        &self.uris[1]
    }

    /// Where administrators go.
    pub fn admin(&self) -> &CapUri {
        &self.uris[2]
    }

    /// Stops it, as a crash would: what was queued is forgotten.
    pub fn stop(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.drop_connections();
        self.past.extend(self.with(|pool| pool.violations.borrow().clone()));
        if let Some((orders, thread)) = self.running.take() {
            drop(orders);
            thread.join().expect("the scheduler does not panic");
        }
    }

    /// Starts it again, at the same address with the same key.
    pub fn start_again(&mut self) {
        self.running = Some(run(&self.pool, &self.address, self.key.as_ref()).1);
    }

    /// Has `fault` happen to the next `call` to which none else is due.
    pub fn plan(&self, call: Call, fault: Fault) {
        self.with(move |pool| pool.faults.borrow_mut().add(call, fault));
    }

    /// Submits a job, of a kind that no client could name if need be, which nobody will follow: it is released at once.
    pub fn submit(&self, descr: &JobDescr) -> Submitted {
        let descr = descr.clone();
        Submitted(self.with(move |pool| pool.submit(&descr, false).0))
    }

    /// Drops all connections.
    pub fn drop_connections(&self) {
        self.with(|pool| pool.connections.borrow().values().for_each(Cuttable::cut));
    }

    /// Drops the connection of one worker.
    pub fn drop_worker(&self, name: &str) {
        let name = name.to_owned();
        self.with(move |pool| {
            pool.members.borrow().get(&name).map(|member| member.connection.cut())
        });
    }

    /// Names of the workers that are there and want jobs.
    pub fn active_workers(&self) -> Vec<String> {
        let active = |pool: &Rc<Pool>| {
            let members = pool.members.borrow();
            members.values().filter(|m| m.active.get()).map(|m| m.name.clone()).collect()
        };
        self.with(active)
    }

    /// What is there.
    pub fn live(&self) -> Live {
        self.with(|pool| Live {
            connections: pool.connections.borrow().len(),
            queues: pool.queues.get(),
            tickets: pool.tickets.get(),
            waiting: pool.items.borrow().len(),
            registrations: pool.registrations.get(),
            faults: pool.faults.borrow().left(),
            messages: pool.messages.get(),
        })
    }

    /// Waits, for a while, until what is there is as wanted.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Live) -> bool) -> Live {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let live = self.live();
            if wanted(&live) {
                return live;
            }
            assert!(Instant::now() < end, "it never came to this: {what}; there is {live:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails when anybody broke the rules.
    ///
    /// # Panics
    /// With what was done.
    pub fn check(&self) {
        let mut all = self.past.clone();
        if self.running.is_some() {
            all.extend(self.with(|pool| pool.violations.borrow().clone()));
        }
        assert!(all.is_empty(), "the protocol was violated: {all:#?}");
    }

    fn with<T: Send + 'static>(&self, f: impl FnOnce(&Rc<Pool>) -> T + Send + 'static) -> T {
        let (sender, receiver) = std_mpsc::channel();
        let (orders, _) = self.running.as_ref().expect("it runs");
        let order: Order = Box::new(move |pool| drop(sender.send(f(pool))));
        assert!(orders.send(order).is_ok(), "the scheduler has died");
        receiver.recv().expect("the scheduler answers")
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Some((orders, thread)) = self.running.take() {
            let cut = |pool: &Rc<Pool>| pool.connections.borrow().values().for_each(Cuttable::cut);
            // What has died has no connections.
            let _ = orders.send(Box::new(cut));
            drop(orders);
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

type Started = ((crate::uri::Server, Address), (mpsc::UnboundedSender<Order>, JoinHandle<()>));

fn run(pool: &str, address: &Address, key: Option<&Key>) -> Started {
    let (orders, received) = mpsc::unbounded_channel();
    let (ready, started) = std_mpsc::channel();
    let (pool, address, key) = (pool.to_owned(), address.clone(), key.cloned());
    let main = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = LocalSet::new();
        local.block_on(&runtime.expect("a runtime can be had"), async move {
            if let Address::Unix(path) = &address {
                // What a former life has left.
                let _ = std::fs::remove_file(path);
            }
            let listener = Listener::bind(&address, key.as_ref()).await.expect("it can listen");
            let _ = ready.send((listener.server, listener.address.clone()));
            serve(&pool, listener, received).await;
        });
    };
    let thread = std::thread::Builder::new().name("scheduler".into()).spawn(main);
    let thread = thread.expect("a thread can be had");
    (started.recv().expect("it starts"), (orders, thread))
}

async fn serve(name: &str, listener: Listener, mut orders: mpsc::UnboundedReceiver<Order>) {
    let pool = Rc::new(Pool { name: name.into(), ..Pool::default() });
    let listener = Rc::new(listener);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => order(&pool),
                None => return,
            },
            stream = listener.accept() => {
                let (pool, listener) = (pool.clone(), listener.clone());
                tokio::task::spawn_local(async move {
                    match async { listener.let_in(stream?).await }.await {
                        Ok(stream) => speak(&pool, stream),
                        Err(error) => tracing::info!("a client was turned away: {error}"),
                    }
                });
            }
        }
    }
}

/// Serves a connection until its end.
fn speak(pool: &Rc<Pool>, stream: Box<dyn Stream>) {
    let number = count(&pool.next_connection);
    let stream = Cuttable::new(stream);
    let (read, write) = (stream.clone(), stream.clone());
    let network = twoparty::VatNetwork::new(
        BufReader::with_capacity(32 << 10, read.compat()),
        BufWriter::with_capacity(32 << 10, write.compat_write()),
        Side::Server,
        reader_options(&Options::default()),
    );
    let (asked, service) = oneshot::channel::<Result<usize, capnp::Error>>();
    let look = look(pool.clone(), asked);
    let connection = stream.clone();
    let owner = pool.clone();
    let bootstrap: Client = capnp_rpc::new_future_client(async move {
        let gone = |_| capnp::Error::disconnected("the connection is lost".into());
        let services = Services { pool: owner, connection };
        let hook = match service.await.map_err(gone)?? {
            0 => capnp_rpc::new_client::<registration::Client, _>(services).into_client_hook(),
            1 => capnp_rpc::new_client::<submission::Client, _>(services).into_client_hook(),
            _ => capnp_rpc::new_client::<admin::Client, _>(services).into_client_hook(),
        };
        Ok(Client::new(hook))
    });
    let system = RpcSystem::new(Box::new(Guarded { inner: network, look }), Some(bootstrap));
    let task = tokio::task::spawn_local(system);
    pool.connections.borrow_mut().insert(number, stream);
    let pool = pool.clone();
    tokio::task::spawn_local(async move {
        // However it ends.
        let _ = task.await;
        pool.connections.borrow_mut().remove(&number);
    });
}

/// Looks at what a client sends: which service it asks for, and whether it understands what it gets.
fn look(pool: Rc<Pool>, asked: oneshot::Sender<Result<usize, capnp::Error>>) -> Look {
    let mut asked = Some(asked);
    let services: HashMap<&[u8], usize> = SERVICES.into_iter().zip(0..).collect();
    Rc::new(RefCell::new(move |message: message::Reader<'_>| {
        count(&pool.messages);
        match message.which() {
            Ok(message::Bootstrap(Ok(bootstrap))) => {
                let id = bootstrap.get_deprecated_object_id().get_as::<capnp::text::Reader<'_>>();
                let found = id.ok().and_then(|id| services.get(id.as_bytes()).copied());
                let answer = found
                    .ok_or_else(|| pool.violation("somebody asks for a service that is not here"));
                match asked.take() {
                    Some(asked) => drop(asked.send(answer)),
                    None => drop(pool.violation("somebody asks for a second service")),
                }
            }
            Ok(message::Unimplemented(_)) => {
                drop(pool.violation("somebody did not understand a message"))
            }
            Ok(message::Bootstrap(Err(_))) | Err(_) => {
                drop(pool.violation("a message cannot be read"))
            }
            Ok(_) => {}
        }
    }))
}
