//! Rows of the other kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    network,
    text::{self, NONE, UNSET},
};
use crate::time;

/// An object and the time it is looked at.
pub struct View<'a> {
    pub object: &'a Value,
    pub now: Timestamp,
}

impl<'a> View<'a> {
    pub fn at(&self, pointer: &str) -> &'a Value {
        self.object.pointer(pointer).unwrap_or(&Value::Null)
    }

    pub fn text(&self, pointer: &str) -> &'a str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub fn int(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or_default()
    }

    /// How many items a list or map has.
    pub fn count(&self, pointer: &str) -> usize {
        match self.at(pointer) {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    pub fn name(&self) -> Value {
        json!(self.text("/metadata/name"))
    }

    pub fn age(&self) -> String {
        time::age(self.at("/metadata/creationTimestamp").as_str(), self.now)
    }

    /// The status of a condition.
    pub fn condition(&self, name: &str) -> Option<&'a str> {
        let list = self.at("/status/conditions").as_array();
        list.into_iter().flatten().find(|condition| condition["type"] == name)?["status"].as_str()
    }
}

/// The row of a kind that has columns of its own.
pub fn cells(kind: &str, o: &View) -> Option<Vec<Value>> {
    let age = json!(o.age());
    let name = o.name();
    let text = |pointer: &str| json!(o.text(pointer));
    let or_none = |pointer: &str| json!(text::or_none(o.text(pointer)));
    Some(match kind {
        "Service" => network::service(o),
        "Node" => network::node(o),
        "Event" => event(o),
        "PersistentVolume" => persistent_volume(o),
        "PersistentVolumeClaim" => claim(o),
        "RoleBinding" | "ClusterRoleBinding" => binding(o),
        "ResourceQuota" => quota(o),
        "Role" | "ClusterRole" | "LimitRange" | "CustomResourceDefinition" => {
            vec![name, text("/metadata/creationTimestamp")]
        }
        "Namespace" => vec![name, text("/status/phase"), age],
        "ConfigMap" => vec![name, json!(o.count("/data") + o.count("/binaryData")), age],
        "Secret" => vec![name, text("/type"), json!(o.count("/data")), age],
        "ServiceAccount" => vec![name, json!(o.count("/secrets")), age],
        "Endpoints" => vec![name, json!(network::endpoints(o)), age],
        "EndpointSlice" => vec![
            name,
            text("/addressType"),
            json!(network::slice_ports(o)),
            json!(network::slice_addresses(o)),
            age,
        ],
        "Ingress" => network::ingress(o),
        "IngressClass" => {
            let kind = o.text("/spec/parameters/kind");
            let group = o.text("/spec/parameters/apiGroup");
            let parameters = match (kind, group) {
                ("", _) => NONE.to_owned(),
                (kind, "") => format!("{kind}/{}", o.text("/spec/parameters/name")),
                (kind, group) => format!("{kind}.{group}/{}", o.text("/spec/parameters/name")),
            };
            vec![name, text("/spec/controller"), json!(parameters), age]
        }
        "NetworkPolicy" => vec![name, json!(text::selector(o.at("/spec/podSelector"))), age],
        "Lease" => vec![name, text("/spec/holderIdentity"), age],
        "PriorityClass" => vec![
            name,
            json!(o.int("/value")),
            json!(o.at("/globalDefault").as_bool().unwrap_or(false)),
            age,
            text("/preemptionPolicy"),
        ],
        "StorageClass" => {
            let default =
                o.at("/metadata/annotations")["storageclass.kubernetes.io/is-default-class"] == "true";
            let shown = if default {
                format!("{} (default)", o.text("/metadata/name"))
            } else {
                o.text("/metadata/name").to_owned()
            };
            let expand = o.at("/allowVolumeExpansion").as_bool().unwrap_or(false);
            vec![
                json!(shown),
                text("/provisioner"),
                text("/reclaimPolicy"),
                text("/volumeBindingMode"),
                json!(expand),
                age,
            ]
        }
        "ControllerRevision" => {
            let owners = o.at("/metadata/ownerReferences").as_array();
            let owner = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
            let shown = owner.map_or(NONE.to_owned(), |owner| {
                let group = owner["apiVersion"]
                    .as_str()
                    .and_then(|version| version.split_once('/'))
                    .map(|(group, _)| group);
                let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
                let suffix = group.map(|group| format!(".{group}")).unwrap_or_default();
                format!("{kind}{suffix}/{}", owner["name"].as_str().unwrap_or_default())
            });
            vec![name, json!(shown), json!(o.int("/revision")), age]
        }
        "CertificateSigningRequest" => signing_request(o),
        "RuntimeClass" => vec![name, text("/handler"), age],
        "VolumeAttachment" => vec![
            name,
            text("/spec/attacher"),
            text("/spec/source/persistentVolumeName"),
            text("/spec/nodeName"),
            json!(o.at("/status/attached").as_bool().unwrap_or(false)),
            age,
        ],
        "CSINode" => vec![name, json!(o.count("/spec/drivers")), age],
        "CSIDriver" => {
            let flag = |pointer: &str| json!(o.at(pointer).as_bool().unwrap_or(false));
            vec![
                name,
                flag("/spec/attachRequired"),
                flag("/spec/podInfoOnMount"),
                flag("/spec/storageCapacity"),
                age,
            ]
        }
        "CSIStorageCapacity" => vec![name, text("/storageClassName"), text("/capacity"), age],
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            vec![name, json!(o.count("/webhooks")), age]
        }
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy" => {
            let list = if kind.starts_with('V') { "/spec/validations" } else { "/spec/mutations" };
            let parameters = match (o.text("/spec/paramKind/apiVersion"), o.text("/spec/paramKind/kind")) {
                ("", "") => UNSET.to_owned(),
                (version, kind) => format!("{version}/{kind}"),
            };
            vec![name, json!(o.count(list)), json!(parameters), age]
        }
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => {
            let parameters = match (o.text("/spec/paramRef/namespace"), o.text("/spec/paramRef/name")) {
                (_, "") => UNSET.to_owned(),
                ("", name) => name.to_owned(),
                (namespace, name) => format!("{namespace}/{name}"),
            };
            vec![name, text("/spec/policyName"), json!(parameters), age]
        }
        "APIService" => {
            let service = match o.text("/spec/service/name") {
                "" => "Local".to_owned(),
                service => format!("{}/{service}", o.text("/spec/service/namespace")),
            };
            vec![name, json!(service), json!(o.condition("Available").unwrap_or("Unknown")), age]
        }
        "FlowSchema" => vec![
            name,
            text("/spec/priorityLevelConfiguration/name"),
            json!(o.int("/spec/matchingPrecedence")),
            or_none("/spec/distinguisherMethod/type"),
            age,
        ],
        "PriorityLevelConfiguration" => vec![name, text("/spec/type"), age],
        "PodTemplate" => {
            let list = o.at("/template/spec/containers").as_array();
            let join = |field: &str| {
                let words: Vec<&str> =
                    list.into_iter().flatten().map(|c| c[field].as_str().unwrap_or_default()).collect();
                json!(words.join(","))
            };
            vec![
                name,
                join("name"),
                join("image"),
                json!(text::labels(o.at("/template/metadata/labels").as_object())),
            ]
        }
        "ComponentStatus" => {
            let condition = &o.at("/conditions")[0];
            let status = if condition["status"] == "True" { "Healthy" } else { "Unhealthy" };
            let field = |name: &str| json!(condition[name].as_str().unwrap_or_default());
            vec![name, json!(status), field("message"), field("error")]
        }
        "IPAddress" => {
            let group = o.text("/spec/parentRef/group");
            let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
            let parts = [o.text("/spec/parentRef/namespace"), o.text("/spec/parentRef/name")];
            let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            vec![name, json!(format!("{}{suffix}/{}", o.text("/spec/parentRef/resource"), path.join("/")))]
        }
        "ServiceCIDR" => {
            let ranges: Vec<&str> =
                o.at("/spec/cidrs").as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            vec![name, json!(ranges.join(",")), age]
        }
        "ResourceClaim" => {
            let state = match (o.at("/status/allocation").is_object(), o.count("/status/reservedFor") > 0) {
                (true, true) => "allocated,reserved",
                (true, false) => "allocated",
                _ => "pending",
            };
            vec![name, json!(state), age]
        }
        "ResourceSlice" => {
            vec![name, or_none("/spec/nodeName"), text("/spec/driver"), text("/spec/pool/name"), age]
        }
        "VolumeAttributesClass" => vec![name, text("/driverName"), age],
        _ => return None,
    })
}

