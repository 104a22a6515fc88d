//! A server's end of a connection: looks at what comes before `capnp-rpc` does, which would give its bootstrap
//! capability to anybody.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::capability::Promise;
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Connection, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::TryFutureExt;

use crate::network::lost;

/// Tells of each message's root.
pub(super) type Look = Rc<RefCell<dyn FnMut(message::Reader<'_>)>>;

/// Wraps a network of two parties.
pub(super) struct Guarded<N> {
    pub(super) inner: N,
    pub(super) look: Look,
}

impl<N: VatNetwork<Side>> VatNetwork<Side> for Guarded<N> {
    fn connect(&mut self, host_id: Side) -> Option<Box<dyn Connection<Side>>> {
        let inner = self.inner.connect(host_id)?;
        Some(Box::new(Link { inner, look: self.look.clone() }))
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, capnp::Error> {
        let look = self.look.clone();
        Promise::from_future(
            self.inner
                .accept()
                .map_ok(|inner| Box::new(Link { inner, look }) as Box<dyn Connection<Side>>),
        )
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        Promise::from_future(self.inner.drive_until_shutdown().map_err(lost))
    }
}

struct Link {
    inner: Box<dyn Connection<Side>>,
    look: Look,
}

impl Connection<Side> for Link {
    fn get_peer_vat_id(&self) -> Side {
        self.inner.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        self.inner.new_outgoing_message(first_segment_word_size)
    }

    fn receive_incoming_message(
        &mut self,
    ) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let look = self.look.clone();
        let received = self.inner.receive_incoming_message();
        Promise::from_future(async move {
            let received = received.await.map_err(lost)?;
            if let Some(message) = &received {
                (look.borrow_mut())(message.get_body()?.get_as()?);
            }
            Ok(received)
        })
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        self.inner.shutdown(result)
    }
}
