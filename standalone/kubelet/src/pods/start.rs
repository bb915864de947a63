//! The worker's steps for one container: image, environment, mounts, create, start; and its end.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Container;

use super::{
    image_name,
    mailbox::Done,
    memory::{Expected, StepFailure},
    resize,
    worker::{Worker, container_of},
};
use crate::{
    agent::Agent,
    cri::{ContainerPhase, ContainerRecord, Cri, labels},
    hosts,
    spec::{
        container::{self, ContainerParts},
        env::{self, EnvSources},
        ephemeral,
        fields::Addresses,
        registry::Logins,
        resources::QosClass,
    },
    volumes,
};
use skerry_client::EventType;

/// What upstream keeps of a container's last words, bytes.
const TERMINATION_MESSAGE_LIMIT: usize = 4096;
/// How long the first container waits for the API server's own Service to be known.
const SERVICE_LIMIT: Duration = Duration::from_secs(2);
/// postStart hooks have no deadline of their own upstream; ours only guards against one that hangs for good.
const POST_START_LIMIT: Duration = Duration::from_secs(20 * 60);

/// `(reason, message)` of a waiting state.
type Refusal = (&'static str, String);

impl Worker {
    pub(super) async fn start_container(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.container_spec(name).map(Cow::into_owned) else { return };
        let Some(image) = self.image(&container).await else { return };
        if let Err((reason, message)) = self.try_start(&container, attempt, image).await {
            self.event(Some(name), EventType::Warning, "Failed", format!("Error: {message}"));
            self.fail_start(name, reason, message);
        }
    }

    pub(super) fn container_spec(&self, name: &str) -> Option<Cow<'_, Container>> {
        container_of(&self.pod, name)
    }

    /// The image if the node has it; otherwise a pull is started, or the failure noted.
    async fn image(&mut self, container: &Container) -> Option<k8s_cri::v1::Image> {
        let name = container.image.clone().unwrap_or_default();
        if let Err(error) = image_name::check(&name) {
            let message = format!("Failed to apply default image tag {name:?}: {error}");
            self.event(Some(&container.name), EventType::Warning, "InspectFailed", message.clone());
            self.event(
                Some(&container.name),
                EventType::Warning,
                "Failed",
                "Error: InvalidImageName".to_owned(),
            );
            self.fail_start(&container.name, "InvalidImageName", message);
            return None;
        }
        match self.agent.cri.image(&name).await {
            Ok(Some(image)) => {
                let now = Timestamp::now();
                self.agent.note_time(&self.id.uid, |times| times.image(&container.name, now));
                let message = format!("Container image \"{name}\" already present on machine");
                self.event(Some(&container.name), EventType::Normal, "Pulled", message);
                return Some(image);
            }
            Ok(None) => {}
            Err(error) => {
                self.fail_start(&container.name, "ImageInspectError", error.runtime_message());
                return None;
            }
        }
        if container.image_pull_policy.as_deref() == Some("Never") {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            self.event(Some(&container.name), EventType::Warning, "ErrImageNeverPull", message.clone());
            self.fail_start(&container.name, "ErrImageNeverPull", message);
            return None;
        }
        self.event(Some(&container.name), EventType::Normal, "Pulling", format!("Pulling image \"{name}\""));
        let logins = self.logins().await.of(&name);
        self.memory.busy.insert(container.name.clone());
        let (cri, mailbox, container) =
            (self.agent.cri.clone(), self.mailbox.clone(), container.name.clone());
        self.beside.spawn(async move {
            let outcome = pull(&cri, &name, logins).await;
            mailbox.tell(|inbox| inbox.done.push(Done::Pulled { name: container, image: name, outcome }));
        });
        None
    }

    /// What the pod's `imagePullSecrets` hold. Those that can't be had are told of; the pull is tried without
    /// them.
    async fn logins(&self) -> Logins {
        let mut logins = Logins::default();
        let asked = self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let asked: Vec<&str> = asked.map(|secret| secret.name.as_str()).collect();
        if asked.is_empty() {
            return logins;
        }
        let references = self.objects.references(&self.agent).await;
        let mut missing = Vec::new();
        for name in asked {
            match references.secrets.get(name).map(|secret| logins.add(secret)) {
                Some(Ok(())) => {}
                Some(Err(error)) => missing.push(error.to_string()),
                None => missing.push(name.to_owned()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event(None, EventType::Warning, "FailedToRetrieveImagePullSecret", message);
        }
        logins
    }

    pub(super) fn note_pull(&mut self, name: &str, image: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.memory.start_failures.remove(name);
                let message = format!("Successfully pulled image \"{image}\"");
                self.event(Some(name), EventType::Normal, "Pulled", message);
            }
            Err(text) => {
                let message = format!("failed to pull image \"{image}\": {text}");
                self.event(
                    Some(name),
                    EventType::Warning,
                    "Failed",
                    format!("Failed to pull image \"{image}\": {text}"),
                );
                self.event(Some(name), EventType::Warning, "Failed", "Error: ErrImagePull".to_owned());
                self.fail_start(name, "ErrImagePull", message);
            }
        }
    }

    async fn try_start(
        &mut self,
        container: &Container,
        attempt: u32,
        image: k8s_cri::v1::Image,
    ) -> Result<(), Refusal> {
        let config_error = |text: String| ("CreateContainerConfigError", text);
        container::verify_non_root(&self.pod, container, &image).map_err(config_error)?;
        let sandbox = self.runtime.ready_sandbox().cloned();
        let sandbox = sandbox.ok_or_else(|| config_error("the pod's sandbox has ended".to_owned()))?;
        let target = self.target_of(&container.name).map_err(config_error)?;
        let env = self.environment(container).await.map_err(config_error)?;
        let values: BTreeMap<String, String> = env.iter().cloned().collect();
        let root = &self.agent.config.root_dir;
        let mut mounts = volumes::mounts(root, &self.pod, &self.memory.claims, container, &|name| {
            values.get(name).cloned()
        })
        .map_err(|error| config_error(skerry_vocabulary::chain(&error)))?;
        let termination_file = self
            .own_files(container, attempt, &mut mounts)
            .map_err(|error| ("CreateContainerError", error))?;
        let parts = ContainerParts {
            attempt,
            image,
            env,
            mounts,
            log_path: format!("{}/{attempt}.log", container.name),
            termination_file,
            node_memory_bytes: self.agent.machine.memory_bytes,
            target,
        };
        let config = container::config(&self.pod, container, parts).map_err(config_error)?;
        let sandbox_config = self.sandbox_config(sandbox.attempt).map_err(config_error)?;
        let previous = self.runtime.latest(&container.name).cloned();
        let cri = self.agent.cri.clone();
        let created = cri.create_container(&sandbox.id, config, sandbox_config).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => {
                // Perhaps the sandbox has died, or what the call made is there without its answer.
                self.expect(&sandbox.id, Expected::default());
                self.clear_unknown_containers(&container.name).await;
                return Err(("CreateContainerError", error.runtime_message()));
            }
        };
        // Known from now on, whatever its status says: it must not run beside its successor.
        self.runtime.put_container(ContainerRecord::made(&id, &container.name, attempt, &sandbox.id));
        self.memory.applied.insert(id.clone(), container.resources.clone().unwrap_or_default());
        self.agent.own(&id, &self.mailbox);
        let message = format!("Created container: {}", container.name);
        self.event(Some(&container.name), EventType::Normal, "Created", message);
        let started = cri.start_container(&id).await;
        let record = cri.container(&id, &sandbox.id).await;
        if let Some(previous) = previous.filter(|previous| previous.phase == ContainerPhase::Exited) {
            let backoff = self.memory.restarts.entry(container.name.clone()).or_default();
            backoff.tried(previous.finished_at(), Timestamp::now());
        }
        match record {
            Ok(record) => self.note_container(record),
            Err(error) => {
                tracing::warn!(pod = %self.id, %error, "started container not read, asking again");
                self.expect(&id, Expected::default());
            }
        }
        self.forget_old_instances(&container.name).await;
        self.memory.start_failures.remove(&container.name);
        if let Err(error) = started {
            // The runtime keeps it as an ended container (StartError): it is the restart back-off's turn.
            let message = error.runtime_message();
            self.memory.run_errors.insert(id, message.clone());
            self.expect(&sandbox.id, Expected::default());
            self.event(Some(&container.name), EventType::Warning, "Failed", format!("Error: {message}"));
            return Ok(());
        }
        let message = format!("Started container {}", container.name);
        self.event(Some(&container.name), EventType::Normal, "Started", message);
        self.post_start(container, &id);
        Ok(())
    }

    /// The id of the container whose processes an ephemeral one shall see.
    fn target_of(&self, name: &str) -> Result<Option<String>, String> {
        let asked = ephemeral::find(&self.pod, name).and_then(|found| found.target_container_name.as_deref());
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(None) };
        let running = self.runtime.latest(asked).filter(|record| record.phase == ContainerPhase::Running);
        let id = running.map(|record| record.id.clone());
        id.map(Some).ok_or_else(|| format!("unable to find target container {asked:?}: it does not run"))
    }

    pub(super) async fn resize(&mut self, id: &str, name: &str) {
        let Some(container) = container_of(&self.pod, name) else { return };
        let wanted = container.resources.clone().unwrap_or_default();
        let node_memory_bytes = self.agent.machine.memory_bytes;
        let linux = resize::limits(&container, QosClass::of(&self.pod), node_memory_bytes);
        match self.agent.cri.update_container(id, linux).await {
            Ok(()) => {
                self.memory.applied.insert(id.to_owned(), wanted);
                self.memory.resize_failures.remove(id);
            }
            Err(error) => {
                tracing::warn!(pod = %self.id, %error, "container not resized, trying again");
                let before = self.memory.resize_failures.get(id);
                let failure = StepFailure::after(before, error.runtime_message(), Timestamp::now());
                self.memory.resize_failures.insert(id.to_owned(), failure);
                // Perhaps it has ended.
                self.expect(id, Expected::default());
            }
        }
    }

    fn post_start(&mut self, container: &Container, id: &str) {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let record = self.runtime.container(id).cloned();
        let (Some(hook), Some(record)) = (hook, record) else { return };
        self.memory.busy.insert(container.name.clone());
        let target = self.target(&record, container);
        let (agent, mailbox, name) = (self.agent.clone(), self.mailbox.clone(), container.name.clone());
        self.beside.spawn(async move {
            let failure = super::hooks::hook(&agent, &target, &hook, POST_START_LIMIT).await;
            let id = target.container_id;
            mailbox.tell(|inbox| inbox.done.push(Done::Hooked { name, id, failure }));
        });
    }

    async fn environment(&mut self, container: &Container) -> Result<Vec<(String, String)>, String> {
        let mut services = self.agent.service_env.clone();
        // Without them in time the container starts all the same: most never ask for the API server.
        let _ = tokio::time::timeout(SERVICE_LIMIT, services.wait_for(Option::is_some)).await.is_ok();
        let services = services.borrow().clone().unwrap_or_default();
        let references = self.objects.references(&self.agent).await;
        let addresses = Addresses { pod_ips: self.pod_ips(), host_ips: self.agent.config.host_ips() };
        let sources = EnvSources {
            pod: &self.pod,
            references: &references,
            addresses: &addresses,
            allocatable: self.agent.allocatable(),
            services: &services,
        };
        env::environment(container, &sources).map_err(|error| skerry_vocabulary::chain(&error))
    }

    /// The shared hosts file and the file for last words; returns the latter.
    fn own_files(
        &self,
        container: &Container,
        attempt: u32,
        mounts: &mut Vec<k8s_cri::v1::Mount>,
    ) -> Result<String, String> {
        let agent = &self.agent;
        let dir = volumes::pod_dir(&agent.config.root_dir, &self.pod);
        let failed =
            |path: &std::path::Path, error: std::io::Error| format!("write {}: {error}", path.display());
        std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, error))?;
        let mount = |container_path: &str, host_path: &std::path::Path| k8s_cri::v1::Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.display().to_string(),
            ..Default::default()
        };
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            let path = dir.join("etc-hosts");
            let node_hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            let text = hosts::text(&self.pod, &self.pod_ips(), &node_hosts, &agent.config.cluster_domain);
            hosts::write(&path, &text).map_err(|error| failed(&path, error))?;
            mounts.push(mount("/etc/hosts", &path));
        }
        let folder = dir.join("containers").join(&container.name);
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        let path = folder.join(format!("termination-{attempt}"));
        std::fs::write(&path, b"").map_err(|error| failed(&path, error))?;
        let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
        std::fs::set_permissions(&path, open).map_err(|error| failed(&path, error))?;
        mounts.push(mount(container::termination_path(container), &path));
        Ok(path.display().to_string())
    }

    /// An ended container's last words, or the end of its log where the policy says so and it failed.
    pub(super) fn read_termination_message(&mut self, record: &ContainerRecord) {
        if self.memory.termination_messages.contains_key(&record.id) {
            return;
        }
        let mut text = read_head(&record.termination_file);
        if text.is_empty() && record.termination_policy == "FallbackToLogsOnError" && record.exit_code != 0 {
            text = crate::logs::last_lines(std::path::Path::new(&record.log_path), 80, 2048);
        }
        self.memory.termination_messages.insert(record.id.clone(), text);
    }

    /// Of the ended instances the newest stays: `kubectl logs --previous` and the last state need it.
    async fn forget_old_instances(&mut self, name: &str) {
        let ended =
            self.runtime.containers.iter().filter(|c| c.name == name && c.phase == ContainerPhase::Exited);
        let latest_ended = self.runtime.latest(name).is_some_and(|c| c.phase == ContainerPhase::Exited);
        let old: Vec<ContainerRecord> = ended.skip(if latest_ended { 2 } else { 1 }).cloned().collect();
        for record in old {
            self.remove_container(&record.id).await;
            crate::logs::remove(std::path::Path::new(&record.log_path));
            let _ = tokio::fs::remove_file(&record.termination_file).await;
        }
    }

    /// What the runtime holds of this container and the worker does not know of: its name would stay taken.
    async fn clear_unknown_containers(&mut self, name: &str) {
        let held = self.agent.cri.find_containers(&self.id.namespace, &self.id.name, name).await;
        for container in held.unwrap_or_default() {
            let ours = container.labels.get(labels::POD_UID) == Some(&self.id.uid);
            if ours && self.runtime.container(&container.id).is_none() {
                self.remove_container(&container.id).await;
            }
        }
    }

    pub(super) async fn remove_container(&mut self, id: &str) {
        match self.agent.cri.remove_container(id).await {
            Ok(()) => {
                self.agent.disown(id);
                self.runtime.containers.retain(|container| container.id != id);
                self.memory.termination_messages.remove(id);
                self.memory.run_errors.remove(id);
                self.memory.applied.remove(id);
            }
            Err(error) => tracing::warn!(pod = %self.id, %error, "old container stays"),
        }
    }

    /// preStop, SIGTERM, SIGKILL: beside the worker, which goes on listening.
    pub(super) fn kill(&mut self, id: String, name: String, grace_s: i64, why: String) {
        self.memory.busy.insert(name.clone());
        let message = if why.is_empty() { format!("Stopping container {name}") } else { why };
        self.event(Some(&name), EventType::Normal, "Killing", message);
        let spec = self.container_spec(&name).map(Cow::into_owned);
        let hook = spec.as_ref().and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone());
        let target = self
            .runtime
            .container(&id)
            .zip(spec)
            .map(|(record, container)| self.target(&record.clone(), &container));
        let (agent, mailbox, pod) = (self.agent.clone(), self.mailbox.clone(), self.pod.clone());
        self.beside.spawn(async move {
            let begun = std::time::Instant::now();
            if let (Some(hook), Some(target)) = (hook, target) {
                let limit = Duration::from_secs(grace_s.unsigned_abs());
                if let Some(text) = super::hooks::hook(&agent, &target, &hook, limit).await {
                    let message = format!("PreStopHook failed: {text}");
                    agent.recorder.pod(&pod, Some(&name), EventType::Warning, "FailedPreStopHook", message);
                }
            }
            let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let left = (grace_s - used).max(1);
            stop(&agent, &id, left).await;
            mailbox.tell(|inbox| inbox.done.push(Done::Killed { name, id }));
        });
    }
}

/// With each login until one is let in; without any where there is none.
async fn pull(cri: &Cri, image: &str, logins: Vec<AuthConfig>) -> Result<(), String> {
    let tries: Vec<Option<AuthConfig>> =
        if logins.is_empty() { vec![None] } else { logins.into_iter().map(Some).collect() };
    let mut refused = String::new();
    for login in tries {
        match cri.pull(image, login).await {
            Ok(_) => return Ok(()),
            Err(error) => refused = error.runtime_message(),
        }
    }
    Err(refused)
}

/// Stops until the runtime agrees: while it restarts the call fails, and nobody else would try again.
async fn stop(agent: &Agent, id: &str, grace_s: i64) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = agent.cri.stop_container(id, grace_s).await {
        tracing::warn!(container = id, %error, "container not stopped, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

fn read_head(path: &str) -> String {
    use std::io::Read as _;
    let Ok(file) = std::fs::File::open(path) else { return String::new() };
    let mut head = Vec::new();
    let limit = u64::try_from(TERMINATION_MESSAGE_LIMIT).unwrap_or(u64::MAX);
    let _ = file.take(limit).read_to_end(&mut head);
    String::from_utf8_lossy(&head).into_owned()
}
