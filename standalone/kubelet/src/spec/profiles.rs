//! Seccomp, AppArmor and SELinux settings as CRI wants them. What can't be said to the runtime is an error:
//! nothing runs with less than was asked for.

use k8s_cri::v1::{self, security_profile::ProfileType};
use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions, SeccompProfile};

/// Where a node's own seccomp profiles lie, as Kubernetes' documentation tells their authors.
const SECCOMP_DIR: &str = "/var/lib/kubelet/seccomp";
/// A container's AppArmor profile in the form of before 1.30, which pods of old manifests still have.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// No profile means none is applied, as upstream does without SeccompDefault.
pub fn seccomp(profile: Option<&SeccompProfile>) -> Result<v1::SecurityProfile, String> {
    match profile.map(|profile| profile.type_.as_str()) {
        None | Some("Unconfined") => Ok(plain(ProfileType::Unconfined)),
        Some("RuntimeDefault") => Ok(plain(ProfileType::RuntimeDefault)),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            if file.is_empty() {
                return Err("localhostProfile must be set if seccompProfile type is Localhost.".to_owned());
            }
            if file.starts_with('/') || file.split('/').any(|part| part == "..") {
                return Err(format!("seccomp localhostProfile {file:?} must be a path below {SECCOMP_DIR}"));
            }
            Ok(localhost(format!("{SECCOMP_DIR}/{file}")))
        }
        Some(other) => Err(format!("unknown seccompProfile type {other:?}")),
    }
}

/// Without a profile the runtime chooses: its own default one where the kernel has AppArmor.
pub fn apparmor(pod: &Pod, container: &Container) -> Result<Option<v1::SecurityProfile>, String> {
    let Some((kind, name)) = asked_apparmor(pod, container) else { return Ok(None) };
    match (kind.as_str(), name) {
        ("Unconfined", _) => Ok(Some(plain(ProfileType::Unconfined))),
        ("RuntimeDefault", _) => Ok(Some(plain(ProfileType::RuntimeDefault))),
        ("Localhost", Some(name)) if !name.is_empty() => Ok(Some(localhost(name))),
        ("Localhost", _) => {
            Err("localhostProfile must be set if appArmorProfile type is Localhost.".to_owned())
        }
        (other, _) => Err(format!("unknown appArmorProfile type {other:?}")),
    }
}

/// Whether the container is to be confined by AppArmor.
pub fn wants_apparmor(pod: &Pod, container: &Container) -> bool {
    asked_apparmor(pod, container).is_some_and(|(kind, _)| kind != "Unconfined")
}

/// Type and name: the container's own, its annotation, the pod's.
fn asked_apparmor(pod: &Pod, container: &Container) -> Option<(String, Option<String>)> {
    let own = container.security_context.as_ref().and_then(|own| own.app_armor_profile.clone());
    if let Some(own) = own {
        return Some((own.type_, own.localhost_profile));
    }
    let annotations = pod.metadata.annotations.as_ref();
    let key = format!("{APPARMOR_ANNOTATION}{}", container.name);
    if let Some(old) = annotations.and_then(|annotations| annotations.get(&key)) {
        return Some(match (old.as_str(), old.strip_prefix("localhost/")) {
            ("runtime/default", _) => ("RuntimeDefault".to_owned(), None),
            ("unconfined", _) => ("Unconfined".to_owned(), None),
            (_, Some(name)) => ("Localhost".to_owned(), Some(name.to_owned())),
            (other, None) => (other.to_owned(), None),
        });
    }
    let pods = pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.clone()?;
    Some((pods.type_, pods.localhost_profile))
}

pub fn selinux(options: Option<&SELinuxOptions>) -> Option<v1::SeLinuxOption> {
    options.map(|options| v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    })
}

pub fn plain(kind: ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() }
}

fn localhost(name: String) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: name }
}
