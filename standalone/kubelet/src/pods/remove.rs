//! The worker's last step: everything of the pod leaves the node, then its object leaves the API server.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource as _,
    api::{DeleteParams, Preconditions},
};
use skerry_client::Item;

use super::{memory::StepFailure, worker::Worker};
use crate::{
    cgroups,
    cri::{CriError, labels},
    spec::sandbox,
    volumes,
};

/// How long the last status may take to be written before the object is deleted without it.
const LAST_STATUS_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error(transparent)]
    Runtime(#[from] CriError),
    #[error(transparent)]
    Volumes(#[from] volumes::VolumeError),
    #[error("remove {}", path.display())]
    Folder { path: std::path::PathBuf, source: std::io::Error },
    #[error("delete pod {name} from the API server")]
    Object { name: String, source: Box<kube::Error> },
}

impl Worker {
    /// Breaks once nothing is left to do; a failure is noted and tried again.
    pub(super) async fn remove(&mut self) -> ControlFlow<()> {
        match self.try_remove().await {
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                let message = skerry_vocabulary::chain(&error);
                tracing::warn!(pod = %self.id, error = message, "pod not removed, trying again");
                let before = self.memory.teardown_failure.as_ref();
                self.memory.teardown_failure = Some(StepFailure::after(before, message, Timestamp::now()));
                ControlFlow::Continue(())
            }
        }
    }

    async fn try_remove(&mut self) -> Result<(), RemoveError> {
        for sandbox in self.runtime.sandboxes.clone() {
            self.agent.cri.stop_sandbox(&sandbox.id).await?;
            for known in self.runtime.sandboxes.iter_mut().filter(|known| known.id == sandbox.id) {
                known.ready = false;
            }
        }
        // The last states are shown before the object goes: a Job's controller counts by them.
        self.report();
        if let Some(reporter) = self.reporter.take() {
            reporter.finish(LAST_STATUS_LIMIT).await;
        }
        for container in self.runtime.containers.clone() {
            self.agent.cri.remove_container(&container.id).await?;
            self.agent.disown(&container.id);
        }
        for sandbox in self.runtime.sandboxes.clone() {
            self.agent.cri.remove_sandbox(&sandbox.id).await?;
            self.agent.disown(&sandbox.id);
        }
        self.runtime = Default::default();
        self.remove_files().await?;
        self.agent.note_status(&self.id, None);
        self.agent.note_given(&self.id.uid, None);
        self.remove_object().await
    }

    async fn remove_files(&self) -> Result<(), RemoveError> {
        let config = &self.agent.config;
        let dir = volumes::pod_dir(&config.root_dir, &self.pod);
        let logs = config.pod_log_dir.join(self.id.log_folder());
        let cgroup = self.cgroup();
        let removed = tokio::task::spawn_blocking(move || {
            volumes::unmount_below(&dir)?;
            for path in [dir, logs] {
                match std::fs::remove_dir_all(&path) {
                    Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                        return Err(RemoveError::Folder { path, source });
                    }
                    _ => {}
                }
            }
            cgroups::remove(&cgroup);
            Ok(())
        });
        removed.await.unwrap_or(Ok(()))
    }

    /// From the pod's specification, or as the sandbox's record tells it where the object is gone.
    pub(super) fn cgroup(&self) -> String {
        let config = &self.agent.config;
        let recorded = self.pod.metadata.annotations.as_ref().and_then(|all| all.get(labels::CGROUP));
        match recorded.filter(|_| self.pod.spec.is_none()) {
            Some(recorded) => recorded.clone(),
            None => {
                sandbox::cgroup_parent(&self.pod, &config.cgroup_parent, self.agent.runtime.systemd_cgroups)
            }
        }
    }

    /// Deletes the object that this pod was, and no other of its name.
    async fn remove_object(&self) -> Result<(), RemoveError> {
        if self.gone {
            return Ok(());
        }
        let api: Api<Item<Pod>> = Api::namespaced(self.agent.client.clone(), &self.id.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.id.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        let failed =
            |source| Err(RemoveError::Object { name: self.id.to_string(), source: Box::new(source) });
        match api.delete(&self.id.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            // Another pod has the name, or this one has only just been changed: what is there says which.
            Err(kube::Error::Api(status)) if status.code == 409 => match api.get_opt(&self.id.name).await {
                Ok(Some(pod)) if pod.meta().uid.as_deref() == Some(&self.id.uid) => {
                    failed(kube::Error::Api(status))
                }
                Ok(_) => Ok(()),
                Err(source) => failed(source),
            },
            Err(source) => failed(source),
        }
    }
}
