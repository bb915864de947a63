//! What a pod asks to be protected by and no node of ours can give: refused, since it would run without.
//! (What is merely not carried out is told of: see `unheeded`.)

use serde_json::{Map, Value};

use super::{Errors, index, join, key};
use crate::FieldError;

type Object = Map<String, Value>;

const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const APP_ARMOR: &str = "AppArmor profiles are not applied by this cluster's nodes: it would run unconfined";
const USERS: &str = "pods have no user namespaces of their own here: it would run with the host's users";

/// Looks at a pod or a template. What was stored before may stay.
pub fn refuse(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    let asked = asked(map, path);
    if old.is_some_and(|old| self::asked(old, path) == asked) {
        return;
    }
    for (path, detail) in asked {
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn asked(map: &Object, path: &str) -> Vec<(String, &'static str)> {
    let mut asked = Vec::new();
    let annotations = map.get("metadata").and_then(|metadata| metadata["annotations"].as_object());
    for (name, profile) in annotations.into_iter().flatten() {
        if name.starts_with(ANNOTATION) && profile != "unconfined" && profile != "" {
            asked.push((key(&join(path, "metadata.annotations"), name), APP_ARMOR));
        }
    }
    let Some(spec) = map.get("spec") else { return asked };
    let path = join(path, "spec");
    if spec["hostUsers"] == false {
        asked.push((join(&path, "hostUsers"), USERS));
    }
    let mut look = |holder: &Value, path: &str| {
        let profile = &holder["securityContext"]["appArmorProfile"];
        if profile.is_object() && profile["type"] != "Unconfined" {
            asked.push((join(path, "securityContext.appArmorProfile"), APP_ARMOR));
        }
    };
    look(spec, &path);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            look(container, &index(&join(&path, list), at));
        }
    }
    asked
}
