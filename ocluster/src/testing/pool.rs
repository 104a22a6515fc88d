//! The pool: jobs that wait, workers that wait, and what was seen of both.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tokio::sync::oneshot;

use super::faults::{Call, Fault, Faults};
use crate::cut::Cuttable;
use crate::job_descr::{Action, JobDescr};
use crate::schema_capnp::{job, job_descr, worker};

/// A submitted job that no worker has.
pub(super) struct Item {
    pub(super) number: u64,
    /// The description as it travels.
    pub(super) message: Vec<u8>,
    /// Told which job of which worker it became.
    pub(super) taken: oneshot::Sender<job::Client>,
}

/// A registered worker.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) capacity: i32,
    pub(super) worker: worker::Client,
    pub(super) active: Cell<bool>,
    pub(super) wanted: Cell<bool>,
    pub(super) waiting: RefCell<Option<oneshot::Sender<Item>>>,
    pub(super) popped: Cell<u64>,
    pub(super) connection: Cuttable,
}

/// What the scheduler knows.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) members: RefCell<BTreeMap<String, Rc<Member>>>,
    pub(super) items: RefCell<VecDeque<Item>>,
    pub(super) violations: RefCell<Vec<String>>,
    pub(super) faults: RefCell<Faults>,
    pub(super) submitted: Cell<u64>,
    pub(super) registrations: Cell<u64>,
    pub(super) queues: Cell<usize>,
    pub(super) tickets: Cell<usize>,
    pub(super) connections: RefCell<BTreeMap<u64, Cuttable>>,
    pub(super) next_connection: Cell<u64>,
    pub(super) messages: Cell<u64>,
}

/// Adds to a count.
pub(super) fn count(cell: &Cell<u64>) -> u64 {
    cell.set(cell.get() + 1);
    cell.get()
}

impl Pool {
    /// Takes note of something that the protocol does not allow, and gives the error that the other end gets.
    pub(super) fn violation(&self, text: impl Into<String>) -> capnp::Error {
        let text = text.into();
        self.violations.borrow_mut().push(text.clone());
        capnp::Error::failed(text)
    }

    /// Has a planned fault happen to a call on `connection`, if one is due.
    pub(super) async fn fault(&self, call: Call, connection: &Cuttable) -> capnp::Result<()> {
        let fault = self.faults.borrow_mut().take(call);
        match fault {
            None => Ok(()),
            Some(Fault::Fail) => Err(capnp::Error::failed(format!("{call:?} fails, as planned"))),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::Drop) => {
                connection.cut();
                std::future::pending().await
            }
        }
    }

    /// Puts a job in the queue; gives the end that learns who takes it, and the job's number.
    pub(super) fn submit(
        &self,
        descr: &JobDescr,
        urgent: bool,
    ) -> (u64, oneshot::Receiver<job::Client>) {
        let (taken, receiver) = oneshot::channel();
        let number = count(&self.submitted);
        let item = Item { number, message: encode(descr), taken };
        let mut items = self.items.borrow_mut();
        if urgent {
            items.push_front(item)
        } else {
            items.push_back(item)
        }
        drop(items);
        self.assign();
        (number, receiver)
    }

    /// Gives waiting jobs to waiting workers.
    pub(super) fn assign(&self) {
        let members = self.members.borrow();
        let ready = |member: &&Rc<Member>| {
            member.active.get()
                && member.wanted.get()
                && member.waiting.borrow().as_ref().is_some_and(|waiting| !waiting.is_closed())
        };
        while !self.items.borrow().is_empty() {
            // The one with the fewest jobs so far.
            let Some(member) =
                members.values().filter(ready).min_by_key(|member| member.popped.get())
            else {
                return;
            };
            let (waiting, item) = (member.waiting.take(), self.items.borrow_mut().pop_front());
            if let (Some(waiting), Some(item)) = (waiting, item)
                && let Err(item) = waiting.send(item)
            {
                self.items.borrow_mut().push_front(item);
            }
        }
    }

    /// Forgets a job that still waits; says whether it did.
    pub(super) fn forget(&self, number: u64) -> bool {
        let mut items = self.items.borrow_mut();
        let at = items.iter().position(|item| item.number == number);
        at.and_then(|at| items.remove(at)).is_some()
    }
}

/// The description as it travels. A job of unknown kind gets its number in the place of the union's tag.
pub(super) fn encode(descr: &JobDescr) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let known = match descr.action {
        Action::Unknown(_) => {
            JobDescr { action: Action::Custom { kind: String::new() }, ..descr.clone() }
        }
        _ => descr.clone(),
    };
    known.write(message.init_root::<job_descr::Builder<'_>>()).expect("it can be written");
    let canonical = message.into_reader().canonicalize().expect("it is a message");
    let mut bytes = capnp::Word::words_to_bytes(&canonical).to_vec();
    if let Action::Unknown(number) = descr.action {
        // Behind the pointer to the root.
        bytes[8..10].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

/// Has `read` read a description.
pub(super) fn decode<T>(
    bytes: &[u8],
    read: impl FnOnce(job_descr::Reader<'_>) -> capnp::Result<T>,
) -> capnp::Result<T> {
    let segments = [bytes];
    let segments = capnp::message::SegmentArray::new(&segments);
    let reader = capnp::message::Reader::new(segments, capnp::message::ReaderOptions::new());
    read(reader.get_root()?)
}
