//! What the agent knows about a pod besides its object and the runtime's state.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use super::backoff::{self, Backoff};
use crate::admission::Rejection;

/// How long a pull's or a start's own error, or how a container ended, is shown before the back-off takes its
/// place.
pub const ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(5);

/// A container that could not be made, or whose image could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    pub retry_at: Timestamp,
    pub delay: SignedDuration,
}

/// A step of the whole pod that failed and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    pub message: String,
    pub retry_at: Timestamp,
    pub delay: SignedDuration,
}

impl StepFailure {
    /// The next failure after `before`, with the delay doubled from one second up to 16 (a watch cuts it
    /// short).
    pub fn after(before: Option<&StepFailure>, message: String, now: Timestamp) -> StepFailure {
        let doubled = before.map_or(SignedDuration::from_secs(1), |before| before.delay * 2);
        let delay = doubled.min(SignedDuration::from_secs(16));
        StepFailure { message, retry_at: backoff::add(now, delay), delay }
    }
}

/// What probes have found out about one running instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    pub started: Option<bool>,
    pub ready: Option<bool>,
    /// Why the instance shall end.
    pub failed: Option<Failed>,
}

/// What was asked of a running instance and did not succeed, so that it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    StartupProbe,
    LivenessProbe,
    PostStartHook,
}

impl Failed {
    /// As upstream says it in the event `Killing`.
    pub fn text(self) -> &'static str {
        match self {
            Self::StartupProbe => "failed startup probe",
            Self::LivenessProbe => "failed liveness probe",
            Self::PostStartHook => "FailedPostStartHook",
        }
    }

    /// Seconds between SIGTERM and SIGKILL that a probe has of its own (KEP-2238).
    pub fn grace_s(self, container: &Container) -> Option<i64> {
        let probe = match self {
            Self::StartupProbe => container.startup_probe.as_ref(),
            Self::LivenessProbe => container.liveness_probe.as_ref(),
            Self::PostStartHook => None,
        };
        probe?.termination_grace_period_seconds
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Unprepared,
    Ready,
    Failed(StepFailure),
}

/// What was announced and the runtime's own status says only a moment later; nothing means that any answer
/// will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// It runs no more.
    pub end: bool,
    /// The kernel killed it for its memory.
    pub oom: bool,
}

impl Expected {
    pub const END: Expected = Expected { end: true, oom: false };
    pub const OOM: Expected = Expected { end: false, oom: true };

    pub fn and(self, other: Expected) -> Expected {
        Expected { end: self.end || other.end, oom: self.oom || other.oom }
    }
}

/// A container or sandbox that the runtime is asked about until its answer is what was announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    pub expected: Expected,
    /// `None`: at once.
    pub ask_at: Option<Timestamp>,
    pub pause: SignedDuration,
    /// This container's name is busy until the end is seen.
    pub busy: Option<String>,
}

impl Unsettled {
    const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(2);
    const LAST_PAUSE: SignedDuration = SignedDuration::from_secs(5);

    /// After a failed question, or one whose answer left this outstanding: the next comes after twice the
    /// pause. `false` where there is nothing more to wait for. An end always comes true; a process that was
    /// killed for its memory need not be one that the status tells of, so that this is given up in the end.
    pub fn postpone(&mut self, outstanding: Option<Expected>, now: Timestamp) -> bool {
        let patient = self.pause < Self::LAST_PAUSE;
        self.pause = (self.pause * 2).clamp(Self::FIRST_PAUSE, Self::LAST_PAUSE);
        self.ask_at = Some(backoff::add(now, self.pause));
        match outstanding {
            Some(left) => {
                self.expected = left;
                left.end || (left.oom && patient)
            }
            None => true,
        }
    }
}

/// Whether the node takes the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Not judged yet; why the last try came to no verdict.
    Unasked(Option<StepFailure>),
    #[default]
    Taken,
    Rejected(Rejection),
}

#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub admission: Admission,
    /// When this agent (or one before it) first saw the pod: `status.startTime`.
    pub start_time: Option<Timestamp>,
    /// By container name.
    pub restarts: BTreeMap<String, Backoff>,
    /// By container name.
    pub start_failures: BTreeMap<String, StartFailure>,
    /// Names of containers that a pull, a hook or a stop is under way for.
    pub busy: BTreeSet<String>,
    /// By container id.
    pub probes: BTreeMap<String, ProbeState>,
    /// By container or sandbox id.
    pub unsettled: BTreeMap<String, Unsettled>,
    /// By id of a running container: what it was given, where that may not be what its specification says
    /// now.
    pub applied: BTreeMap<String, ResourceRequirements>,
    /// By container id.
    pub resize_failures: BTreeMap<String, StepFailure>,
    /// By container id: why the runtime could not start the program.
    pub run_errors: BTreeMap<String, String>,
    /// By container id: the text that ended containers left.
    pub termination_messages: BTreeMap<String, String>,
    pub volumes: Volumes,
    /// Where claims' volumes lie, once they are ready.
    pub claims: crate::volumes::ClaimPaths,
    pub sandbox_failure: Option<StepFailure>,
    pub teardown_failure: Option<StepFailure>,
    /// The sandbox and its network have been taken down for good.
    pub sandbox_stopped: bool,
    /// The pod was seen Succeeded or Failed once: nothing of it runs again, whatever its status says later.
    pub ended: bool,
    /// The pod ran past its active deadline.
    pub deadline_exceeded: bool,
    /// Restart counts that the API server remembers, where the runtime has forgotten them.
    pub known_restarts: BTreeMap<String, u32>,
}

impl StartFailure {
    /// The next failure after `before`: 10 s, doubled up to 5 min.
    pub fn after(
        before: Option<&StartFailure>,
        reason: &str,
        message: String,
        now: Timestamp,
    ) -> StartFailure {
        let delay = before.map_or(backoff::INITIAL, |before| (before.delay * 2).min(backoff::MAX));
        StartFailure {
            reason: reason.to_owned(),
            message,
            at: now,
            retry_at: backoff::add(now, delay),
            delay,
        }
    }

    /// `(reason, message)` of the waiting state at `now`; a failed pull turns into its back-off.
    pub fn shown(&self, image: &str, now: Timestamp) -> (String, String) {
        if self.reason == "ErrImagePull" && now >= self.back_off_shown_at() {
            let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", self.message);
            return ("ImagePullBackOff".to_owned(), message);
        }
        (self.reason.clone(), self.message.clone())
    }

    /// When the status changes by itself.
    pub fn back_off_shown_at(&self) -> Timestamp {
        backoff::add(self.at, ERROR_SHOWN.min(self.delay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_asked_for_without_end_and_a_kill_for_memory_for_some_seconds() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut ask = |unsettled: &mut Unsettled, left: Option<Expected>| {
            let more = unsettled.postpone(left, now);
            let before = std::mem::replace(&mut now, unsettled.ask_at.unwrap());
            assert!(now > before && now.duration_since(before) <= Unsettled::LAST_PAUSE);
            more
        };
        let mut end = Unsettled { expected: Expected::END, ..Default::default() };
        assert!((0..1000).all(|_| ask(&mut end, Some(Expected::END))));
        assert!((0..1000).all(|_| ask(&mut end, None)), "the runtime was away");
        assert!(!ask(&mut end, Some(Expected::default())));
        let mut oom = Unsettled { expected: Expected::OOM, ..Default::default() };
        assert_eq!((0..1000).take_while(|_| ask(&mut oom, Some(Expected::OOM))).count(), 13);
    }
}
