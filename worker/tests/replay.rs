//! What a real scheduler said, said again: our worker's answers have the shape of the real worker's.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

mod common;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::{OwnedSegments, read_message};
use capnp_rpc::rpc_capnp::{message, message_target, return_};
use common::{Numbers, Running, config};
use obuild_worker::agent::Executor;
use obuild_worker::job::Outcome;
use obuild_worker::job_log::JobLog;
use obuilder_core::Cancel;
use ocluster::{Action, JobDescr};

type Message = Reader<OwnedSegments>;

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ocluster/tests/recorded")
}

/// Recorded messages, each with its bytes.
fn messages(name: &str) -> Vec<(Message, Vec<u8>)> {
    let bytes = std::fs::read(recorded().join(name)).unwrap();
    let mut rest = &bytes[..];
    let mut all = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        let message = read_message(&mut rest, ReaderOptions::new()).unwrap();
        all.push((message, before[..before.len() - rest.len()].to_vec()));
    }
    all
}

/// Says what the recorded jobs have said.
#[derive(Default)]
struct Recorded {
    /// The log of the job that began last.
    log: Arc<Mutex<Option<JobLog>>>,
    /// Set when a job that was called off may end.
    let_go: Arc<(Mutex<bool>, Condvar)>,
}

impl Executor for Recorded {
    fn run(&self, job: &JobDescr, log: &JobLog, cancel: &Cancel) -> Outcome {
        self.log.lock().unwrap().replace(log.clone());
        let Action::Obuilder { spec } = &job.action else { panic!("{job:?}") };
        let spec = String::from_utf8(spec.clone()).unwrap();
        let said = |name: &str| {
            let output = std::fs::read_to_string(recorded().join(name)).unwrap();
            let (_, said) = output.split_once("Building on w1\n").unwrap();
            said.to_owned()
        };
        if spec.contains("echo hello") {
            let said = said("client-ok.output.txt");
            let (said, result) = said.split_once("Job succeeded\n").unwrap();
            log.write(said.as_bytes());
            Outcome::Succeeded(result.split('"').nth(1).unwrap().to_owned())
        } else if spec.contains("exit 3") {
            let said = said("client-failing.output.txt");
            let (said, _) = said.split_once("Failed: ").unwrap();
            let at = said.trim_end().rfind('\n').unwrap() + 1;
            log.write(&said.as_bytes()[..at]);
            Outcome::Failed(said[at..].trim_end().to_owned())
        } else {
            log.write(said("client-cancelled.output.txt").as_bytes());
            assert!(cancel.wait_timeout(Duration::from_secs(120)), "the job is cancelled");
            // Were it faster than the scheduler's words, its end would be the answer to questions that the scheduler calls off.
            let held = self.let_go.0.lock().unwrap();
            let bound = Duration::from_secs(120);
            drop(self.let_go.1.wait_timeout_while(held, bound, |free| !*free).unwrap());
            Outcome::Cancelled
        }
    }
}

/// What matters of a message of the worker's: calls with their targets and capabilities, returns with their kind.
fn shape(message: &Message) -> Option<String> {
    let mut text = String::new();
    match message.get_root::<message::Reader<'_>>().unwrap().which().unwrap() {
        message::Bootstrap(bootstrap) => {
            let bootstrap = bootstrap.unwrap();
            let id: capnp::text::Reader<'_> =
                bootstrap.get_deprecated_object_id().get_as().unwrap();
            write!(text, "bootstrap {} of {} bytes", bootstrap.get_question_id(), id.len())
                .unwrap();
        }
        message::Call(call) => {
            let call = call.unwrap();
            // By which number it is asked is the asker's business.
            write!(text, "call ").unwrap();
            match call.get_target().unwrap().which().unwrap() {
                message_target::ImportedCap(id) => write!(text, "import {id}").unwrap(),
                message_target::PromisedAnswer(answer) => {
                    let answer = answer.unwrap();
                    let depth = answer.get_transform().unwrap().len();
                    write!(text, "answer {} at {depth}", answer.get_question_id()).unwrap();
                }
            }
            let caps = call.get_params().unwrap().get_cap_table().unwrap();
            let (interface, method) = (call.get_interface_id(), call.get_method_id());
            write!(text, " method {interface}.{method} with {} capabilities", caps.len()).unwrap();
        }
        message::Return(answer) => {
            let answer = answer.unwrap();
            write!(text, "return {} ", answer.get_answer_id()).unwrap();
            match answer.which().unwrap() {
                return_::Results(results) => {
                    let caps = results.unwrap().get_cap_table().unwrap().len();
                    write!(text, "results with {caps} capabilities").unwrap();
                }
                return_::Exception(error) => {
                    let error = error.unwrap();
                    let (kind, reason) = (error.get_type().unwrap(), error.get_reason().unwrap());
                    write!(text, "{kind:?}: {}", reason.to_str().unwrap()).unwrap();
                }
                return_::Canceled(()) => text.push_str("canceled"),
                _ => text.push_str("something else"),
            }
        }
        message::Finish(_) | message::Release(_) => return None,
        _ => text.push_str("something else"),
    }
    Some(text)
}

