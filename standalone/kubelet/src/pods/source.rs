//! Where the node's pods come from. Each source tells of its own pods through an [`Intake`]; the dispatcher
//! takes them all alike. Several pieces of news about a pod fold into one, so that no source waits and
//! nothing grows beyond the pods.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use skerry_client::Client;
use skerry_informer::{Change, Narrow, Readers, Store, reflect};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a source says of one pod.
#[derive(Clone, Debug)]
pub enum Told {
    /// It shall run here, in this form.
    Wanted(Arc<Pod>),
    Gone,
}

/// What was told since the last look.
#[derive(Debug, Default)]
pub struct News {
    /// By uid.
    pub pods: HashMap<String, Told>,
    /// Every source has told of all its pods once.
    pub is_complete: bool,
}

/// Where sources leave what they have to tell.
#[derive(Debug, Default)]
pub struct Intake {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<String, Told>,
    /// Sources that have not told of all their pods yet.
    incomplete: usize,
}

impl Intake {
    /// For so many sources, each of which says once that it is [`complete`](Intake::complete).
    pub fn of(sources: usize) -> Arc<Intake> {
        let state = Mutex::new(State { incomplete: sources, ..State::default() });
        Arc::new(Intake { state, notify: Notify::new() })
    }

    pub fn tell(&self, uid: &str, told: Told) {
        self.change(|state| _ = state.pods.insert(uid.to_owned(), told));
    }

    /// A source has told of all its pods.
    pub fn complete(&self) {
        self.change(|state| state.incomplete = state.incomplete.saturating_sub(1));
    }

    /// Waits for news. Nothing is lost by dropping it half-way.
    pub async fn told(&self) -> News {
        self.notify.notified().await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        News { pods: std::mem::take(&mut state.pods), is_complete: state.incomplete == 0 }
    }

    fn change(&self, write: impl FnOnce(&mut State)) {
        write(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}

/// The pods that the API server has bound to the node, until `shutdown`.
pub async fn bound(client: Client, node_name: &str, intake: Arc<Intake>, shutdown: CancellationToken) {
    let pods = Store::<Pod>::new(|_| Vec::new(), |pod| pod.metadata.managed_fields = None);
    let told = intake.clone();
    pods.on_change(move |change| tell(&told, change));
    let narrow = Narrow { fields: Some(format!("spec.nodeName={node_name}")), labels: None };
    let reflecting = reflect(Api::all(client), pods.clone(), narrow, Readers::default(), shutdown);
    let completing = async {
        pods.synced().await;
        intake.complete();
    };
    tokio::join!(reflecting, completing);
}

/// A pod that can't be read goes on as it was.
fn tell(intake: &Intake, change: &Change<Pod>) {
    let uid = |pod: &Arc<Pod>| pod.metadata.uid.clone().unwrap_or_default();
    let (before, now) = (change.old.as_ref().map(uid), change.known().map(uid));
    // Another pod of its name may stand there.
    if let Some(gone) = before.filter(|before| now.as_ref() != Some(before)) {
        intake.tell(&gone, Told::Gone);
    }
    if let Some(pod) = &change.new {
        intake.tell(&uid(pod), Told::Wanted(pod.clone()));
    } else if change.unreadable.is_some() {
        tracing::warn!(pod = %change.key, "pod can't be read: it stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skerry_client::key_of;

    use super::*;

    fn pod(uid: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn change(old: Option<&str>, new: Option<&str>, unreadable: Option<&str>) -> Change<Pod> {
        let key = key_of(&*pod(""));
        Change { key, old: old.map(pod), new: new.map(pod), unreadable: unreadable.map(pod) }
    }

    async fn heard(changes: &[Change<Pod>]) -> Vec<(String, bool)> {
        let intake = Intake::of(1);
        changes.iter().for_each(|change| tell(&intake, change));
        intake.complete();
        let news = intake.told().await;
        assert!(news.is_complete);
        let mut pods: Vec<_> =
            news.pods.into_iter().map(|(uid, told)| (uid, matches!(told, Told::Wanted(_)))).collect();
        pods.sort();
        pods
    }

    #[tokio::test]
    async fn a_pod_that_took_anothers_name_ends_it() {
        let told = heard(&[change(None, Some("a"), None), change(Some("a"), Some("b"), None)]).await;
        assert_eq!(told, [("a".to_owned(), false), ("b".to_owned(), true)]);
        let told = heard(&[change(Some("a"), None, Some("b"))]).await;
        assert_eq!(told, [("a".to_owned(), false)], "one that can't be read is not begun");
    }

    #[tokio::test]
    async fn a_pod_that_cannot_be_read_goes_on_and_one_that_is_deleted_ends() {
        assert_eq!(heard(&[change(Some("a"), None, Some("a"))]).await, []);
        assert_eq!(heard(&[change(Some("a"), None, None)]).await, [("a".to_owned(), false)]);
    }

    #[tokio::test]
    async fn nothing_is_complete_before_every_source_is() {
        let intake = Intake::of(2);
        intake.complete();
        assert!(!intake.told().await.is_complete);
        intake.tell("a", Told::Wanted(pod("a")));
        intake.complete();
        let news = intake.told().await;
        assert!(news.is_complete && news.pods.contains_key("a"));
    }
}
