//! What the scheduler serves: registration and queues, submission and tickets, administration.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use capnp::Error;
use capnp::capability::FromClientHook;
use tokio::sync::oneshot;

use super::faults::Call;
use super::pool::{Member, Pool, count, decode};
use crate::cut::Cuttable;
use crate::job_descr::{JobDescr, text};
use crate::schema_capnp::{admin, job, pool_admin, queue, registration, submission, ticket};

/// One connection's view of the pool.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) pool: Rc<Pool>,
    pub(super) connection: Cuttable,
}

impl registration::Server for Services {
    async fn register(
        self: Rc<Self>,
        params: registration::RegisterParams,
        mut results: registration::RegisterResults,
    ) -> Result<(), Error> {
        self.pool.fault(Call::Register, &self.connection).await?;
        let params = params.get()?;
        let name = text(params.get_name()?)?;
        if name.is_empty() || !params.has_worker() {
            return Err(self.pool.violation("a worker registers without name or worker"));
        }
        if params.get_capacity() < 1 {
            return Err(self.pool.violation(format!("{name} registers with no capacity")));
        }
        if self.pool.members.borrow().contains_key(&name) {
            return Err(Error::failed("Worker already registered!".into()));
        }
        count(&self.pool.registrations);
        let member = Rc::new(Member {
            name: name.clone(),
            capacity: params.get_capacity(),
            worker: params.get_worker()?,
            active: Cell::new(true),
            wanted: Cell::new(true),
            waiting: RefCell::default(),
            popped: Cell::new(0),
            connection: self.connection.clone(),
        });
        self.pool.members.borrow_mut().insert(name, member.clone());
        self.pool.queues.set(self.pool.queues.get() + 1);
        let queue = Queue { services: (*self).clone(), member };
        results.get().set_queue(capnp_rpc::new_client(queue));
        Ok(())
    }
}

struct Queue {
    services: Services,
    member: Rc<Member>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let pool = &self.services.pool;
        pool.queues.set(pool.queues.get() - 1);
        pool.members.borrow_mut().remove(&self.member.name);
    }
}

impl queue::Server for Queue {
    async fn pop(
        self: Rc<Self>,
        params: queue::PopParams,
        mut results: queue::PopResults,
    ) -> Result<(), Error> {
        let pool = &self.services.pool;
        pool.fault(Call::Pop, &self.services.connection).await?;
        if !params.get()?.has_job() {
            return Err(pool.violation(format!("{} pops without a job", self.member.name)));
        }
        let job = params.get()?.get_job()?;
        if self.member.waiting.borrow().is_some() {
            return Err(pool.violation(format!("{} pops twice at once", self.member.name)));
        }
        let (sender, receiver) = oneshot::channel();
        self.member.waiting.replace(Some(sender));
        pool.assign();
        let (give, given) = oneshot::channel();
        let member = Rc::downgrade(&self.member);
        // As schedulers do, it goes on when the call is called off; the job is then lost to a worker that does not listen.
        tokio::task::spawn_local(async move {
            let Ok(item) = receiver.await else { return };
            if let Some(member) = member.upgrade() {
                count(&member.popped);
            }
            let _ = give.send(item.message);
            // Whoever submitted it may have gone; then nobody holds the job, and the worker is told.
            let _ = item.taken.send(job);
        });
        let message = given.await.map_err(|_| Error::failed("the pool has gone".into()))?;
        decode(&message, |descr| results.get().set_descr(descr))
    }

    async fn set_active(
        self: Rc<Self>,
        params: queue::SetActiveParams,
        _: queue::SetActiveResults,
    ) -> Result<(), Error> {
        self.services.pool.fault(Call::SetActive, &self.services.connection).await?;
        self.member.active.set(params.get()?.get_active());
        self.services.pool.assign();
        Ok(())
    }
}

impl submission::Server for Services {
    async fn submit(
        self: Rc<Self>,
        params: submission::SubmitParams,
        mut results: submission::SubmitResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let pool = text(params.get_pool()?)?;
        if pool != self.pool.name {
            return Err(Error::failed(format!(
                "Pool ID {pool:?} not one of {{{}}}",
                self.pool.name
            )));
        }
        let descr = JobDescr::read(params.get_descr()?)?;
        results.get().set_ticket(ticket(&self.pool, &descr, params.get_urgent()));
        Ok(())
    }
}

