//! The variables by which programs in pods find the API server (`KUBERNETES_SERVICE_HOST` …).
//!
//! Variables of other Services (`enableServiceLinks`) are not made: they would need every Service on every
//! node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use skerry_client::{Client, Follow, News, Options, Target};
use tokio::sync::watch;

/// Follows the Service `default/kubernetes`; `None` until it was read once. What can be read of it is enough.
pub async fn follow(client: Client, sender: watch::Sender<Option<BTreeMap<String, String>>>) {
    let target = Target::named("/api/v1/namespaces/default/services", "kubernetes");
    let mut events = Follow::new(client, target, Options::default());
    loop {
        match events.next().await {
            News::Listed(object) | News::Applied(object) => match object.item::<Service>() {
                Ok(service) => _ = sender.send_replace(Some(variables(&service.any()))),
                Err(error) => tracing::warn!(%error, "the Service default/kubernetes can't be read"),
            },
            News::Complete { .. } if sender.borrow().is_none() => {
                sender.send_replace(Some(BTreeMap::new()));
            }
            _ => {}
        }
    }
}

/// Docker's link variables of one Service, as Kubernetes has always set them.
fn variables(service: &Service) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let Some(spec) = &service.spec else { return variables };
    let Some(host) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return variables;
    };
    let prefix = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let mut set = |name: String, value: String| _ = variables.insert(format!("{prefix}_{name}"), value);
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let (lower, number) = (protocol.to_lowercase(), port.port);
        let url = format!("{lower}://{bracketed}:{number}");
        if index == 0 {
            set("SERVICE_HOST".to_owned(), host.to_owned());
            set("SERVICE_PORT".to_owned(), number.to_string());
            set("PORT".to_owned(), url.clone());
        }
        if let Some(name) = &port.name {
            set(format!("SERVICE_PORT_{}", name.to_uppercase().replace('-', "_")), number.to_string());
        }
        let base = format!("PORT_{number}_{protocol}");
        set(base.clone(), url);
        set(format!("{base}_PROTO"), lower);
        set(format!("{base}_PORT"), number.to_string());
        set(format!("{base}_ADDR"), host.to_owned());
    }
    variables
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_api_servers_service_becomes_the_usual_variables() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "kubernetes"}, "spec": {
            "clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}))
        .unwrap();
        let variables = variables(&service);
        assert_eq!(variables["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert_eq!(variables["KUBERNETES_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(variables["KUBERNETES_PORT_443_TCP"], "tcp://10.96.0.1:443");
        assert_eq!(variables.len(), 8);
    }
}