/// What was asked, in order, and how often each number has been answered.
#[derive(Default)]
struct Seen {
    questions: Vec<u32>,
    answers: HashMap<u32, usize>,
    shapes: Vec<String>,
}

impl Seen {
    fn note(&mut self, message: &Message) {
        match message.get_root::<message::Reader<'_>>().unwrap().which().unwrap() {
            message::Bootstrap(one) => {
                self.questions.push(one.unwrap().get_question_id());
            }
            message::Call(one) => {
                self.questions.push(one.unwrap().get_question_id());
            }
            message::Return(one) => {
                *self.answers.entry(one.unwrap().get_answer_id()).or_default() += 1
            }
            _ => {}
        }
        self.shapes.extend(shape(message));
    }
}

struct Peer {
    stream: TcpStream,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        std::thread::spawn({
            let seen = seen.clone();
            move || {
                while let Ok(message) = read_message(&mut reader, ReaderOptions::new()) {
                    seen.0.lock().unwrap().note(&message);
                    seen.1.notify_all();
                }
            }
        });
        Self { stream, seen }
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + Duration::from_secs(120);
        let mut seen = self.seen.0.lock().unwrap();
        while !wanted(&seen) {
            let left = end.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| {
                panic!("the worker does not {what}; it said {:#?}", seen.shapes)
            });
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }
}

/// Where among all questions of the real worker those are that it asked by the number `id`.
fn places(original: &[(Message, Vec<u8>)], id: u32) -> Vec<usize> {
    let asked = original.iter().filter_map(|(message, _)| {
        match message.get_root::<message::Reader<'_>>().unwrap().which().unwrap() {
            message::Bootstrap(one) => Some(one.unwrap().get_question_id()),
            message::Call(one) => Some(one.unwrap().get_question_id()),
            _ => None,
        }
    });
    asked.enumerate().filter(|(_, other)| *other == id).map(|(place, _)| place).collect()
}

/// Makes the message `bytes`, which is a return of one segment, one to the question `id`.
fn set_answer_id(bytes: &mut [u8], id: u32) {
    let pointer = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // A pointer to a struct: where it begins, in words behind the pointer, and how many words of data it has.
    let target = |at: usize| at + 8 + 8 * usize::try_from((pointer(at) as u32) >> 2).unwrap();
    let data = |at: usize| 8 * usize::from((pointer(at) >> 32) as u16);
    // Behind the length of the segment is the pointer to the message, whose first pointer leads to the return.
    let answer = target(target(8) + data(8));
    bytes[answer..answer + 4].copy_from_slice(&id.to_le_bytes());
}