/// Submits a job and gives its ticket.
pub(super) fn ticket(pool: &Rc<Pool>, descr: &JobDescr, urgent: bool) -> ticket::Client {
    let (number, taken) = pool.submit(descr, urgent);
    let job: job::Client = capnp_rpc::new_future_client(async move {
        taken.await.map_err(|_| Error::failed("Ticket cancelled".into()))
    });
    pool.tickets.set(pool.tickets.get() + 1);
    capnp_rpc::new_client(Ticket { pool: pool.clone(), number, job })
}

struct Ticket {
    pool: Rc<Pool>,
    number: u64,
    job: job::Client,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pool.tickets.set(self.pool.tickets.get() - 1);
        self.pool.forget(self.number);
    }
}

impl ticket::Server for Ticket {
    async fn job(
        self: Rc<Self>,
        _: ticket::JobParams,
        mut results: ticket::JobResults,
    ) -> Result<(), Error> {
        results.get().set_job(self.job.clone());
        Ok(())
    }

    fn cancel(
        self: Rc<Self>,
        _: ticket::CancelParams,
        _: ticket::CancelResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let call =
            (!self.pool.forget(self.number)).then(|| self.job.cancel_request().send().promise);
        async move {
            match call {
                Some(call) => call.await.map(drop),
                None => Ok(()),
            }
        }
    }
}

impl admin::Server for Services {
    async fn pools(
        self: Rc<Self>,
        _: admin::PoolsParams,
        mut results: admin::PoolsResults,
    ) -> Result<(), Error> {
        results.get().init_names(1).set(0, &*self.pool.name);
        Ok(())
    }

    async fn pool(
        self: Rc<Self>,
        params: admin::PoolParams,
        mut results: admin::PoolResults,
    ) -> Result<(), Error> {
        let name = text(params.get()?.get_name()?)?;
        if name != self.pool.name {
            return Err(Error::failed(format!("Unknown pool {name:?}")));
        }
        results.get().set_pool(capnp_rpc::new_client((*self).clone()));
        Ok(())
    }
}

impl Services {
    fn member(&self, name: capnp::text::Reader<'_>) -> Result<Rc<Member>, Error> {
        let name = text(name)?;
        let member = self.pool.members.borrow().get(&name).cloned();
        member.ok_or_else(|| Error::failed(format!("Unknown worker {name:?}")))
    }
}

impl pool_admin::Server for Services {
    async fn show(
        self: Rc<Self>,
        _: pool_admin::ShowParams,
        mut results: pool_admin::ShowResults,
    ) -> Result<(), Error> {
        let members = self.pool.members.borrow();
        let lines = members.values().map(|m| format!("{} ({})\n", m.name, m.capacity));
        let state =
            format!("queue: {}\n{}", self.pool.items.borrow().len(), lines.collect::<String>());
        results.get().set_state(&*state);
        Ok(())
    }

    async fn workers(
        self: Rc<Self>,
        _: pool_admin::WorkersParams,
        mut results: pool_admin::WorkersResults,
    ) -> Result<(), Error> {
        let members = self.pool.members.borrow();
        let mut list = results.get().init_workers(u32::try_from(members.len()).unwrap_or(u32::MAX));
        for (at, member) in (0..).zip(members.values()) {
            let mut to = list.reborrow().get(at);
            to.set_name(&*member.name);
            to.set_active(member.active.get() && member.wanted.get());
            to.set_connected(true);
        }
        Ok(())
    }

    async fn worker(
        self: Rc<Self>,
        params: pool_admin::WorkerParams,
        mut results: pool_admin::WorkerResults,
    ) -> Result<(), Error> {
        let member = self.member(params.get()?.get_worker()?)?;
        results.get().set_worker(FromClientHook::new(member.worker.as_client_hook().add_ref()));
        Ok(())
    }

    async fn set_active(
        self: Rc<Self>,
        params: pool_admin::SetActiveParams,
        _: pool_admin::SetActiveResults,
    ) -> Result<(), Error> {
        let member = self.member(params.get()?.get_worker()?)?;
        member.wanted.set(params.get()?.get_active());
        self.pool.assign();
        Ok(())
    }
}
