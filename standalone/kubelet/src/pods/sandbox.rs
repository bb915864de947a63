//! The worker's steps for the whole pod: volumes and sandbox.

use jiff::Timestamp;

use super::{
    memory::{StepFailure, Volumes},
    worker::Worker,
};
use crate::{
    cgroups,
    cri::SandboxRecord,
    spec::{
        fields::Addresses,
        resources::PodLimits,
        sandbox::{self, SandboxSettings},
    },
    volumes,
};
use skerry_client::EventType;

impl Worker {
    /// Makes volumes ready, or brings their files up to date.
    pub(super) async fn prepare_volumes(&mut self) {
        let references = self.objects.references(&self.agent).await;
        let addresses = Addresses { pod_ips: self.pod_ips(), host_ips: self.agent.config.host_ips() };
        let (root, pod) = (self.agent.config.root_dir.clone(), self.pod.clone());
        let (allocatable, local) = (self.agent.allocatable(), self.agent.local_volumes());
        let prepared = tokio::task::spawn_blocking(move || {
            let sources = volumes::Sources {
                pod: &pod,
                references: &references,
                addresses: &addresses,
                allocatable,
                local: &local,
            };
            volumes::prepare(&root, &sources)
        });
        let failure = match prepared.await {
            Ok(Ok(claims)) => {
                self.memory.claims = claims;
                self.memory.volumes = Volumes::Ready;
                return;
            }
            Ok(Err(error)) => skerry_vocabulary::chain(&error),
            Err(error) => error.to_string(),
        };
        self.event(None, EventType::Warning, "FailedMount", failure.clone());
        let before = match &self.memory.volumes {
            Volumes::Failed(before) => Some(before),
            Volumes::Unprepared | Volumes::Ready => None,
        };
        self.memory.volumes = Volumes::Failed(StepFailure::after(before, failure, Timestamp::now()));
    }

