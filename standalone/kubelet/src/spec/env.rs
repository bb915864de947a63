//! A container's environment, and `$(NAME)` in its command.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, PersistentVolume, Pod, Secret};

use super::fields::{self, Addresses, Allocatable, FieldError};

/// What exists of the objects of its namespace that one pod names.
#[derive(Clone, Debug, Default)]
pub struct References {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// By claim: the volume that it is bound to, or why there is none.
    pub claims: BTreeMap<String, Result<Arc<PersistentVolume>, String>>,
}

/// Texts as upstream writes them into CreateContainerConfigError.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {object}")]
    NoConfigMapKey { key: String, object: String },
    #[error("couldn't find key {key} in Secret {object}")]
    NoSecretKey { key: String, object: String },
    #[error("environment variable {name}")]
    Field { name: String, source: FieldError },
    #[error("environment variable {name}: valueFrom names no source that is known")]
    NoSource { name: String },
}

/// What values may come from.
pub struct EnvSources<'a> {
    pub pod: &'a Pod,
    pub references: &'a References,
    pub addresses: &'a Addresses,
    pub allocatable: Allocatable,
    /// Variables of Services (`KUBERNETES_SERVICE_HOST` …), overridden by everything else.
    pub services: &'a BTreeMap<String, String>,
}

/// The variables in the order in which they take effect, each name once.
pub fn environment(container: &Container, sources: &EnvSources) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match sources.references.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.references.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(variable, container, sources, &env)? {
            env.set(variable.name.clone(), value);
        }
    }
    let mut all: Vec<(String, String)> = Vec::new();
    for (name, value) in sources.services {
        if !env.values.contains_key(name) {
            all.push((name.clone(), value.clone()));
        }
    }
    all.extend(env.order.into_iter().map(|name| {
        let value = env.values.get(&name).cloned().unwrap_or_default();
        (name, value)
    }));
    Ok(all)
}

#[derive(Default)]
struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }
}

/// `None` for an optional key that is not there: the variable is then left out.
fn value(
    variable: &EnvVar,
    container: &Container,
    sources: &EnvSources,
    env: &Environment,
) -> Result<Option<String>, EnvError> {
    let lookup = |name: &str| env.values.get(name).or_else(|| sources.services.get(name)).cloned();
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), &lookup)));
    };
    let named = |source: FieldError| EnvError::Field { name: variable.name.clone(), source };
    if let Some(reference) = &from.field_ref {
        return fields::field(sources.pod, &reference.field_path, sources.addresses).map(Some).map_err(named);
    }
    if let Some(reference) = &from.resource_field_ref {
        return fields::resource(sources.pod, Some(container), reference, sources.allocatable)
            .map(Some)
            .map_err(named);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let map = sources.references.config_maps.get(&reference.name);
        let optional = reference.optional == Some(true);
        let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
        return match (value, map) {
            (Some(value), _) => Ok(Some(value)),
            (None, _) if optional => Ok(None),
            (None, None) => Err(EnvError::NoConfigMap(reference.name.clone())),
            (None, Some(_)) => Err(EnvError::NoConfigMapKey {
                key: reference.key.clone(),
                object: format!("{}/{}", namespace(sources.pod), reference.name),
            }),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let secret = sources.references.secrets.get(&reference.name);
        let optional = reference.optional == Some(true);
        let value = secret.and_then(|secret| secret.data.as_ref()?.get(&reference.key));
        return match (value, secret) {
            (Some(value), _) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            (None, _) if optional => Ok(None),
            (None, None) => Err(EnvError::NoSecret(reference.name.clone())),
            (None, Some(_)) => Err(EnvError::NoSecretKey {
                key: reference.key.clone(),
                object: format!("{}/{}", namespace(sources.pod), reference.name),
            }),
        };
    }
    Err(EnvError::NoSource { name: variable.name.clone() })
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// Replaces `$(NAME)` by its value; `$$` stands for one `$`; a name that is not known stays as it is written.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "A").then(|| "1".to_owned())
    }

    #[test]
    fn known_names_are_replaced_and_others_stay() {
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("", ""),
            ("€$(A)€", "€1€"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &lookup), expected, "{text}");
        }
    }

    fn sources<'a>(
        pod: &'a Pod,
        references: &'a References,
        addresses: &'a Addresses,
        services: &'a BTreeMap<String, String>,
    ) -> EnvSources<'a> {
        EnvSources { pod, references, addresses, allocatable: Allocatable::default(), services }
    }

    fn resolve(
        container: serde_json::Value,
        references: &References,
    ) -> Result<Vec<(String, String)>, EnvError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let addresses = Addresses { pod_ips: vec!["10.0.0.9".into()], ..Default::default() };
        let services = BTreeMap::from([("KUBERNETES_PORT".to_owned(), "tcp://10.96.0.1:443".to_owned())]);
        environment(&container, &sources(&pod, references, &addresses, &services))
    }

    fn references() -> References {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "aGk="}})).unwrap();
        References {
            config_maps: BTreeMap::from([("cm".to_owned(), Arc::new(map))]),
            secrets: BTreeMap::from([("sec".to_owned(), Arc::new(secret))]),
            ..Default::default()
        }
    }

    #[test]
    fn variables_refer_to_earlier_ones_and_override_env_from() {
        let env = resolve(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}], "env": [
                {"name": "P_k", "value": "own"},
                {"name": "B", "value": "$(P_l)-$(KUBERNETES_PORT)-$(LATER)"},
                {"name": "LATER", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "s"}}}]}),
            &references(),
        )
        .unwrap();
        let get = |name: &str| env.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str());
        assert_eq!(get("P_k"), Some("own"));
        assert_eq!(get("B"), Some("w-tcp://10.96.0.1:443-$(LATER)"));
        assert_eq!(get("LATER"), Some("10.0.0.9"));
        assert_eq!(get("S"), Some("hi"));
    }

    #[test]
    fn a_missing_source_is_an_error_unless_it_is_optional() {
        let one = |reference: serde_json::Value| {
            resolve(
                json!({"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": reference}}]}),
                &references(),
            )
        };
        let error = one(json!({"name": "none", "key": "k"})).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"none\" not found");
        let error = one(json!({"name": "cm", "key": "z"})).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find key z in ConfigMap ns/cm");
        let env = one(json!({"name": "cm", "key": "z", "optional": true})).unwrap();
        assert!(env.iter().all(|(name, _)| name != "X"));
    }
}
