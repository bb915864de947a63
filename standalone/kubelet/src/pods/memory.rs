//! What the agent knows about a pod besides its object and the runtime's state.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::backoff::{self, Backoff};
use crate::admission::Rejection;

/// How long a pull's own error is shown before the back-off takes its place.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(5);

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
    /// The next failure after `before`, with the delay doubled from one second up to 16 (a watch cuts it short).
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
    /// The startup or liveness probe gave up; the text says which and why.
    pub failed: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Unprepared,
    Ready,
    Failed(StepFailure),
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
    /// By container id: the text that ended containers left.
    pub termination_messages: BTreeMap<String, String>,
    pub volumes: Volumes,
    pub sandbox_failure: Option<StepFailure>,
    pub teardown_failure: Option<StepFailure>,
    /// The sandbox and its network have been taken down for good.
    pub sandbox_stopped: bool,
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
        backoff::add(self.at, PULL_ERROR_SHOWN.min(self.delay))
    }
}