fn event(o: &View) -> Vec<Value> {
    let any = |core: &str, new: &str| {
        let text = o.text(core);
        if text.is_empty() { o.text(new) } else { text }
    };
    let regarding = if o.at("/regarding").is_object() { o.at("/regarding") } else { o.at("/involvedObject") };
    let since = |text: &str| if text.is_empty() { String::new() } else { time::age(Some(text), o.now) };
    let mut first = since(any("/firstTimestamp", "/deprecatedFirstTimestamp"));
    if first.is_empty() {
        first = time::age(Some(o.text("/eventTime")), o.now);
    }
    let mut last = since(any("/lastTimestamp", "/deprecatedLastTimestamp"));
    let mut count = o.int("/count").max(o.int("/deprecatedCount"));
    if o.at("/series").is_object() {
        count = o.int("/series/count");
        last = since(o.text("/series/lastObservedTime"));
    } else if count == 0 {
        count = 1;
    }
    if last.is_empty() {
        last.clone_from(&first);
    }
    let kind = regarding["kind"].as_str().unwrap_or_default().to_lowercase();
    let about = match regarding["name"].as_str().unwrap_or_default() {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = any("/source/component", "/deprecatedSource/component");
    let component =
        if component.is_empty() { any("/reportingComponent", "/reportingController") } else { component };
    let host = any("/source/host", "/deprecatedSource/host");
    let host = if host.is_empty() { o.text("/reportingInstance") } else { host };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        json!(last),
        json!(o.text("/type")),
        json!(o.text("/reason")),
        json!(about),
        json!(regarding["fieldPath"].as_str().unwrap_or_default()),
        json!(source),
        json!(any("/message", "/note").trim()),
        json!(first),
        json!(count),
        o.name(),
    ]
}

