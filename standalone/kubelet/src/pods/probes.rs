//! Startup, readiness and liveness probes: one task a running container that has any, with its own timers.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use skerry_client::EventType;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    hooks::{self, Outcome, Target},
    mailbox::Mailbox,
};
use crate::agent::Agent;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// A verdict that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    pub container_id: String,
    pub kind: ProbeKind,
    pub passed: bool,
}

/// Counts results in a row against a probe's thresholds.
#[derive(Clone, Debug)]
pub struct Thresholds {
    success: u32,
    failure: u32,
    row: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Thresholds {
    pub fn of(probe: &Probe) -> Thresholds {
        let at_least_one = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Thresholds {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            row: 0,
            last: None,
            verdict: None,
        }
    }

    /// The verdict if this result changes it.
    pub fn count(&mut self, passed: bool) -> Option<bool> {
        self.row = if self.last == Some(passed) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let needed = if passed { self.success } else { self.failure };
        if self.row < needed || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        Some(passed)
    }
}

/// Probes of one running instance; dropping it ends them.
pub struct Prober {
    _tasks: JoinSet<()>,
    /// Ends the probes that could have the container killed.
    judged: CancellationToken,
}

impl Prober {
    /// Starts what the container asks for; `None` where it has no probes. `started`: the startup probe passed
    /// before.
    pub fn start(
        agent: &Arc<Agent>,
        mailbox: &Arc<Mailbox>,
        pod: &Arc<Pod>,
        container: &Container,
        target: Target,
        started: bool,
    ) -> Option<Prober> {
        let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
        if probes.iter().all(|probe| probe.is_none()) {
            return None;
        }
        let one = |kind| Task {
            agent: agent.clone(),
            mailbox: mailbox.clone(),
            pod: pod.clone(),
            container: container.name.clone(),
            target: target.clone(),
            kind,
        };
        let [startup, readiness, liveness] =
            [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness].map(one);
        let judged = CancellationToken::new();
        let (over, container) = (judged.clone(), container.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Some(probe) = container.startup_probe.as_ref().filter(|_| !started)
                && over.run_until_cancelled(startup.until_decided(probe)).await != Some(true)
            {
                return;
            }
            let readiness = async {
                if let Some(probe) = &container.readiness_probe {
                    readiness.forever(probe).await;
                }
            };
            let liveness = async {
                if let Some(probe) = &container.liveness_probe {
                    let _ = over.run_until_cancelled(liveness.forever(probe)).await;
                }
            };
            tokio::join!(readiness, liveness);
        });
        Some(Prober { _tasks: tasks, judged })
    }

    /// From now on nothing is asked that would have the container killed: it is on its way out.
    pub fn only_readiness(&self) {
        self.judged.cancel();
    }
}

struct Task {
    agent: Arc<Agent>,
    mailbox: Arc<Mailbox>,
    pod: Arc<Pod>,
    container: String,
    target: Target,
    kind: ProbeKind,
}

impl Task {
    /// Runs the startup probe until it passes or gives up.
    async fn until_decided(&self, probe: &Probe) -> bool {
        let mut thresholds = Thresholds::of(probe);
        let mut timer = timer(probe);
        loop {
            timer.tick().await;
            if let Some(passed) = thresholds.count(self.once(probe).await) {
                self.report(passed);
                return passed;
            }
        }
    }

    async fn forever(&self, probe: &Probe) {
        let mut thresholds = Thresholds::of(probe);
        let mut timer = timer(probe);
        loop {
            timer.tick().await;
            if let Some(passed) = thresholds.count(self.once(probe).await) {
                self.report(passed);
            }
        }
    }

    fn report(&self, passed: bool) {
        let report = ProbeReport { container_id: self.target.container_id.clone(), kind: self.kind, passed };
        self.mailbox.tell(|inbox| inbox.probes.push(report));
    }

    async fn once(&self, probe: &Probe) -> bool {
        let limit = Duration::from_secs(seconds(probe.timeout_seconds, 1).max(1));
        let title = self.kind.title();
        let message = match hooks::probe(&self.agent, &self.target, probe, limit).await {
            Outcome::Passed => return true,
            Outcome::Warned(text) => {
                let message = format!("{title} probe warning: {text}");
                self.tell("ProbeWarning", message);
                return true;
            }
            Outcome::Failed(text) => format!("{title} probe failed: {text}"),
            Outcome::Errored(text) => format!("{title} probe errored: {text}"),
        };
        self.tell("Unhealthy", message);
        false
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.agent.recorder.pod(&self.pod, Some(&self.container), EventType::Warning, reason, message);
    }
}

fn timer(probe: &Probe) -> tokio::time::Interval {
    let delay = Duration::from_secs(seconds(probe.initial_delay_seconds, 0));
    let period = Duration::from_secs(seconds(probe.period_seconds, 10).max(1));
    let mut timer = tokio::time::interval_at(Instant::now() + delay, period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer
}

fn seconds(value: Option<i32>, default: u64) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(success: i32, failure: i32) -> Thresholds {
        Thresholds::of(&Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Default::default()
        })
    }

    #[test]
    fn a_verdict_needs_its_number_of_results_in_a_row() {
        let mut thresholds = thresholds(2, 3);
        let verdicts = [true, false, true, true, true, false, false, true, false, false, false, false]
            .map(|passed| thresholds.count(passed));
        let mut expected = [None; 12];
        expected[3] = Some(true);
        expected[10] = Some(false);
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn nonsense_thresholds_count_as_the_defaults() {
        let mut thresholds = thresholds(0, -1);
        assert_eq!(thresholds.count(true), Some(true));
        assert_eq!([false, false, false].map(|passed| thresholds.count(passed)), [None, None, Some(false)]);
    }
}
