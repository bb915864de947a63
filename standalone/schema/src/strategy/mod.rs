//! What happens to an object between the request and the store.

use serde_json::Value;

use crate::{FieldError, Kind};

/// Makes a decoded object ready to be stored: sets defaults (also those of built-in admission: service account name,
/// tolerations), clears what a create may not set (status), sets `metadata.generation`, validates.
///
/// The caller has set `metadata.name` (from `generateName` too), `namespace`, `uid`, `creationTimestamp` before; it
/// allocates ClusterIPs and node ports after.
pub fn prepare_create(kind: &Kind, object: &mut Value, now: jiff::Timestamp) -> Result<(), Vec<FieldError>> {
    let _ = (kind, object, now);
    Ok(())
}

/// Makes `new` ready to take `old`'s place: keeps what an update of this `subresource` (`None`: the object itself) may
/// not change (uid, creationTimestamp, deletion fields, generation; status or all but status), sets defaults, raises
/// the generation where the spec changed, checks immutable fields, validates.
///
/// Does not look at `resourceVersion`: the caller compares it before.
pub fn prepare_update(
    kind: &Kind,
    old: &Value,
    new: &mut Value,
    subresource: Option<&str>,
    now: jiff::Timestamp,
) -> Result<(), Vec<FieldError>> {
    let _ = (kind, old, new, subresource, now);
    Ok(())
}

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    let _ = pod;
    "BestEffort"
}
