//! Who may do what: a pure function of the client's identity and the request.
//!
//! A node's rights depend on which pods are bound to it. Where they do, the answer is [`Decision::When`], and
//! the caller, who can read the store, evaluates the named condition before anything happens.

use crate::{
    pki::Subject,
    request::{Query, ResourceRequest, Verb},
    selectors::FieldSelector,
};

const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const CONTROLLERS: &str = "system:kube-controller-manager";
const SCHEDULER: &str = "system:kube-scheduler";
/// Label of the volumes that are folders of a node: its name.
pub const LOCAL_VOLUME_LABEL: &str = "skerry.io/local-path-node";
/// Who may read what the server tells about itself (upstream's group for it).
const MONITORING: &str = "system:monitoring";

/// ConfigMaps of `kube-system` that nodes read for their DNS.
const DNS_SETTINGS: [&str; 2] = ["skerry-dns", "coredns"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    /// Allowed if this is true of the stored state, or of the object in the body.
    When(Condition),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The pod of the request is bound to this node.
    PodOfNode(String),
    /// A pod bound to this node mentions the Secret, the ConfigMap or the claim of the request, or a claim
    /// that is bound to its volume.
    ReferencedByPodsOf(String),
    /// The volume of the request is a folder of this node.
    VolumeOfNode(String),
    /// The object to be created has this name.
    CreatesNamed(String),
}

/// The node a client speaks for.
pub fn node_name(subject: &Subject) -> Option<&str> {
    let name = subject.common_name.strip_prefix(NODE_PREFIX)?;
    subject.organizations.iter().any(|group| group == NODES).then_some(name)
}

pub fn authorize(subject: &Subject, request: &ResourceRequest, query: &Query) -> Decision {
    if subject.organizations.iter().any(|group| group == MASTERS) || asks_about_itself(request) {
        return Decision::Allow;
    }
    let allowed = match subject.common_name.as_str() {
        CONTROLLERS => controllers(request),
        SCHEDULER => scheduler(request),
        _ => match node_name(subject) {
            Some(node) => return authorize_node(node, request, query),
            None => false,
        },
    };
    if allowed { Decision::Allow } else { Decision::Deny }
}

/// Whether a path that is no resource may be read: all by everyone who is known, but for what the server
/// tells of its load.
pub fn may_read_path(subject: &Subject, first_segment: &str) -> bool {
    let allowed = |group: &String| group == MASTERS || group == MONITORING;
    first_segment != "metrics" || subject.organizations.iter().any(allowed)
}

/// The reason of a 403, in upstream's words.
pub fn denial(subject: &Subject, request: &ResourceRequest) -> String {
    let resource = if request.subresource.is_empty() {
        request.resource.clone()
    } else {
        format!("{}/{}", request.resource, request.subresource)
    };
    let scope = if request.namespace.is_empty() || request.resource == "namespaces" {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", request.namespace)
    };
    format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
        subject.common_name,
        request.verb.as_str(),
        request.group
    )
}

fn is_read(verb: Verb) -> bool {
    matches!(verb, Verb::Get | Verb::List | Verb::Watch)
}

/// `kubectl auth can-i` and `whoami`: everyone may ask about themselves.
fn asks_about_itself(request: &ResourceRequest) -> bool {
    request.verb == Verb::Create
        && matches!(
            (request.group.as_str(), request.resource.as_str()),
            ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
                | ("authentication.k8s.io", "selfsubjectreviews")
        )
}

/// Subresources that reach into a node's containers: by a node's proxy commands can be run in all of them.
fn reaches_into_containers(request: &ResourceRequest) -> bool {
    matches!(request.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy")
}

fn controllers(request: &ResourceRequest) -> bool {
    !reaches_into_containers(request)
}

fn scheduler(request: &ResourceRequest) -> bool {
    use Verb::{Create, Delete, Get, Patch, Update};
    match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
        ("", "secrets", _) => false,
        (_, _, "") if is_read(request.verb) => true,
        ("", "pods", "binding") | ("", "bindings", "") => request.verb == Create,
        ("", "pods", "status") => matches!(request.verb, Get | Update | Patch),
        ("", "pods", "") => request.verb == Delete,
        // It says which node a claim is wanted on, and which volume it takes.
        ("", "persistentvolumeclaims" | "persistentvolumes", "") => matches!(request.verb, Update | Patch),
        ("" | "events.k8s.io", "events", "") => matches!(request.verb, Create | Update | Patch),
        ("coordination.k8s.io", "leases", "") => matches!(request.verb, Create | Update | Patch),
        _ => false,
    }
}

