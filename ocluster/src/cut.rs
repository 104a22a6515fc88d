//! A stream that can be cut from outside.
//!
//! `capnp-rpc` holds its streams for as long as anybody holds a capability of the other end. Whoever wants the connection
//! gone cuts the stream: it closes at once, and every call and capability learns that it is lost.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What bytes go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A stream until it is cut; the clones are handles on the same stream.
#[derive(Clone)]
pub(crate) struct Cuttable(Rc<RefCell<State>>);

struct State {
    stream: Option<Box<dyn Stream>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Cuttable {
    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Self(Rc::new(RefCell::new(State { stream: Some(stream), reader: None, writer: None })))
    }

    /// Closes the stream. Doing so again has no effect.
    pub(crate) fn cut(&self) {
        let (stream, wakers) = {
            let mut state = self.0.borrow_mut();
            (state.stream.take(), [state.reader.take(), state.writer.take()])
        };
        drop(stream);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn with<T>(
        &self,
        remember: impl FnOnce(&mut State),
        poll: impl FnOnce(Pin<&mut dyn Stream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut state = self.0.borrow_mut();
        remember(&mut state);
        match &mut state.stream {
            Some(stream) => poll(Pin::new(&mut **stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let waker = cx.waker().clone();
        self.with(|state| state.reader = Some(waker), |stream| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let waker = cx.waker().clone();
        self.with(|state| state.writer = Some(waker), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waker = cx.waker().clone();
        self.with(|state| state.writer = Some(waker), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let waker = cx.waker().clone();
        self.with(|state| state.writer = Some(waker), |stream| stream.poll_shutdown(cx))
    }
}
