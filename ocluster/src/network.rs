//! A connection that does what `capnp-rpc` by itself leaves out.
//!
//! It sends the service's id with its bootstrap message. And every call gets its answer: where the other end calls a call
//! off, `capnp-rpc` would drop it without a word, but then neither end could ever forget it, nor use its number again. So
//! the call runs to its end, and the answer says `canceled`. What may wait for long asks by [`asked`] to be told.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use capnp::any_pointer;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::TryFutureExt;
use tokio::sync::watch;

/// Wraps a network of two parties.
pub(crate) struct WithServiceId<N> {
    inner: N,
    service: Rc<[u8]>,
}

impl<N> WithServiceId<N> {
    /// Asks the other party for `service`.
    pub(crate) fn new(inner: N, service: &[u8]) -> Self {
        Self { inner, service: service.into() }
    }

    fn link(inner: Box<dyn Connection<Side>>, service: Rc<[u8]>) -> Box<dyn Connection<Side>> {
        Box::new(Link { inner: Rc::new(RefCell::new(inner)), service, calls: Rc::default() })
    }
}

/// However a connection ends, its end is a loss of the connection.
pub(crate) fn lost(error: capnp::Error) -> capnp::Error {
    match error.kind {
        capnp::ErrorKind::Disconnected => error,
        _ => capnp::Error::disconnected(error.to_string()),
    }
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for WithServiceId<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        Some(Self::link(self.inner.connect(host_id)?, self.service.clone()))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, capnp::Error> {
        let service = self.service.clone();
        Promise::from_future(self.inner.accept().map_ok(move |inner| Self::link(inner, service)))
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        Promise::from_future(self.inner.drive_until_shutdown().map_err(lost))
    }
}

/// Whether a call was called off.
#[derive(Default)]
pub(crate) struct CallOff(watch::Sender<bool>);

impl CallOff {
    /// Waits until it was.
    pub(crate) async fn called_off(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|off| *off).await;
    }
}

thread_local! {
    /// The call whose parameters were looked at last.
    static LOOKED_AT: RefCell<Option<Rc<CallOff>>> = const { RefCell::new(None) };
}

/// Has `look` look at a call's parameters; gives what tells of the call's being called off, too. One that came over no
/// connection is never called off so.
pub(crate) fn asked<T>(look: impl FnOnce() -> T) -> (T, Rc<CallOff>) {
    LOOKED_AT.set(None);
    let seen = look();
    (seen, LOOKED_AT.take().unwrap_or_default())
}

/// A call that takes note of its being looked at: `capnp-rpc` does not tell its servers which call it is that they serve.
struct Asked {
    inner: Box<dyn IncomingMessage>,
    off: Rc<CallOff>,
}

impl IncomingMessage for Asked {
    fn get_body(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        LOOKED_AT.set(Some(self.off.clone()));
        self.inner.get_body()
    }
}

/// The calls of the other end, by their numbers.
#[derive(Default)]
struct Calls {
    /// Those without an answer.
    unanswered: HashMap<u32, Rc<CallOff>>,
    /// Those of them that were called off, with the message that said so.
    called_off: HashMap<u32, Box<dyn IncomingMessage>>,
    /// Messages to be looked at before any that come later.
    ready: VecDeque<Box<dyn IncomingMessage>>,
}

impl Calls {
    /// Takes a message in; gives it back unless its time is later.
    fn receive(
        &mut self,
        received: Box<dyn IncomingMessage>,
    ) -> capnp::Result<Option<Box<dyn IncomingMessage>>> {
        let root = received.get_body()?.get_as::<message::Reader<'_>>()?;
        let received: Box<dyn IncomingMessage> = match root.which() {
            Ok(message::Call(Ok(call))) => {
                let off = Rc::<CallOff>::default();
                self.unanswered.insert(call.get_question_id(), off.clone());
                Box::new(Asked { inner: received, off })
            }
            Ok(message::Finish(Ok(finish)))
                if self.unanswered.contains_key(&finish.get_question_id()) =>
            {
                let number = finish.get_question_id();
                if let Some(off) = self.unanswered.get(&number) {
                    off.0.send_replace(true);
                }
                self.called_off.insert(number, received);
                return Ok(None);
            }
            _ => received,
        };
        if self.ready.is_empty() {
            return Ok(Some(received));
        }
        self.ready.push_back(received);
        Ok(self.ready.pop_front())
    }

