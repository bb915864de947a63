//! What every controller is given.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, Resource};
use skerry_informer::{EventType, Recorder, Regarding};

use crate::cache::Cache;
use crate::cronjob::Looks;
use crate::garbage::{Absent, Inventory};
use crate::node::{Heartbeats, Ranges, Since};

pub struct Context {
    pub client: Client,
    pub cache: Cache,
    pub recorder: Recorder,
    /// Every kind that the API server has, and the metadata of every object.
    pub inventory: Arc<Inventory>,
    /// Owners that are known to be gone.
    pub absent: Absent,
    pub heartbeats: Heartbeats,
    pub since: Since,
    /// When each CronJob was looked at.
    pub cron_looks: Looks,
    /// Ended pods that may stay; 0 keeps all.
    pub terminated_pods: usize,
    /// The cluster's CA in PEM, when the kubeconfig has one.
    pub ca: Option<String>,
    /// Ranges of pod addresses that nodes have.
    pub ranges: Mutex<Ranges>,
}

impl Context {
    /// Sends a request whose answer nobody reads: that of an object that can't be read can't be read either.
    pub async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> kube::Result<()> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        self.client.request_text(request).await.map(drop)
    }

    pub fn normal<K>(&self, about: &K, reason: &'static str, message: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.recorder.event(Regarding::object(about), EventType::Normal, reason, message);
    }

    pub fn warning<K>(&self, about: &K, reason: &'static str, message: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.recorder.event(Regarding::object(about), EventType::Warning, reason, message);
    }
}

/// Now, as the API writes times: whole seconds. Decisions and what they write then agree with what is read
/// back.
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