/// What a node reads of everyone: the tables of its service proxy, and kinds its agent looks up.
fn read_by_every_node(request: &ResourceRequest) -> bool {
    is_read(request.verb)
        && matches!(
            (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()),
            ("", "services" | "nodes" | "namespaces", "")
                | ("discovery.k8s.io", "endpointslices", "")
                | ("networking.k8s.io", "networkpolicies" | "servicecidrs", "")
                | ("node.k8s.io", "runtimeclasses", "")
        )
}

fn authorize_node(node: &str, request: &ResourceRequest, query: &Query) -> Decision {
    use Verb::{Create, Delete, Get, Patch, Update};
    if read_by_every_node(request) {
        return Decision::Allow;
    }
    let own = request.name == node;
    let allowed = match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
        ("", "nodes", "") if request.verb == Create => {
            return Decision::When(Condition::CreatesNamed(node.into()));
        }
        ("", "nodes", "") => own && matches!(request.verb, Update | Patch),
        ("", "nodes", "status") => own && matches!(request.verb, Get | Update | Patch),
        ("coordination.k8s.io", "leases", "") if request.namespace == "kube-node-lease" => match request.verb
        {
            Create => return Decision::When(Condition::CreatesNamed(node.into())),
            _ => own,
        },
        ("", "pods", "") => match request.verb {
            Verb::List | Verb::Watch => selects_node(node, query),
            Get | Delete => return Decision::When(Condition::PodOfNode(node.into())),
            _ => false,
        },
        ("", "pods", "status") if matches!(request.verb, Get | Update | Patch) => {
            return Decision::When(Condition::PodOfNode(node.into()));
        }
        ("", "pods", "eviction") if request.verb == Create => {
            return Decision::When(Condition::PodOfNode(node.into()));
        }
        // The settings of the DNS process, which every node has.
        ("", "configmaps", "")
            if is_read(request.verb)
                && request.namespace == "kube-system"
                && DNS_SETTINGS.contains(&request.name.as_str()) =>
        {
            true
        }
        // One name in one namespace, which is what a pod mentions; a list or watch has a name only where a
        // field selector pins it.
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "")
            if is_read(request.verb) && !request.name.is_empty() && !request.namespace.is_empty() =>
        {
            return Decision::When(Condition::ReferencedByPodsOf(node.into()));
        }
        ("", "persistentvolumes", "") if is_read(request.verb) && !request.name.is_empty() => {
            return Decision::When(Condition::ReferencedByPodsOf(node.into()));
        }
        ("", "persistentvolumes", "") if is_read(request.verb) => selects_volumes_of(node, query),
        ("", "persistentvolumes", "") if request.verb == Patch => {
            return Decision::When(Condition::VolumeOfNode(node.into()));
        }
        ("" | "events.k8s.io", "events", "") => matches!(request.verb, Create | Update | Patch),
        _ => false,
    };
    if allowed { Decision::Allow } else { Decision::Deny }
}

/// Whether the list or watch is of the volumes that are this node's folders, and of no others.
fn selects_volumes_of(node: &str, query: &Query) -> bool {
    query.get("labelSelector") == Some(&format!("{LOCAL_VOLUME_LABEL}={node}"))
}

