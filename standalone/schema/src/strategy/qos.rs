//! A pod's quality-of-service class.

use serde_json::Value;
use skerry_vocabulary::Quantity;

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
///
/// Guaranteed: every container has limits for cpu and memory, and its requests equal them. BestEffort: no container
/// asks for cpu or memory.
pub fn qos_class(pod: &Value) -> &'static str {
    let amount = |container: &Value, side: &str, name: &str| {
        let text = container.pointer(&format!("/resources/{side}/{name}"))?.as_str()?;
        Quantity::parse(text).ok().filter(|quantity| quantity.nano() > 0)
    };
    let (mut any, mut guaranteed, mut seen) = (false, true, false);
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            seen = true;
            for name in ["cpu", "memory"] {
                let (limit, request) =
                    (amount(container, "limits", name), amount(container, "requests", name));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|request| limit == Some(request));
            }
        }
    }
    match (any, guaranteed && seen) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
