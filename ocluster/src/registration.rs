//! Where a worker presents itself.

use std::future::Future;

use crate::connect::Session;
use crate::error::CallError;
use crate::queue::QueueClient;
use crate::schema_capnp::registration;
use crate::worker::WorkerClient;

/// A pool that workers register with.
#[derive(Clone)]
pub struct RegistrationClient(registration::Client);

impl RegistrationClient {
    /// The service of `session`, which must be a registration.
    pub fn of(session: &Session) -> Self {
        Self(session.service())
    }

    /// Registers `worker` by a name that no other worker of the pool has, with the number of jobs it does at once.
    ///
    /// The queue may be used at once. The future ends when the pool has answered, with the queue as it is then: what is asked of
    /// that one takes no detour.
    pub fn register(
        &self,
        name: &str,
        worker: WorkerClient,
        capacity: u32,
    ) -> (QueueClient, impl Future<Output = Result<QueueClient, CallError>> + use<>) {
        let mut request = self.0.register_request();
        let mut params = request.get();
        params.set_name(name);
        params.set_worker(worker.0);
        params.set_capacity(i32::try_from(capacity).unwrap_or(i32::MAX));
        let sent = request.send();
        let queue = QueueClient(sent.pipeline.get_queue());
        let answer = async move { Ok(QueueClient(sent.promise.await?.get()?.get_queue()?)) };
        (queue, answer)
    }
}
