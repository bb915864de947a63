//! Keeps a pod's status at the API server as its node has it. What is wanted is compared with what is stored
//! there, whoever wrote it, never with what was last sent; a difference is written, the newest only, until
//! both agree.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use skerry_client::Item;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::status_patch::status_patch;
use crate::{spec::PodId, stored::Stored};

/// Before a status is written a second time, because it failed or because somebody else wrote another …
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// … doubled up to this. A write that is further back is no reason to wait.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// One pod's line to the API server.
pub struct Reporter {
    sight: watch::Sender<Sight>,
    task: JoinHandle<()>,
}

/// Both sides as they are known by now.
#[derive(Clone)]
struct Sight {
    /// `None` until the node has worked out a first one.
    wanted: Option<Arc<PodStatus>>,
    seen: Arc<Pod>,
}

impl Reporter {
    /// `seen` is the pod as the API server has it.
    pub fn start(client: kube::Client, seen: Arc<Pod>) -> Reporter {
        let id = PodId::of(&seen);
        let (sight, receiver) = watch::channel(Sight { wanted: None, seen });
        let task = tokio::spawn(keep(client, id, receiver));
        Reporter { sight, task }
    }

    /// From now on this is what the API server shall have.
    pub fn report(&self, status: Arc<PodStatus>) {
        self.sight.send_if_modified(|sight| {
            let same = sight.wanted.as_ref().is_some_and(|wanted| Arc::ptr_eq(wanted, &status));
            sight.wanted = Some(status);
            !same
        });
    }

    /// The pod as the API server has it now.
    pub fn seen(&self, pod: Arc<Pod>) {
        self.sight.send_modify(|sight| sight.seen = pod);
    }

    /// Waits until the last status is written, at most `limit`.
    pub async fn finish(self, limit: Duration) {
        drop(self.sight);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(limit, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// Ends once the pod is gone, or once the node has nothing more to say and both sides agree.
async fn keep(client: kube::Client, id: PodId, mut sight: watch::Receiver<Sight>) {
    let api: Api<Item<Pod>> = Api::namespaced(client, &id.namespace);
    let mut stored = Stored::new(sight.borrow().seen.clone());
    let mut pace = Pace::default();
    loop {
        let Sight { wanted, seen } = sight.borrow_and_update().clone();
        stored.see(seen, Instant::now());
        let status = stored.object().status.clone().unwrap_or_default();
        let patch =
            wanted.as_ref().and_then(|wanted| status_patch(&id.uid, &status, wanted, Timestamp::now()));
        let (Some(wanted), Some(patch)) = (wanted, patch) else {
            if sight.changed().await.is_err() {
                return;
            }
            continue;
        };
        if let Some(at) = pace.not_before(&wanted, Instant::now()) {
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                Ok(()) = sight.changed() => {}
            }
            continue;
        }
        pace.tried(wanted, Instant::now());
        match api.patch_status(&id.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(pod) => stored.take_answer(Arc::new(pod.any()), Instant::now()),
            // Gone, another pod of that name, or changed meanwhile: what is there now says which.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                match api.get_opt(&id.name).await {
                    Ok(Some(pod)) if pod.meta().uid.as_deref() == Some(&id.uid) => {
                        stored.take_answer(Arc::new(pod.any()), Instant::now())
                    }
                    Ok(_) => return,
                    Err(error) => refused(&id, &error),
                }
            }
            Err(error) => refused(&id, &error),
        }
    }
}

fn refused(id: &PodId, error: &kube::Error) {
    tracing::warn!(pod = %id, error = skerry_vocabulary::chain(error), "status not written, trying again");
}

/// How often one and the same status is written: at once, then ever more slowly while it does not stay.
#[derive(Default)]
struct Pace {
    last: Option<(Arc<PodStatus>, Instant)>,
    delay: Duration,
}

impl Pace {
    /// Until when this status has to wait; `None` where it may be written now.
    fn not_before(&self, wanted: &Arc<PodStatus>, now: Instant) -> Option<Instant> {
        let (tried, at) = self.last.as_ref()?;
        let next = *at + self.delay;
        (Arc::ptr_eq(tried, wanted) && next > now).then_some(next)
    }

    fn tried(&mut self, wanted: Arc<PodStatus>, now: Instant) {
        let again = self
            .last
            .take()
            .is_some_and(|(tried, at)| Arc::ptr_eq(&tried, &wanted) && now < at + 2 * LAST_RETRY);
        self.delay = if again { (self.delay * 2).min(LAST_RETRY) } else { FIRST_RETRY };
        self.last = Some((wanted, now));
    }
}

#[cfg(test)]
mod tests;
