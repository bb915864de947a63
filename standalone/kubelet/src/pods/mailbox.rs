//! What has happened since a pod's worker last looked. Messages of a kind fold into one, so senders never
//! wait and nothing grows beyond the pod's own size.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::{memory::Expected, probes::ProbeReport};
use crate::cri::events::RuntimeEvent;

/// Everything that a worker may be told.
#[derive(Default)]
pub struct Inbox {
    pub pod: Option<Arc<Pod>>,
    pub gone: bool,
    /// By id of a container or sandbox: what its state should say by now.
    pub changed: BTreeMap<String, Expected>,
    /// Events may have been missed: everything that is known shall be read again.
    pub check_all: bool,
    pub probes: Vec<ProbeReport>,
    pub done: Vec<Done>,
    /// A ConfigMap or Secret that the pod names has changed.
    pub objects_changed: bool,
}

impl Inbox {
    pub fn hear(&mut self, event: &RuntimeEvent) {
        let (id, expected) = match event {
            RuntimeEvent::Exit { container_id } | RuntimeEvent::Deleted { container_id } => {
                (container_id, Expected::END)
            }
            RuntimeEvent::Oom { container_id } => (container_id, Expected::OOM),
        };
        let known = self.changed.entry(id.clone()).or_default();
        *known = known.and(expected);
    }
}

/// Work that was done beside the worker.
#[derive(Debug)]
pub enum Done {
    Killed { name: String, id: String },
    Pulled { name: String, image: String, outcome: Result<(), String> },
    Hooked { name: String, id: String, failure: Option<String> },
}

#[derive(Default)]
pub struct Mailbox {
    inbox: Mutex<Inbox>,
    notify: Notify,
}

impl Mailbox {
    pub fn tell(&self, write: impl FnOnce(&mut Inbox)) {
        write(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }

    pub fn take(&self) -> Inbox {
        std::mem::take(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something was told since the last wait.
    pub async fn told(&self) {
        self.notify.notified().await;
    }
}
