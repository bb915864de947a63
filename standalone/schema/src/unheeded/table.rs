//! The rows: what is accepted, and what becomes of it.

/// Where a row's field stands.
#[derive(Clone, Copy)]
pub enum Scope {
    /// Objects of a group's kind, in all versions.
    Kind(&'static str, &'static str),
    /// Pods, and the templates of pods.
    Pods,
}

/// For which values it holds.
#[derive(Clone, Copy)]
pub enum When {
    /// Anything but null, false, 0 and what is empty.
    Set,
    False,
    Is(&'static str),
    IsNot(&'static str),
}

pub struct Row {
    pub scope: Scope,
    /// The subresource through which it is written.
    pub subresource: Option<&'static str>,
    /// Steps from the object (or the pod); empty: the object as a whole.
    pub field: &'static [&'static str],
    pub when: When,
    /// A flag of the object (or the pod) with which the field means something else.
    pub unless: &'static [&'static str],
    pub text: &'static str,
}

const fn kind(group: &'static str, name: &'static str, text: &'static str) -> Row {
    field(Scope::Kind(group, name), &[], text)
}

const fn pods(path: &'static [&'static str], text: &'static str) -> Row {
    field(Scope::Pods, path, text)
}

const fn field(scope: Scope, field: &'static [&'static str], text: &'static str) -> Row {
    Row { scope, subresource: None, field, when: When::Set, unless: &[], text }
}

impl Row {
    const fn when(mut self, when: When) -> Row {
        self.when = when;
        self
    }

    const fn unless(mut self, path: &'static [&'static str]) -> Row {
        self.unless = path;
        self
    }

    const fn by(mut self, subresource: &'static str) -> Row {
        self.subresource = Some(subresource);
        self
    }
}

const POD: Scope = Scope::Kind("", "Pod");

const NO_RIGHTS: &str = "it grants nothing: rights come from fixed identities";
const NO_WEBHOOKS: &str = "no webhook is called, not even one whose failurePolicy is Fail";
const NO_POLICIES: &str = "no request is checked or changed by it";
const NO_VOLUMES: &str = "no CSI driver is asked: its volumes are not made, attached or mounted";
const NO_DEVICES: &str = "devices are not allocated";
const NO_BLOCK_DEVICES: &str = "block devices are not given to containers";
const NO_FLOWS: &str = "requests are not told apart or queued by it";
const NO_INGRESS: &str =
    "this cluster has no ingress controller of its own: nothing is served unless you run one";

