//! A connection that sends the service's id with its bootstrap message, which `capnp-rpc` by itself leaves out.

use std::rc::Rc;

use capnp::any_pointer;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, FlowController, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::TryFutureExt;

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
        let inner = self.inner.connect(host_id)?;
        Some(Box::new(Link { inner, service: self.service.clone() }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, capnp::Error> {
        let service = self.service.clone();
        Promise::from_future(self.inner.accept().map_ok(move |inner| {
            let link: Box<dyn Connection<Side>> = Box::new(Link { inner, service });
            link
        }))
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        Promise::from_future(self.inner.drive_until_shutdown().map_err(lost))
    }
}

struct Link {
    inner: Box<dyn Connection<Side>>,
    service: Rc<[u8]>,
}

impl Connection<Side> for Link {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        let inner = self.inner.new_outgoing_message(first_segment_word_size);
        Box::new(Outgoing { inner, service: self.service.clone() })
    }

    fn receive_incoming_message(
        &mut self,
    ) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        Promise::from_future(self.inner.receive_incoming_message().map_err(lost))
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), capnp::Error>) {
        self.inner.new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        self.inner.shutdown(result)
    }
}

struct Outgoing {
    inner: Box<dyn OutgoingMessage>,
    service: Rc<[u8]>,
}

impl Outgoing {
    /// Puts the service's id into a bootstrap message; an empty one stays out.
    fn complete(&mut self) -> capnp::Result<()> {
        let root = self.inner.get_body()?.get_as::<message::Builder<'_>>()?;
        if let Ok(message::Bootstrap(Ok(bootstrap))) = root.which()
            && !self.service.is_empty()
        {
            // A text that need not be UTF-8, as servers in OCaml read it.
            let id = capnp::text::Reader(&self.service);
            bootstrap.init_deprecated_object_id().set_as(id)?;
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
            tracing::error!("failed to put the service's id into a message: {error}");
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
