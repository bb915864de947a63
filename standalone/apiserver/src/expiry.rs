//! Events go an hour after they were last seen.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use skerry_store::{Expect, Op, StoreError};

use crate::{
    api::{Api, built_in},
    error::ApiError,
    list::{Filter, select},
    object::{self, text},
};

/// Upstream's `--event-ttl`.
const LIFETIME: jiff::SignedDuration = jiff::SignedDuration::from_secs(3_600);
/// An event may live this much longer.
const INTERVAL: Duration = Duration::from_secs(300);

pub async fn expire_events(api: Arc<Api>) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        if let Err(error) = sweep(&api, jiff::Timestamp::now()).await {
            tracing::warn!(%error, "old events could not be removed");
        }
    }
}

async fn sweep(api: &Api, now: jiff::Timestamp) -> Result<(), ApiError> {
    let events = built_in("", "v1", "events")?;
    let page = select(api, events, "", &Filter::default(), None, None, 0).await?;
    for entry in &page.entries {
        let is_old = object::decode_entry(events, entry).is_ok_and(|event| is_expired(&event, now));
        if !is_old {
            continue;
        }
        let op = Op::Delete { key: entry.key.clone(), expect: Expect::Revision(entry.mod_revision) };
        match api.commit(vec![op]).await {
            // Seen again in the meantime: it stays.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_expired(event: &Value, now: jiff::Timestamp) -> bool {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let seen = times.iter().filter_map(|pointer| text(event, pointer).parse::<jiff::Timestamp>().ok()).max();
    seen.is_none_or(|seen| now.duration_since(seen) > LIFETIME)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_time_counts() {
        let event = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "firstTimestamp": null,
            "lastTimestamp": "2026-01-01T02:00:00Z"});
        let at = |text: &str| text.parse().unwrap();
        assert!(!is_expired(&event, at("2026-01-01T02:59:00Z")));
        assert!(is_expired(&event, at("2026-01-01T03:01:00Z")));
    }
}
