//! Pods, runtime states and memories that tests of the pure core are written with.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    memory::{Memory, Volumes},
    resize::Room,
    view::View,
};
use crate::cri::{ContainerPhase, ContainerRecord, PodRuntime, SandboxRecord};

/// Second 0 of a test's time.
pub const START_S: i64 = 1_700_000_000;

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(START_S + seconds)
}

/// A pod and everything that decisions about it are made from.
pub struct Case {
    pub pod: Pod,
    pub runtime: PodRuntime,
    pub memory: Memory,
    pub room: Room,
    pub gone: bool,
    pub now: Timestamp,
}

impl Case {
    /// Volumes are ready, nothing runs.
    pub fn new(spec: Value) -> Case {
        let pod =
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec});
        let memory = Memory { volumes: Volumes::Ready, start_time: Some(at(0)), ..Default::default() };
        Case {
            pod: serde_json::from_value(pod).expect("a pod"),
            runtime: PodRuntime::default(),
            memory,
            room: Room::default(),
            gone: false,
            now: at(0),
        }
    }

    /// One container `a`.
    pub fn simple() -> Case {
        Case::new(json!({"containers": [{"name": "a", "image": "i"}]}))
    }

    pub fn policy(mut self, policy: &str) -> Case {
        self.pod.spec.as_mut().expect("a spec").restart_policy = Some(policy.to_owned());
        self
    }

    pub fn at(mut self, seconds: i64) -> Case {
        self.now = at(seconds);
        self
    }

    /// A ready sandbox `s<attempt>`.
    pub fn sandbox(mut self, attempt: u32) -> Case {
        self.runtime.put_sandbox(SandboxRecord {
            id: format!("s{attempt}"),
            attempt,
            created_ns: at(0).as_nanosecond() as i64,
            ready: true,
            ips: vec!["10.244.1.2".to_owned()],
        });
        self
    }

    pub fn sandbox_dead(mut self, attempt: u32) -> Case {
        self = self.sandbox(attempt);
        for sandbox in self.runtime.sandboxes.iter_mut().filter(|sandbox| sandbox.attempt == attempt) {
            sandbox.ready = false;
        }
        self
    }

    /// An instance in the newest sandbox.
    pub fn container(mut self, name: &str, attempt: u32, phase: ContainerPhase) -> Case {
        let sandbox_id = self.runtime.sandboxes.first().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let record = ContainerRecord {
            id: format!("{name}{attempt}"),
            name: name.to_owned(),
            attempt,
            sandbox_id,
            phase,
            created_ns: at(0).as_nanosecond() as i64,
            started_ns: at(0).as_nanosecond() as i64,
            finished_ns: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: "docker.io/library/i:latest".to_owned(),
            image_id: "sha256:1".to_owned(),
            spec_hash: String::new(),
            grace_s: None,
            log_path: String::new(),
            termination_file: String::new(),
            termination_policy: String::new(),
        };
        self.runtime.put_container(record);
        self
    }

    pub fn running(self, name: &str, attempt: u32) -> Case {
        self.container(name, attempt, ContainerPhase::Running)
    }

    /// Ended `seconds` after the start.
    pub fn exited(self, name: &str, attempt: u32, code: i32, seconds: i64) -> Case {
        let mut case = self.container(name, attempt, ContainerPhase::Exited);
        for record in case.runtime.containers.iter_mut().filter(|r| r.name == name && r.attempt == attempt) {
            record.exit_code = code;
            record.finished_ns = at(seconds).as_nanosecond() as i64;
        }
        case
    }

    /// The object is being deleted with this grace.
    pub fn deleted(mut self, grace_s: i64) -> Case {
        self.pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(grace_s)));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace_s);
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Memory)) -> Case {
        change(&mut self.memory);
        self
    }

    pub fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            runtime: &self.runtime,
            memory: &self.memory,
            room: self.room,
            gone: self.gone,
            now: self.now,
        }
    }
}
