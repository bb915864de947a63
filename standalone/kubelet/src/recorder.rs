//! Events about pods and the node (`kubectl describe`), as the upstream node agent words their origin.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Pod;
use skerry_client::{Client, EventType, Form, Regarding, Teller, record};
use tokio_util::sync::CancellationToken;

/// Hands events to a task that writes them.
#[derive(Clone, Debug)]
pub struct Recorder(skerry_client::Recorder);

impl Recorder {
    /// Starts the writing task; it ends with the last clone of the recorder.
    pub fn start(client: Client, node_name: String) -> Recorder {
        let teller = Teller { controller: "kubelet", instance: Some(node_name), form: Form::Counted };
        let (recorder, task) = record(client, teller, CancellationToken::new());
        tokio::spawn(task);
        Recorder(recorder)
    }

    /// An event about a pod, or about one of its containers (`spec.containers{NAME}`).
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        let field_path = container.map(|name| {
            let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
            let init = init.is_some_and(|list| list.iter().any(|container| container.name == name));
            format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" })
        });
        self.0.event(Regarding { field_path, ..Regarding::object(pod) }, kind, reason, message);
    }

    /// An event about the node itself.
    pub fn node(&self, name: &str, kind: EventType, reason: &'static str, message: String) {
        // As upstream: its name stands for its uid.
        let (name, uid) = (name.to_owned(), name.to_owned());
        self.0.event(
            Regarding { kind: "Node".into(), name, uid, ..Regarding::default() },
            kind,
            reason,
            message,
        );
    }
}