fn persistent_volume(o: &View) -> Vec<Value> {
    let claim = match o.text("/spec/claimRef/name") {
        "" => String::new(),
        name => format!("{}/{name}", o.text("/spec/claimRef/namespace")),
    };
    vec![
        o.name(),
        json!(o.text("/spec/capacity/storage")),
        json!(text::access_modes(o.at("/spec/accessModes"))),
        json!(o.text("/spec/persistentVolumeReclaimPolicy")),
        json!(phase(o)),
        json!(claim),
        json!(o.text("/spec/storageClassName")),
        json!(o.at("/spec/volumeAttributesClassName").as_str().unwrap_or(UNSET)),
        json!(o.text("/status/reason")),
        json!(o.age()),
        json!(o.at("/spec/volumeMode").as_str().unwrap_or(UNSET)),
    ]
}

fn phase(o: &View) -> String {
    if o.at("/metadata/deletionTimestamp").is_string() {
        "Terminating".to_owned()
    } else {
        o.text("/status/phase").to_owned()
    }
}

fn claim(o: &View) -> Vec<Value> {
    let bound = !o.text("/spec/volumeName").is_empty();
    let (capacity, modes) = if bound {
        (o.text("/status/capacity/storage").to_owned(), text::access_modes(o.at("/status/accessModes")))
    } else {
        (String::new(), String::new())
    };
    vec![
        o.name(),
        json!(phase(o)),
        json!(o.text("/spec/volumeName")),
        json!(capacity),
        json!(modes),
        json!(o.text("/spec/storageClassName")),
        json!(o.at("/spec/volumeAttributesClassName").as_str().unwrap_or(UNSET)),
        json!(o.age()),
        json!(o.at("/spec/volumeMode").as_str().unwrap_or(UNSET)),
    ]
}

fn binding(o: &View) -> Vec<Value> {
    let subjects = |kind: &str| {
        let list = o.at("/subjects").as_array();
        let names: Vec<String> = list
            .into_iter()
            .flatten()
            .filter(|subject| subject["kind"] == kind)
            .map(|subject| {
                let name = subject["name"].as_str().unwrap_or_default();
                match subject["namespace"].as_str() {
                    Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                    _ => name.to_owned(),
                }
            })
            .collect();
        json!(names.join(", "))
    };
    vec![
        o.name(),
        json!(format!("{}/{}", o.text("/roleRef/kind"), o.text("/roleRef/name"))),
        json!(o.age()),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn quota(o: &View) -> Vec<Value> {
    let mut names: Vec<&String> =
        o.at("/status/hard").as_object().into_iter().flat_map(|hard| hard.keys()).collect();
    names.sort();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for name in names {
        let amount = |side: &str| o.at(side)[name.as_str()].as_str().unwrap_or("0").to_owned();
        let shown = format!("{name}: {}/{}", amount("/status/used"), amount("/status/hard"));
        if name.starts_with("limits") { limits.push(shown) } else { requests.push(shown) }
    }
    vec![o.name(), json!(requests.join(", ")), json!(limits.join(", ")), json!(o.age())]
}

fn signing_request(o: &View) -> Vec<Value> {
    let has = |name: &str| o.condition(name).is_some();
    let mut condition = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !o.text("/status/certificate").is_empty() {
        condition.push_str(",Issued");
    }
    let duration = o.at("/spec/expirationSeconds").as_i64().map_or(NONE.to_owned(), time::human);
    vec![
        o.name(),
        json!(o.age()),
        json!(text::or_none(o.text("/spec/signerName"))),
        json!(o.text("/spec/username")),
        json!(duration),
        json!(condition),
    ]
}