    pub(super) async fn create_sandbox(&mut self, attempt: u32, changed: bool) {
        if changed && self.memory.sandbox_failure.is_none() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.event(None, EventType::Normal, "SandboxChanged", message);
        }
        for old in self.runtime.sandboxes.clone() {
            if let Err(error) = self.agent.cri.stop_sandbox(&old.id).await {
                return self.fail_sandbox(error.runtime_message());
            }
        }
        self.forget_old_sandboxes().await;
        let asked = match self.sandbox_config(attempt) {
            Ok(config) => self.runtime_handler().await.map(|handler| (config, handler)),
            Err(text) => Err(text),
        };
        let (config, handler) = match asked {
            Ok(asked) => asked,
            Err(text) => {
                let message = format!("Failed to create pod sandbox: {text}");
                self.event(None, EventType::Warning, "FailedCreatePodSandBox", message.clone());
                return self.fail_sandbox(message);
            }
        };
        if let Err(error) = tokio::fs::create_dir_all(&config.log_directory).await {
            return self.fail_sandbox(format!("create log folder {}: {error}", config.log_directory));
        }
        let asked = Timestamp::now();
        self.agent.note_time(&self.id.uid, |times| {
            (times.sandbox_asked, times.sandbox_ready) = (Some(asked), None);
        });
        let id = match self.agent.cri.run_sandbox(config, &handler).await {
            Ok(id) => id,
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", error.runtime_message());
                self.event(None, EventType::Warning, "FailedCreatePodSandBox", message.clone());
                self.clear_failed_sandboxes().await;
                return self.fail_sandbox(message);
            }
        };
        self.agent.own(&id, &self.mailbox);
        if let Err(text) = self.limit_whole_pod() {
            let message = format!("Failed to create pod sandbox: {text}");
            self.event(None, EventType::Warning, "FailedCreatePodSandBox", message.clone());
            self.agent.disown(&id);
            self.clear_failed_sandboxes().await;
            return self.fail_sandbox(message);
        }
        match self.agent.cri.sandbox(&id).await {
            Ok(record) => {
                self.runtime.put_sandbox(record);
                let now = Timestamp::now();
                self.agent.note_time(&self.id.uid, |times| times.sandbox_ready = Some(now));
                self.memory.sandbox_failure = None;
                // What the old sandbox refused is tried at once in this one.
                self.memory.start_failures.retain(|_, failure| failure.reason != "CreateContainerError");
            }
            Err(error) => {
                // It counts as dead: the next one takes a name of its own, and this one goes.
                let ended = SandboxRecord { id, attempt, created_ns: 0, ready: false, ips: Vec::new() };
                self.runtime.put_sandbox(ended);
                self.fail_sandbox(error.runtime_message());
            }
        }
        self.refresh_downward_files().await;
    }

    /// Limits that the pod has as a whole stand before its first container runs.
    fn limit_whole_pod(&self) -> Result<(), String> {
        let limits = PodLimits::of(&self.pod);
        if limits.is_empty() {
            return Ok(());
        }
        cgroups::limit(&self.cgroup(), &limits).map_err(|error| format!("limit the pod as a whole: {error}"))
    }

    /// What the pod's RuntimeClass names: one of the runtimes that the node's containerd is set up with.
    async fn runtime_handler(&self) -> Result<String, String> {
        let name = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        match name.filter(|name| !name.is_empty()) {
            Some(name) => self.objects.runtime_class(name).await.map(|class| class.handler.clone()),
            None => Ok(String::new()),
        }
    }

    pub(super) fn sandbox_config(&self, attempt: u32) -> Result<k8s_cri::v1::PodSandboxConfig, String> {
        let agent = &self.agent;
        let settings = SandboxSettings {
            node_name: &agent.config.node_name,
            log_dir: &agent.config.pod_log_dir,
            cgroup_parent: &agent.config.cgroup_parent,
            systemd_cgroups: agent.runtime.systemd_cgroups,
            dns: crate::spec::dns::config(&self.pod, &agent.cluster_dns(), &agent.host_dns()),
            cluster_domain: &agent.config.cluster_domain,
        };
        sandbox::config(&self.pod, attempt, settings)
    }

    /// Volumes that tell the pod its own address could not do so before the sandbox was there.
    async fn refresh_downward_files(&mut self) {
        let spec = self.pod.spec.as_ref();
        let names_itself = spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
            .any(|volume| volume.downward_api.is_some() || volume.projected.is_some());
        if names_itself {
            self.prepare_volumes().await;
        }
    }

    /// Keeps the newest ended sandbox (its containers tell of the last state), removes older ones.
    async fn forget_old_sandboxes(&mut self) {
        let old: Vec<String> =
            self.runtime.sandboxes.iter().skip(1).map(|sandbox| sandbox.id.clone()).collect();
        for id in old {
            match self.agent.cri.remove_sandbox(&id).await {
                Ok(()) => {
                    self.agent.disown(&id);
                    self.runtime.sandboxes.retain(|sandbox| sandbox.id != id);
                    self.runtime.containers.retain(|container| container.sandbox_id != id);
                }
                Err(error) => tracing::warn!(pod = %self.id, %error, "old sandbox stays"),
            }
        }
    }

    /// A failed start can leave the sandbox's name reserved in the runtime: what it holds and we do not know
    /// goes.
    async fn clear_failed_sandboxes(&mut self) {
        let held = self.agent.cri.sandbox_ids(&self.id.uid).await.unwrap_or_default();
        for id in held {
            if self.runtime.sandboxes.iter().any(|sandbox| sandbox.id == id) {
                continue;
            }
            let cleared = match self.agent.cri.stop_sandbox(&id).await {
                Ok(()) => self.agent.cri.remove_sandbox(&id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = cleared {
                tracing::warn!(pod = %self.id, %error, "failed sandbox stays");
                // A higher attempt next time makes a name that is free.
                if let Ok(mut record) = self.agent.cri.sandbox(&id).await {
                    record.ready = false;
                    self.runtime.put_sandbox(record);
                }
            }
        }
    }

    fn fail_sandbox(&mut self, message: String) {
        let failure = StepFailure::after(self.memory.sandbox_failure.as_ref(), message, Timestamp::now());
        self.memory.sandbox_failure = Some(failure);
    }

    pub(super) async fn stop_sandbox(&mut self, id: &str) {
        match self.agent.cri.stop_sandbox(id).await {
            Ok(()) => {
                for sandbox in self.runtime.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                    sandbox.ready = false;
                }
                self.memory.sandbox_stopped = true;
                self.memory.teardown_failure = None;
            }
            Err(error) => {
                tracing::warn!(pod = %self.id, %error, "sandbox not stopped, trying again");
                let before = self.memory.teardown_failure.as_ref();
                let failure = StepFailure::after(before, error.runtime_message(), Timestamp::now());
                self.memory.teardown_failure = Some(failure);
            }
        }
    }
}