    /// The call has an answer, after which nothing need be said of it if `done`; says whether it was called off.
    fn answer(&mut self, number: u32, done: bool) -> bool {
        self.unanswered.remove(&number);
        let Some(finish) = self.called_off.remove(&number) else { return false };
        if !done {
            self.ready.push_back(finish);
        }
        true
    }
}

struct Link {
    inner: Rc<RefCell<Box<dyn Connection<Side>>>>,
    service: Rc<[u8]>,
    calls: Rc<RefCell<Calls>>,
}

impl Connection<Side> for Link {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.borrow().get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let inner = self.inner.borrow_mut().new_outgoing_message(first_segment_word_size);
        Box::new(Outgoing { inner, service: self.service.clone(), calls: self.calls.clone() })
    }

    fn receive_incoming_message(
        &mut self,
    ) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let (inner, calls) = (self.inner.clone(), self.calls.clone());
        Promise::from_future(async move {
            if let Some(message) = calls.borrow_mut().ready.pop_front() {
                return Ok(Some(message));
            }
            loop {
                let receiving = inner.borrow_mut().receive_incoming_message();
                let Some(message) = receiving.await.map_err(lost)? else { return Ok(None) };
                let now = calls.borrow_mut().receive(message).map_err(lost)?;
                if now.is_some() {
                    return Ok(now);
                }
            }
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), capnp::Error>) {
        self.inner.borrow_mut().new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        self.inner.borrow_mut().shutdown(result)
    }
}

struct Outgoing {
    inner: Box<dyn OutgoingMessage>,
    service: Rc<[u8]>,
    calls: Rc<RefCell<Calls>>,
}

impl Outgoing {
    /// Puts the service's id into a bootstrap message (an empty one stays out), and says of a call that was called off that it was.
    fn complete(&mut self) -> capnp::Result<()> {
        let root = self.inner.get_body()?.get_as::<message::Builder<'_>>()?;
        match root.which() {
            Ok(message::Bootstrap(Ok(bootstrap))) if !self.service.is_empty() => {
                // A text that need not be UTF-8, as servers in OCaml read it.
                let id = capnp::text::Reader(&self.service);
                bootstrap.init_deprecated_object_id().set_as(id)?;
            }
            Ok(message::Return(Ok(answer))) => {
                let answer = answer.into_reader();
                let (number, done) = (answer.get_answer_id(), answer.get_no_finish_needed());
                let with_capabilities = match answer.which() {
                    Ok(capnp_rpc::rpc_capnp::return_::Results(Ok(results))) => {
                        !results.get_cap_table()?.is_empty()
                    }
                    _ => false,
                };
                // Capabilities in an answer are the other end's to release, so it must see them.
                if self.calls.borrow_mut().answer(number, done) && !with_capabilities {
                    let root = self.inner.get_body()?.init_as::<message::Builder<'_>>();
                    let mut answer = root.init_return();
                    answer.set_answer_id(number);
                    answer.set_release_param_caps(false);
                    answer.set_no_finish_needed(done);
                    answer.set_canceled(());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<any_pointer::Builder<'_>> {
        self.inner.get_body()
    }

    fn get_body_as_reader(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.inner.get_body_as_reader()
    }

    fn send(mut self: Box<Self>) -> (Promise<(), capnp::Error>, Rc<Builder<HeapAllocator>>) {
        if let Err(error) = self.complete() {
            tracing::error!("failed to complete a message: {error}");
        }
        self.inner.send()
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.inner.take()
    }

    fn size_in_words(&self) -> usize {
        self.inner.size_in_words()
    }
}
