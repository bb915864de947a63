//! What every controller is given.

use std::sync::Mutex;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, Resource};
use skerry_informer::{EventType, Recorder, Regarding};

use crate::cache::Cache;
use crate::node::Ranges;

pub struct Context {
    pub client: Client,
    pub cache: Cache,
    pub recorder: Recorder,
    /// Ranges of pod addresses that nodes have.
    pub ranges: Mutex<Ranges>,
}

impl Context {
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

/// Now, as the API writes times: whole seconds. Decisions and what they write then agree with what is read back.
pub fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}
