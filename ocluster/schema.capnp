@0x8378b104cef5b2eb;
# The wire protocol of OCluster. Names, ids and ordinals are the protocol's and must stay; the words are ours.
#
# `src/schema_capnp.inc` is generated from this file: `OCLUSTER_GENERATE=1 cargo test -p ocluster --test schema`.

struct DockerBuild {
  dockerfile :union {
    contents @0 :Text;           # the Dockerfile itself
    path @5 :Text;               # where it is in the context
  }
  pushTarget @1 :Text;           # `repo:tag` to push the image to; empty for none
  pushUser @2 :Text;             # empty to push without logging in
  pushPassword @3 :Text;
  buildArgs @4 :List(Text);      # each for a --build-arg
  squash @6 :Bool;               # --squash
  buildkit @7 :Bool;             # build by BuildKit
  includeGit @8 :Bool;           # the context has its .git
  ulimit @9 :List(Text);         # each for a --ulimit
}

struct OBuilder {
  spec @0 :Text;
}

struct Custom {
  kind @0 :Text;
  payload @1 :AnyPointer;
}

struct Secret {
  id @0 :Text;
  value @1 :Text;
}

struct JobDescr {
  action :union {
    dockerBuild @0 :DockerBuild;
    obuilder @4 :OBuilder;
    custom @6 :Custom;
  }
  cacheHint @1 :Text;            # jobs of one hint go to one worker where that can be
  repository @2 :Text;           # a Git URL
  commits @3 :List(Text);        # the first is checked out, the others are merged into it; none: an empty context
  secrets @5 :List(Secret);
}

interface Job {
  # Served by the worker. When its last reference goes, the job is cancelled.

  log @0 (start :Int64) -> (log :Data, next :Int64);
  # Waits until there is something at `start` (which counts from the end when negative); nothing means the log has ended.

  result @1 () -> (output :Text);
  # Waits for the end. A job that fails is an exception.

  cancel @2 () -> ();
}

interface Queue {
  # Served by the scheduler, one for each registered worker.

  pop @0 (job :Job) -> (descr :JobDescr);
  # Waits for a job, which the worker answers for by the capability it gives here.

  setActive @1 (active :Bool) -> ();
}

struct Metric {
  contentType @0 :Text;
  data @1 :Text;
}

struct AdditionalMetric {
  union {
    metric @0 :Metric;
    notReported @1 :Void;
  }
}

interface Worker {
  # Served by the worker.

  enum MetricsSource {
    agent @0;                    # the worker's own
    host @1;                     # those of the machine's Prometheus node exporter
  }

  metrics @0 (source :MetricsSource) -> (contentType :Text, data :Text);

  selfUpdate @1 () -> ();
  # Finishes the running jobs and restarts. Never returns: success is the loss of the connection.

  additionalMetric @2 (source :Text) -> (metric :AdditionalMetric);
}

interface Registration {
  register @0 (name :Text, worker :Worker, capacity :Int32) -> (queue :Queue);
}

interface Ticket {
  job @0 () -> (job :Job);
  # A promise until a worker has taken the job.

  cancel @1 () -> ();
}

interface Submission {
  submit @0 (pool :Text, descr :JobDescr, urgent :Bool) -> (ticket :Ticket);
}

struct WorkerInfo {
  name @0 :Text;
  active @1 :Bool;
  connected @2 :Bool;
}

interface Progress {
  report @0 (status :Text) -> ();
}

interface PoolAdmin {
  show @0 () -> (state :Text);
  workers @1 () -> (workers :List(WorkerInfo));
  setActive @2 (worker :Text, active :Bool, autoCreate :Bool) -> ();
  worker @3 (worker :Text) -> (worker :Worker);
  update @4 (worker :Text, progress :Progress) -> ();
  setRate @5 (id :Text, rate :Float64) -> ();
  forget @6 (worker :Text) -> ();
  drain @7 (worker :Text, progress :Progress) -> ();
}

interface Admin {
  pools @0 () -> (names :List(Text));
  pool @1 (name :Text) -> (pool :PoolAdmin);
  addClient @2 (id :Text) -> (cap :Submission);
  removeClient @3 (id :Text) -> (cap :Submission);
  listClients @4 () -> (clients :List(Text));
}