/// The number that a call has for its first parameter: of `Job.log`, where to start.
fn first_number(call: &capnp_rpc::rpc_capnp::call::Reader<'_>) -> u64 {
    let mut alone = capnp::message::Builder::new_default();
    let content = call.get_params().unwrap().get_content();
    // What holds capabilities or none at all is no call for a log.
    if call.get_method_id() != 0 || alone.set_root(content).is_err() {
        return 0;
    }
    let words = alone.into_reader().canonicalize().unwrap_or_default();
    let first = words.get(1).map(|word| capnp::Word::words_to_bytes(std::slice::from_ref(word)));
    let number = first.map_or(0, |bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
    u64::try_from(number).unwrap_or(0)
}

/// Says each message when the worker has said what comes before it.
fn replay(
    peer: &mut Peer,
    log: &Mutex<Option<JobLog>>,
    theirs: &[(Message, Vec<u8>)],
    original: &[(Message, Vec<u8>)],
) {
    let (mut returned, mut asked, mut finished) = (HashMap::new(), HashMap::new(), HashMap::new());
    let next = |counts: &mut HashMap<u32, usize>, id: u32| {
        let count = counts.entry(id).or_default();
        *count += 1;
        *count
    };
    for (message, bytes) in theirs {
        let mut bytes = bytes.clone();
        match message.get_root::<message::Reader<'_>>().unwrap().which().unwrap() {
            message::Return(answer) => {
                let id = answer.unwrap().get_answer_id();
                let nth = next(&mut returned, id);
                let place = places(original, id)[nth - 1];
                peer.wait("ask", |seen| seen.questions.len() > place);
                let ours = peer.seen.0.lock().unwrap().questions[place];
                set_answer_id(&mut bytes, ours);
            }
            message::Call(call) => {
                let call = call.unwrap();
                let id = call.get_question_id();
                let nth = next(&mut asked, id);
                peer.wait("answer", |seen| seen.answers.get(&id).copied().unwrap_or(0) >= nth - 1);
                let start = first_number(&call);
                // The real scheduler asked for what it knew to be there; ours may not have got so far.
                for _ in 0..2000 {
                    if log.lock().unwrap().as_ref().is_none_or(|log| log.len() >= start) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            message::Finish(finish) => {
                let id = finish.unwrap().get_question_id();
                let nth = next(&mut finished, id);
                if !is_called_off(original, id, nth) {
                    peer.wait("answer", |seen| {
                        seen.answers.get(&id).is_some_and(|count| *count >= nth)
                    });
                }
            }
            _ => {}
        }
        peer.stream.write_all(&bytes).unwrap();
    }
}

/// Whether the real worker's answer to the call came only because the call was called off.
fn is_called_off(original: &[(Message, Vec<u8>)], id: u32, nth: usize) -> bool {
    let mut answers = original.iter().filter_map(|(message, _)| {
        match message.get_root::<message::Reader<'_>>().unwrap().which().unwrap() {
            message::Return(answer) => {
                Some(answer.unwrap()).filter(|one| one.get_answer_id() == id)
            }
            _ => None,
        }
    });
    let answer = answers.nth(nth - 1);
    answer.is_none_or(|answer| match answer.which().unwrap() {
        return_::Canceled(()) => true,
        return_::Exception(error) => {
            error.unwrap().get_reason().unwrap().to_str().unwrap() == "Build cancelled"
        }
        _ => false,
    })
}

#[test]
fn our_worker_answers_a_real_scheduler_as_the_real_worker_did() {
    let (theirs, original) =
        (messages("worker.from-scheduler.bin"), messages("worker.to-scheduler.bin"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // As many bytes as the real one's id, and none of them UTF-8.
    let uri = format!("capnp://insecure@{}/{}8", listener.local_addr().unwrap(), "_".repeat(42));
    let executor = Recorded::default();
    let (log, let_go) = (executor.log.clone(), executor.let_go.clone());
    let _agent = Running::with(config(&uri.parse().unwrap(), "w1", 1), executor);
    let mut peer = Peer::new(listener.accept().unwrap().0);
    replay(&mut peer, &log, &theirs, &original);
    let expected: Vec<_> = original.iter().filter_map(|(message, _)| shape(message)).collect();
    let all = expected.iter().filter(|one| one.starts_with("return")).count();
    peer.wait("answer everything", |seen| seen.answers.values().sum::<usize>() >= all);
    *let_go.0.lock().unwrap() = true;
    let_go.1.notify_all();
    peer.wait("say everything", |seen| seen.shapes.len() >= expected.len());
    let said = peer.seen.0.lock().unwrap().shapes.clone();
    // Calls in their order. Answers in no order, as which comes first is a matter of time.
    let calls = |all: &[String]| {
        all.iter().filter(|one| !one.starts_with("return")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(calls(&said), calls(&expected));
    let called_off: Vec<_> =
        expected.iter().filter_map(|one| one.strip_suffix("canceled")).collect();
    let answers = |all: &[String]| {
        // Whether a job's end, or the last words of its log, or the call's being called off comes first is a matter of time as well.
        let same = |one: &String| {
            let one = one.replace("Failed: Build cancelled", "canceled");
            let late = one.strip_suffix("results with 0 capabilities");
            match late.filter(|call| called_off.contains(call)) {
                Some(call) => format!("{call}canceled"),
                None => one,
            }
        };
        let mut answers: Vec<_> =
            all.iter().filter(|one| one.starts_with("return")).map(same).collect();
        answers.sort();
        answers
    };
    assert_eq!(answers(&said), answers(&expected));
}

#[test]
fn garbled_messages_do_not_harm_the_worker() {
    let theirs = std::fs::read(recorded().join("worker.from-scheduler.bin")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("capnp://insecure@{}/eHl6", listener.local_addr().unwrap());
    let agent = Running::with(config(&uri.parse().unwrap(), "w1", 1), common::Script::default());
    let mut numbers = Numbers::new(0x5eed);
    for round in 0..200 {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = theirs.clone();
        for _ in 0..=numbers.below(8) {
            let at = numbers.below(bytes.len());
            match round % 3 {
                0 => bytes[at] ^= 1 << numbers.below(8),
                1 => bytes[at] = u8::try_from(numbers.below(256)).unwrap(),
                _ => drop(bytes.splice(at..(at + 8).min(bytes.len()), [0xff; 8])),
            }
        }
        let end = numbers.below(bytes.len()) + 1;
        // The worker may have hung up by now.
        let _ = stream.write_all(&bytes[..end]);
    }
    // It still comes and asks for the service.
    let peer = Peer::new(listener.accept().unwrap().0);
    peer.wait("ask", |seen| !seen.questions.is_empty());
    agent.order(|control| control.stop());
    drop(peer);
    agent.left();
}
