//! CronJob: starts a Job whenever its schedule says so.
//!
//! Nothing is remembered but in the status: `lastScheduleTime` says up to when starts were seen to, and a
//! Job's name is its minute, so that a start which was cut short is found again and none is made twice.

mod job;
mod plan;
mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of, merge_diff};

use crate::context::Context;
use crate::owner::controller_of;
use plan::{Plan, Snapshot, plan};

/// When each CronJob was looked at last; bounded by their number.
#[derive(Default)]
pub struct Looks(Mutex<HashMap<ObjectKey, Timestamp>>);

impl Looks {
    /// Notes this look; when the one before was.
    fn note(&self, key: &ObjectKey, now: Option<Timestamp>) -> Option<Timestamp> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match now {
            Some(now) => looks.insert(key.clone(), now),
            None => looks.remove(key),
        }
    }
}

/// Registers what makes a CronJob be looked at: itself and its Jobs.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context.cache.cron_jobs.store.on_change(move |change: &Change<CronJob>| keys.add(change.key.clone()));
    let keys = queue.clone();
    context.cache.jobs.store.on_change(move |change: &Change<Job>| {
        for job in change.old.iter().chain(change.known()) {
            if let Some(owner) = controller_of(&**job).filter(|owner| owner.kind == CronJob::kind(&())) {
                keys.add(ObjectKey::new(change.key.namespace(), &owner.name));
            }
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(cron) = cache.cron_jobs.store.get(&key) else {
        context.cron_looks.note(&key, None);
        return Ok(Next::Change);
    };
    let owned = Term::Owner(cron.uid().unwrap_or_default());
    let now = Timestamp::now();
    let mut plan = plan(&Snapshot {
        cron: &cron,
        jobs: &cache.jobs.store.by_term(&owned),
        unreadable: &cache.jobs.store.unreadable_by_term(&owned),
        now,
        seen: context.cron_looks.note(&key, Some(now)),
        local: &TimeZone::system(),
    });
    for news in &plan.news {
        if news.is_warning {
            context.warning(&*cron, news.reason, news.message.clone());
        } else {
            context.normal(&*cron, news.reason, news.message.clone());
        }
    }
    for job in &plan.delete {
        delete(&context, &cron, job).await?;
    }
    let started = match plan.start {
        Some(due) => start(&context, &cron, &mut plan, due).await,
        None => Ok(()),
    };
    if let Some(patch) = merge_diff(&cron.status.clone().unwrap_or_default(), &plan.status) {
        let revision = cron.metadata.resource_version.as_deref();
        match cache.cron_jobs.patch_status(&key, revision, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    match started {
        Err(error) if error.is_namespace_terminating() => Ok(Next::Change),
        Err(error) => Err(error),
        Ok(()) => Ok(plan.again.map_or(Next::Change, Next::After)),
    }
}

async fn delete(context: &Context, cron: &CronJob, job: &Job) -> Result<(), WriteError> {
    match context.cache.jobs.delete(job, DeleteParams::background()).await {
        Ok(()) => {
            context.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
            Ok(())
        }
        Err(error) => {
            context.warning(cron, "FailedDelete", format!("Deleted job: {}", error.server_message()));
            Err(error)
        }
    }
}

/// Makes the Job; one that is there already and ours was made by a start that did not come to its end.
async fn start(context: &Context, cron: &CronJob, plan: &mut Plan, due: Timestamp) -> Result<(), WriteError> {
    let wanted = job::made(cron, due);
    match context.cache.jobs.create(&wanted).await {
        Ok(job) => {
            context.normal(cron, "SuccessfulCreate", format!("Created job {}", job.name_any()));
            plan.started(due, &job);
        }
        Err(error) if error.is_already_exists() => {
            let there = context.cache.jobs.live(&key_of(&wanted)).await?;
            // A stranger's Job of that name stands for this start: upstream leaves it alone, too.
            if let Some(job) =
                there.filter(|job| controller_of(job).map(|owner| &owner.uid) == cron.metadata.uid.as_ref())
            {
                plan.started(due, &job);
            }
        }
        Err(error) => {
            if !error.is_namespace_terminating() {
                let text = format!("Error creating job: {}", error.server_message());
                context.warning(cron, "FailedCreate", text);
            }
            return Err(error);
        }
    }
    Ok(())
}