fn selects_node(node: &str, query: &Query) -> bool {
    FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
        .is_ok_and(|selector| selector.pinned("spec.nodeName") == Some(node))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::{Target, parse};

    fn decide(subject: &Subject, method: Method, url: &str) -> Decision {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = Query::parse(query);
        match parse(&method, path, &query) {
            Some(Target::Resource(request)) => authorize(subject, &request, &query),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn a_node_reaches_its_own_things_and_nothing_else() {
        let node = Subject::new("system:node:a", &["system:nodes"]);
        let pod = || Decision::When(Condition::PodOfNode("a".into()));
        let cases = [
            (Method::GET, "/api/v1/nodes", Decision::Allow),
            (Method::PATCH, "/api/v1/nodes/a/status", Decision::Allow),
            (Method::PATCH, "/api/v1/nodes/b/status", Decision::Deny),
            (Method::DELETE, "/api/v1/nodes/a", Decision::Deny),
            (Method::POST, "/api/v1/nodes", Decision::When(Condition::CreatesNamed("a".into()))),
            (Method::GET, "/api/v1/pods", Decision::Deny),
            (Method::GET, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Da", Decision::Allow),
            (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Db", Decision::Deny),
            (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%21%3Da", Decision::Deny),
            (Method::GET, "/api/v1/namespaces/x/pods/p", pod()),
            (Method::PATCH, "/api/v1/namespaces/x/pods/p/status", pod()),
            (Method::PATCH, "/api/v1/namespaces/x/pods/p", Decision::Deny),
            (Method::DELETE, "/api/v1/namespaces/x/pods/p", pod()),
            (Method::POST, "/api/v1/namespaces/x/pods/p/exec", Decision::Deny),
            (Method::POST, "/api/v1/namespaces/x/pods", Decision::Deny),
            (Method::GET, "/api/v1/secrets", Decision::Deny),
            (
                Method::GET,
                "/api/v1/namespaces/kube-system/configmaps?watch=1&fieldSelector=metadata.name%3Dskerry-dns",
                Decision::Allow,
            ),
            (Method::GET, "/api/v1/namespaces/kube-system/configmaps/coredns", Decision::Allow),
            (Method::PATCH, "/api/v1/namespaces/kube-system/configmaps/coredns", Decision::Deny),
            (Method::GET, "/api/v1/namespaces/kube-system/configmaps", Decision::Deny),
            (
                Method::GET,
                "/api/v1/namespaces/x/configmaps/skerry-dns",
                Decision::When(Condition::ReferencedByPodsOf("a".into())),
            ),
            (
                Method::GET,
                "/api/v1/namespaces/x/secrets/s",
                Decision::When(Condition::ReferencedByPodsOf("a".into())),
            ),
            (
                Method::GET,
                "/api/v1/namespaces/x/secrets?watch=1&fieldSelector=metadata.name%3Ds",
                Decision::When(Condition::ReferencedByPodsOf("a".into())),
            ),
            // A pod's Secret is that of its namespace: the name says nothing about the others.
            (Method::GET, "/api/v1/secrets?fieldSelector=metadata.name%3Ds", Decision::Deny),
            (Method::GET, "/api/v1/secrets?watch=1&fieldSelector=metadata.name%3Ds", Decision::Deny),
            (Method::GET, "/api/v1/watch/secrets?fieldSelector=metadata.name%3Ds", Decision::Deny),
            (Method::GET, "/api/v1/configmaps?fieldSelector=metadata.name%3Ds", Decision::Deny),
            (
                Method::GET,
                "/api/v1/secrets?fieldSelector=metadata.name%3Ds,metadata.namespace%3Dx",
                Decision::Deny,
            ),
            (Method::GET, "/api/v1/namespaces/x/secrets?fieldSelector=metadata.name%21%3Ds", Decision::Deny),
            (Method::GET, "/api/v1/namespaces/x/serviceaccounts/s", Decision::Deny),
            (
                Method::GET,
                "/api/v1/namespaces/x/persistentvolumeclaims/s",
                Decision::When(Condition::ReferencedByPodsOf("a".into())),
            ),
            (Method::GET, "/api/v1/persistentvolumeclaims", Decision::Deny),
            (Method::PATCH, "/api/v1/namespaces/x/persistentvolumeclaims/s", Decision::Deny),
            (
                Method::GET,
                "/api/v1/persistentvolumes/v",
                Decision::When(Condition::ReferencedByPodsOf("a".into())),
            ),
            (Method::GET, "/api/v1/persistentvolumes", Decision::Deny),
            (
                Method::GET,
                "/api/v1/persistentvolumes?watch=1&labelSelector=skerry.io%2Flocal-path-node%3Da",
                Decision::Allow,
            ),
            (
                Method::GET,
                "/api/v1/persistentvolumes?labelSelector=skerry.io%2Flocal-path-node%3Db",
                Decision::Deny,
            ),
            (
                Method::PATCH,
                "/api/v1/persistentvolumes/v",
                Decision::When(Condition::VolumeOfNode("a".into())),
            ),
            (Method::DELETE, "/api/v1/persistentvolumes/v", Decision::Deny),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
                Decision::Allow,
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/b", Decision::Deny),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/default/leases/a", Decision::Deny),
            (Method::POST, "/api/v1/namespaces/x/events", Decision::Allow),
            (Method::GET, "/apis/discovery.k8s.io/v1/endpointslices?watch=true", Decision::Allow),
            (Method::POST, "/api/v1/namespaces/x/services", Decision::Deny),
            (Method::GET, "/apis/apps/v1/deployments", Decision::Deny),
        ];
        for (method, url, expected) in cases {
            assert_eq!(decide(&node, method.clone(), url), expected, "{method} {url}");
        }
    }

    #[test]
    fn the_node_name_alone_without_the_group_is_nobody() {
        let impostor = Subject::new("system:node:a", &[]);
        assert_eq!(decide(&impostor, Method::GET, "/api/v1/nodes"), Decision::Deny);
    }

    #[test]
    fn the_scheduler_binds_but_reads_no_secrets() {
        let scheduler = Subject::new(SCHEDULER, &[]);
        assert_eq!(decide(&scheduler, Method::POST, "/api/v1/namespaces/x/pods/p/binding"), Decision::Allow);
        assert_eq!(decide(&scheduler, Method::GET, "/api/v1/secrets"), Decision::Deny);
        assert_eq!(decide(&scheduler, Method::DELETE, "/api/v1/nodes/a"), Decision::Deny);
    }

    #[test]
    fn nobodys_controllers_reach_into_containers_and_read_usage_all_the_same() {
        let controllers = Subject::new(CONTROLLERS, &[]);
        for url in [
            "/api/v1/nodes/n/proxy/pods",
            "/api/v1/namespaces/x/pods/p/proxy/",
            "/api/v1/namespaces/x/pods/p/exec",
        ] {
            assert_eq!(decide(&controllers, Method::POST, url), Decision::Deny, "{url}");
        }
        assert_eq!(decide(&controllers, Method::GET, "/apis/metrics.k8s.io/v1beta1/pods"), Decision::Allow);
        let node = Subject::new("system:node:a", &[NODES]);
        for url in ["/api/v1/nodes/a/proxy/pods", "/apis/metrics.k8s.io/v1beta1/nodes/a"] {
            assert_eq!(decide(&node, Method::GET, url), Decision::Deny, "{url}");
        }
    }

    #[test]
    fn what_the_server_tells_of_itself_is_for_masters_and_monitors() {
        let of = |group| Subject::new("x", &[group]);
        assert!(may_read_path(&of(MASTERS), "metrics") && may_read_path(&of(MONITORING), "metrics"));
        assert!(!may_read_path(&Subject::new("system:node:a", &[NODES]), "metrics"));
        assert!(may_read_path(&of("nobody"), "apis"));
    }

    #[test]
    fn a_denial_names_user_verb_resource_and_place() {
        let node = Subject::new("system:node:a", &["system:nodes"]);
        let query = Query::default();
        let Some(Target::Resource(request)) = parse(&Method::GET, "/api/v1/namespaces/x/pods/p/log", &query)
        else {
            panic!("a resource")
        };
        assert_eq!(
            denial(&node, &request),
            "User \"system:node:a\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"x\""
        );
    }
}