/// By kind, then by field; what protects first.
pub const ROWS: &[Row] = &[
    kind("networking.k8s.io", "NetworkPolicy", "no traffic is held back by it"),
    kind("rbac.authorization.k8s.io", "ClusterRole", NO_RIGHTS),
    kind("rbac.authorization.k8s.io", "ClusterRoleBinding", NO_RIGHTS),
    kind("rbac.authorization.k8s.io", "Role", NO_RIGHTS),
    kind("rbac.authorization.k8s.io", "RoleBinding", NO_RIGHTS),
    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicy", NO_POLICIES),
    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", NO_POLICIES),
    kind("admissionregistration.k8s.io", "MutatingWebhookConfiguration", NO_WEBHOOKS),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", NO_POLICIES),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", NO_POLICIES),
    kind("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", NO_WEBHOOKS),
    kind("", "LimitRange", "nothing is limited and no defaults are set by it"),
    kind("", "ResourceQuota", "nothing is counted or refused by it"),
    kind("", "ServiceAccount", "no token is issued for it"),
    kind("apiextensions.k8s.io", "CustomResourceDefinition", "its resources are not served"),
    kind("apiregistration.k8s.io", "APIService", "requests are not passed on to it"),
    kind("autoscaling", "HorizontalPodAutoscaler", "nothing is scaled by it"),
    kind("certificates.k8s.io", "CertificateSigningRequest", "nobody signs it, approved or not"),
    kind("flowcontrol.apiserver.k8s.io", "FlowSchema", NO_FLOWS),
    kind("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", NO_FLOWS),
    kind("networking.k8s.io", "Ingress", NO_INGRESS),
    kind("networking.k8s.io", "IngressClass", NO_INGRESS),
    kind("resource.k8s.io", "DeviceClass", NO_DEVICES),
    kind("resource.k8s.io", "ResourceClaim", NO_DEVICES),
    kind("resource.k8s.io", "ResourceClaimTemplate", NO_DEVICES),
    kind("resource.k8s.io", "ResourceSlice", NO_DEVICES),
    kind("storage.k8s.io", "CSIDriver", NO_VOLUMES),
    kind("storage.k8s.io", "CSINode", NO_VOLUMES),
    kind("storage.k8s.io", "CSIStorageCapacity", NO_VOLUMES),
    kind("storage.k8s.io", "VolumeAttachment", NO_VOLUMES),
    kind("storage.k8s.io", "VolumeAttributesClass", NO_VOLUMES),
    field(
        Scope::Kind("", "Namespace"),
        &["metadata", "labels", "pod-security.kubernetes.io/*"],
        "pod security standards are not enforced, audited or warned of",
    ),
    field(
        Scope::Kind("", "PersistentVolume"),
        &[
            "spec",
            "!accessModes,capacity,claimRef,hostPath,local,mountOptions,nodeAffinity,persistentVolumeReclaimPolicy,\
            storageClassName,volumeAttributesClassName,volumeMode",
        ],
        "volumes of this kind are bound, but no node mounts them: pods that use it will not start",
    ),
    field(
        Scope::Kind("", "PersistentVolume"),
        &["spec", "persistentVolumeReclaimPolicy"],
        "it is not emptied for another claim: it becomes Failed. Use Retain or Delete",
    )
    .when(When::Is("Recycle")),
    field(Scope::Kind("", "Secret"), &["type"], "no token is put into it")
        .when(When::Is("kubernetes.io/service-account-token")),
    pods(
        &["metadata", "annotations", "kubernetes.io/ingress-bandwidth"],
        "the pod's bandwidth is not limited",
    ),
    pods(
        &["metadata", "annotations", "kubernetes.io/egress-bandwidth"],
        "the pod's bandwidth is not limited",
    ),
    pods(&["spec", "containers", "[]", "ports", "[]", "hostPort"], "the port is not opened on the node")
        .unless(&["spec", "hostNetwork"]),
    pods(&["spec", "initContainers", "[]", "ports", "[]", "hostPort"], "the port is not opened on the node")
        .unless(&["spec", "hostNetwork"]),
    pods(
        &[
            "spec",
            "volumes",
            "[]",
            "!name,configMap,downwardAPI,emptyDir,ephemeral,hostPath,persistentVolumeClaim,projected,secret",
        ],
        "volumes of this kind are not set up: the pod will not start",
    ),
    pods(
        &["spec", "volumes", "[]", "projected", "sources", "[]", "!configMap,downwardAPI,secret"],
        "sources of this kind are not set up: the pod will not start",
    ),
    pods(&["spec", "serviceAccountName"], "no token of the account is given to the pod")
        .when(When::IsNot("default")),
    pods(&["spec", "enableServiceLinks"], "variables that name Services are set all the same")
        .when(When::False),
    pods(&["spec", "schedulingGroup"], "its pods are scheduled one by one"),
    pods(&["spec", "containers", "[]", "env", "[]", "valueFrom", "fileKeyRef"], "the variable is not set"),
    pods(&["spec", "containers", "[]", "volumeDevices"], NO_BLOCK_DEVICES),
    pods(&["spec", "resourceClaims"], NO_DEVICES),
    pods(
        &["spec", "containers", "[]", "restartPolicyRules", "[]", "action"],
        "the other containers are not restarted: the restart policy alone decides",
    )
    .when(When::Is("RestartAllContainers")),
    pods(&["spec", "containers", "[]", "lifecycle", "stopSignal"], "the image's own signal is sent"),
    pods(
        &["spec", "containers", "[]", "resources", "limits", "ephemeral-storage"],
        "local storage is not measured, and no pod is evicted for it",
    ),
    pods(
        &["spec", "containers", "[]", "volumeMounts", "[]", "recursiveReadOnly"],
        "mounts below the volume stay writable",
    )
    .when(When::Is("IfPossible")),
    field(POD, &["spec", "ephemeralContainers", "[]", "volumeDevices"], NO_BLOCK_DEVICES)
        .by("ephemeralcontainers"),
    field(
        POD,
        &["spec", "ephemeralContainers", "[]", "env", "[]", "valueFrom", "fileKeyRef"],
        "the variable is not set",
    )
    .by("ephemeralcontainers"),
];
