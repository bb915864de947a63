//! What to show a registry for an image: the pod's `imagePullSecrets`, matched as upstream matches them.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

/// Docker's own registry, by the name that `docker login` writes down.
const DEFAULT_REGISTRY: &str = "index.docker.io";

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullSecretError {
    #[error("secret {0:?} has neither .dockerconfigjson nor .dockercfg")]
    Empty(String),
    #[error("secret {name:?}: {text}")]
    Unreadable { name: String, text: String },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    /// `username:password` in base64; it counts where the two are not given.
    auth: String,
}

impl Login {
    fn credentials(&self) -> Option<AuthConfig> {
        let (username, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let text = String::from_utf8(BASE64_STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            (username.to_owned(), password.trim_matches('\0').to_owned())
        };
        Some(AuthConfig { username, password, ..Default::default() })
    }
}

/// Logins by registry, those for the longest address last.
#[derive(Default)]
pub struct Logins(BTreeMap<String, Vec<Login>>);

impl Logins {
    /// Takes a secret's logins in.
    ///
    /// # Errors
    /// When it is no secret of that kind; the others count all the same.
    pub fn add(&mut self, secret: &Secret) -> Result<(), PullSecretError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let data = secret.data.as_ref();
        let file = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let read = match (file(".dockerconfigjson"), file(".dockercfg")) {
            (Some(new), _) => serde_json::from_slice::<DockerConfig>(new).map(|config| config.auths),
            (None, Some(old)) => serde_json::from_slice(old),
            (None, None) => return Err(PullSecretError::Empty(name)),
        };
        // What the parser says of bad JSON may quote it; the secret's text stays out of events.
        let text = |error: serde_json::Error| format!("line {} is not as docker writes it", error.line());
        let logins = read.map_err(|error| PullSecretError::Unreadable { name, text: text(error) })?;
        for (registry, login) in logins {
            self.0.entry(address(&registry)).or_default().push(login);
        }
        Ok(())
    }

    /// What to try for an image, the closest match first.
    pub fn of(&self, image: &str) -> Vec<AuthConfig> {
        let matching = self.0.iter().rev().filter(|(registry, _)| matches(registry, image));
        matching.flat_map(|(_, logins)| logins.iter().filter_map(Login::credentials)).collect()
    }
}

/// Without scheme and without the API's version as its path: `index.docker.io` of
/// `https://index.docker.io/v1/`.
fn address(registry: &str) -> String {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    match path.trim_end_matches('/') {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// Whether a login for this address (whose host may have `*` in its labels) counts for an image.
fn matches(registry: &str, image: &str) -> bool {
    let (image_host, image_path) = match image.split_once('/') {
        // `localhost` has no dot, and is no name of a user either.
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_REGISTRY, image),
    };
    let image_host = if image_host == "docker.io" { DEFAULT_REGISTRY } else { image_host };
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let host = if host == "docker.io" { DEFAULT_REGISTRY } else { host };
    let (name, port) = host.split_once(':').unwrap_or((host, ""));
    let (image_name, image_port) = image_host.split_once(':').unwrap_or((image_host, ""));
    let (labels, image_labels): (Vec<&str>, Vec<&str>) =
        (name.split('.').collect(), image_name.split('.').collect());
    port == image_port
        && labels.len() == image_labels.len()
        && labels.iter().zip(image_labels).all(|(pattern, label)| label_matches(pattern, label))
        && image_path.starts_with(path)
}

fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(left) = label.strip_prefix(head) else { return false };
    (0..=left.len()).any(|at| left.get(at..).is_some_and(|tail| label_matches(rest, tail)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(key: &str, content: &str) -> Secret {
        serde_json::from_value(
            json!({"metadata": {"name": "s"}, "data": {key: BASE64_STANDARD.encode(content)}}),
        )
        .unwrap()
    }

    #[test]
    fn the_closest_login_for_an_images_registry_comes_first() {
        let plain = |name: &str| json!({"username": name, "password": "p"});
        let auth = json!({"auth": BASE64_STANDARD.encode("hub:p:q")});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": auth, "r.example.org": plain("host"), "r.example.org/team": plain("team"),
            "*.example.net": plain("glob"), "r.example.org:5000": plain("port"), "http://localhost/v2/": plain("local")}});
        let mut logins = Logins::default();
        logins.add(&secret(".dockerconfigjson", &config.to_string())).unwrap();
        logins.add(&secret(".dockercfg", &json!({"old.example.org": plain("old")}).to_string())).unwrap();
        let cases = [
            ("busybox", vec!["hub"]),
            ("someone/busybox:1", vec!["hub"]),
            ("docker.io/library/busybox", vec!["hub"]),
            ("r.example.org/x", vec!["host"]),
            ("r.example.org/team/x:1", vec!["team", "host"]),
            ("r.example.org:5000/x", vec!["port"]),
            ("a.example.net/x", vec!["glob"]),
            ("a.b.example.net/x", vec![]),
            ("old.example.org/x", vec!["old"]),
            ("localhost/x", vec!["local"]),
            ("other.example.org/x", vec![]),
        ];
        for (image, expected) in cases {
            let names: Vec<String> = logins.of(image).into_iter().map(|login| login.username).collect();
            assert_eq!(names, expected, "{image}");
        }
        assert_eq!(logins.of("busybox")[0].password, "p:q");
    }

    #[test]
    fn a_secret_that_is_none_is_named_and_its_text_is_not() {
        let mut logins = Logins::default();
        let empty = logins.add(&secret("key", "x"));
        assert_eq!(empty, Err(PullSecretError::Empty("s".into())));
        let error = logins.add(&secret(".dockerconfigjson", "{\"auths\": hush}")).unwrap_err().to_string();
        assert!(error.contains("\"s\"") && !error.contains("hush"), "{error}");
        assert!(logins.of("busybox").is_empty());
    }
}
