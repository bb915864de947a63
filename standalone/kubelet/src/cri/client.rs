//! The CRI calls that the agent makes, each with a deadline.

mod logs;

use std::{collections::HashMap, future::Future, path::Path, time::Duration};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{ContainerRecord, CriError, PodRuntime, SandboxRecord, labels};
use crate::stats::Used;

/// Ordinary calls; containerd answers them in milliseconds.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// RunPodSandbox waits for the network plugin.
const SANDBOX_LIMIT: Duration = Duration::from_secs(240);
const PULL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Answers (lists, ExecSync output) that are larger are refused.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// A client for one runtime; cheap to clone, dials again by itself after the runtime restarted.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

/// A pod as the runtime's labels tell of it.
#[derive(Clone, Debug, Default)]
pub struct ListedPod {
    pub namespace: String,
    pub name: String,
    /// The cgroup that its sandbox was put under.
    pub cgroup: String,
    pub runtime: PodRuntime,
}

/// How the runtime is set up, and what it can do beyond the least.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeSetup {
    /// runc is told to use systemd's cgroups.
    pub systemd_cgroups: bool,
    /// It knows `supplementalGroupsPolicy`.
    pub strict_groups: bool,
}

impl Cri {
    /// Nothing is dialled before the first call.
    pub fn new(socket: &Path) -> Result<Cri, CriError> {
        let path = socket.to_owned();
        let channel = Endpoint::try_from("http://runtime.invalid")
            .map_err(|source| CriError::Socket { socket: socket.display().to_string(), source })?
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        let runtime =
            RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT_BYTES);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT_BYTES);
        Ok(Cri { runtime, images, channel })
    }

    /// The connection itself, for containerd's own services.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        call("Version", "of the runtime", CALL_LIMIT, self.runtime.clone().version(request)).await
    }

    /// Conditions by type (`RuntimeReady`, `NetworkReady`).
    pub async fn conditions(&self) -> Result<Vec<v1::RuntimeCondition>, CriError> {
        let request = v1::StatusRequest { verbose: false };
        let answer =
            call("Status", "of the runtime", CALL_LIMIT, self.runtime.clone().status(request)).await?;
        Ok(answer.status.map(|status| status.conditions).unwrap_or_default())
    }

    /// What the runtime does not say it does not do.
    pub async fn setup(&self) -> Result<RuntimeSetup, CriError> {
        let request = v1::StatusRequest { verbose: true };
        let answer =
            call("Status", "of the runtime", CALL_LIMIT, self.runtime.clone().status(request)).await?;
        let config = answer.info.get("config").and_then(|text| serde_json::from_str(text).ok());
        let config: serde_json::Value = config.unwrap_or_default();
        let runc = config.pointer("/containerd/runtimes/runc/options/SystemdCgroup");
        Ok(RuntimeSetup {
            systemd_cgroups: runc.and_then(serde_json::Value::as_bool) == Some(true),
            strict_groups: answer.features.is_some_and(|features| features.supplemental_groups_policy),
        })
    }

    /// Everything that this node's agent made, by the pod's uid: two calls and one a sandbox and container.
    pub async fn list(&self, node_name: &str) -> Result<HashMap<String, ListedPod>, CriError> {
        let mut pods: HashMap<String, ListedPod> = HashMap::new();
        let mut owners: HashMap<String, String> = HashMap::new();
        let label_selector = HashMap::from([(labels::NODE.to_owned(), node_name.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes =
            call("ListPodSandbox", "of all pods", CALL_LIMIT, self.runtime.clone().list_pod_sandbox(request))
                .await?;
        for sandbox in sandboxes.items {
            let Some(metadata) = sandbox.metadata else { continue };
            let record = match self.sandbox(&sandbox.id).await {
                Ok(record) => record,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            owners.insert(sandbox.id, metadata.uid.clone());
            let pod = pods.entry(metadata.uid).or_default();
            (pod.namespace, pod.name) = (metadata.namespace, metadata.name);
            pod.cgroup = sandbox.annotations.get(labels::CGROUP).cloned().unwrap_or_default();
            pod.runtime.put_sandbox(record);
        }
        let request = v1::ListContainersRequest { filter: None };
        let containers =
            call("ListContainers", "of all pods", CALL_LIMIT, self.runtime.clone().list_containers(request))
                .await?;
        for container in &containers.containers {
            let Some(uid) = owners.get(&container.pod_sandbox_id) else { continue };
            let record = match self.container(&container.id, &container.pod_sandbox_id).await {
                Ok(record) => record,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            pods.entry(uid.clone()).or_default().runtime.put_container(record);
        }
        Ok(pods)
    }

    pub async fn sandbox(&self, id: &str) -> Result<SandboxRecord, CriError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer =
            call("PodSandboxStatus", id, CALL_LIMIT, self.runtime.clone().pod_sandbox_status(request))
                .await?;
        let status = answer.status.ok_or_else(|| incomplete("PodSandboxStatus", id, "status"))?;
        Ok(SandboxRecord::from(&status))
    }

    pub async fn container(&self, id: &str, sandbox_id: &str) -> Result<ContainerRecord, CriError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer =
            call("ContainerStatus", id, CALL_LIMIT, self.runtime.clone().container_status(request)).await?;
        let status = answer.status.ok_or_else(|| incomplete("ContainerStatus", id, "status"))?;
        Ok(ContainerRecord::from_status(&status, sandbox_id))
    }

    /// Returns the sandbox's id.
    pub async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, CriError> {
        let object = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        let answer =
            call("RunPodSandbox", &object, SANDBOX_LIMIT, self.runtime.clone().run_pod_sandbox(request))
                .await?;
        Ok(answer.pod_sandbox_id)
    }

    /// Kills what still runs in it and takes its network down; no error if it is gone.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        ignore_missing(
            call("StopPodSandbox", id, SANDBOX_LIMIT, self.runtime.clone().stop_pod_sandbox(request)).await,
        )
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        ignore_missing(
            call("RemovePodSandbox", id, CALL_LIMIT, self.runtime.clone().remove_pod_sandbox(request)).await,
        )
    }

    /// Ids of the sandboxes that the runtime holds for a pod, also those that a failed start left behind.
    pub async fn sandbox_ids(&self, uid: &str) -> Result<Vec<String>, CriError> {
        let label_selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector, ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let answer =
            call("ListPodSandbox", uid, CALL_LIMIT, self.runtime.clone().list_pod_sandbox(request)).await?;
        Ok(answer.items.into_iter().map(|sandbox| sandbox.id).collect())
    }

    /// Instances of a container by names, newest first.
    pub async fn find_containers(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Vec<v1::Container>, CriError> {
        let mut label_selector = pod_labels(namespace, pod);
        label_selector.insert(labels::CONTAINER_NAME.to_owned(), container.to_owned());
        let filter = v1::ContainerFilter { label_selector, ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let answer =
            call("ListContainers", pod, CALL_LIMIT, self.runtime.clone().list_containers(request)).await?;
        let mut found = answer.containers;
        found.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        Ok(found)
    }

    /// Sandboxes of a pod by names, newest first.
    pub async fn find_sandboxes(&self, namespace: &str, pod: &str) -> Result<Vec<v1::PodSandbox>, CriError> {
        let filter =
            v1::PodSandboxFilter { label_selector: pod_labels(namespace, pod), ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let answer =
            call("ListPodSandbox", pod, CALL_LIMIT, self.runtime.clone().list_pod_sandbox(request)).await?;
        let mut found = answer.items;
        found.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        Ok(found)
    }

    /// Returns the container's id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let object = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer =
            call("CreateContainer", &object, CALL_LIMIT, self.runtime.clone().create_container(request))
                .await?;
        Ok(answer.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        call("StartContainer", id, CALL_LIMIT, self.runtime.clone().start_container(request))
            .await
            .map(|_| ())
    }

    /// Other limits for a container that runs.
    pub async fn update_container(
        &self,
        id: &str,
        linux: v1::LinuxContainerResources,
    ) -> Result<(), CriError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        call(
            "UpdateContainerResources",
            id,
            CALL_LIMIT,
            self.runtime.clone().update_container_resources(request),
        )
        .await
        .map(drop)
    }

    /// SIGTERM (or the image's stop signal), then SIGKILL after `grace_s` seconds; no error if it is gone.
    pub async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), CriError> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace_s };
        let limit = CALL_LIMIT + Duration::from_secs(grace_s.max(0).unsigned_abs());
        ignore_missing(call("StopContainer", id, limit, self.runtime.clone().stop_container(request)).await)
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        ignore_missing(
            call("RemoveContainer", id, CALL_LIMIT, self.runtime.clone().remove_container(request)).await,
        )
    }

    /// Runs a command in the container and waits for it; `limit` of zero means the call's own deadline.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        // The runtime ends the command at its own deadline; ours only guards against a runtime that hangs.
        let guard = if limit.is_zero() { PULL_LIMIT } else { limit + Duration::from_secs(10) };
        call("ExecSync", id, guard, self.runtime.clone().exec_sync(request)).await
    }

    /// The image's id if it is on the node.
    pub async fn image(&self, name: &str) -> Result<Option<v1::Image>, CriError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(name)), verbose: false };
        let answer = call("ImageStatus", name, CALL_LIMIT, self.images.clone().image_status(request)).await?;
        Ok(answer.image)
    }

    pub async fn images(&self) -> Result<Vec<v1::Image>, CriError> {
        let request = v1::ListImagesRequest { filter: None };
        let answer =
            call("ListImages", "of the node", CALL_LIMIT, self.images.clone().list_images(request)).await?;
        Ok(answer.images)
    }

    pub async fn pull(&self, name: &str, auth: Option<v1::AuthConfig>) -> Result<String, CriError> {
        let request = v1::PullImageRequest { image: Some(image_spec(name)), auth, sandbox_config: None };
        let answer = call("PullImage", name, PULL_LIMIT, self.images.clone().pull_image(request)).await?;
        Ok(answer.image_ref)
    }

    /// URL of the runtime's streaming server for one exec session.
    pub async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        Ok(call("Exec", &id, CALL_LIMIT, self.runtime.clone().exec(request)).await?.url)
    }

    /// What each container has written beside its volumes, by id.
    pub async fn written_layers(&self) -> Result<HashMap<String, Used>, CriError> {
        let request = v1::ListContainerStatsRequest { filter: None };
        let mut runtime = self.runtime.clone();
        let asked = runtime.list_container_stats(request);
        let answer = call("ListContainerStats", "of all pods", CALL_LIMIT, asked).await?;
        let value = |value: Option<v1::UInt64Value>| value.map_or(0, |value| value.value);
        let layers = answer.stats.into_iter().filter_map(|stats| {
            let layer = stats.writable_layer?;
            let used = Used { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) };
            Some((stats.attributes?.id, used))
        });
        Ok(layers.collect())
    }

    /// Where images lie and what they use.
    pub async fn image_file_system(&self) -> Result<Option<v1::FilesystemUsage>, CriError> {
        let request = v1::ImageFsInfoRequest {};
        let answer =
            call("ImageFsInfo", "of the node", CALL_LIMIT, self.images.clone().image_fs_info(request))
                .await?;
        Ok(answer.image_filesystems.into_iter().next())
    }

    pub async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, CriError> {
        let id = request.container_id.clone();
        Ok(call("Attach", &id, CALL_LIMIT, self.runtime.clone().attach(request)).await?.url)
    }

    pub async fn port_forward_url(&self, sandbox_id: &str, ports: Vec<i32>) -> Result<String, CriError> {
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox_id.to_owned(), port: ports };
        Ok(call("PortForward", sandbox_id, CALL_LIMIT, self.runtime.clone().port_forward(request)).await?.url)
    }
}

fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), user_specified_image: name.to_owned(), ..Default::default() }
}

fn pod_labels(namespace: &str, pod: &str) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (labels::POD_NAME.to_owned(), pod.to_owned()),
    ])
}

fn incomplete(operation: &'static str, object: &str, field: &'static str) -> CriError {
    CriError::Incomplete { operation, object: object.to_owned(), field }
}

fn ignore_missing<T>(answer: Result<T, CriError>) -> Result<(), CriError> {
    match answer {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn call<T>(
    operation: &'static str,
    object: &str,
    limit: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CriError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            Err(CriError::Call { operation, object: object.to_owned(), source: Box::new(status) })
        }
        Err(_) => Err(CriError::Timeout { operation, object: object.to_owned(), limit }),
    }
}
