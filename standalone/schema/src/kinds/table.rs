// Read by the library and by the build script: const data only.

/// One kind in one version that the server answers for.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The API group; the core group is `""`.
    pub group: &'static str,
    /// `v1`, `v1beta1`: what stands behind the group in `apiVersion`.
    pub version: &'static str,
    /// As objects carry it: `Deployment`.
    pub kind: &'static str,
    /// The path's name, lower case, plural.
    pub plural: &'static str,
    /// What `kubectl get` takes for `plural` too; lower case.
    pub singular: &'static str,
    /// As `singular`: `po`.
    pub short_names: &'static [&'static str],
    /// Names for several kinds together: `all`, for `kubectl get all`.
    pub categories: &'static [&'static str],
    /// Its objects live in namespaces.
    pub namespaced: bool,
    /// As discovery lists them, sorted.
    pub verbs: &'static [&'static str],
    /// The paths below one object.
    pub subresources: &'static [Subresource],
    /// The name objects are stored under: `plural[.group]`. Kinds that are two faces of one object share it.
    pub storage: &'static str,
    /// A PUT to a name that is not there makes the object (upstream's strategies allow create on update).
    pub put_creates: bool,
    /// What DELETE answers once the object is gone: the object as it was last, or a `Status` that names it.
    /// As upstream's OpenAPI document has it.
    pub deleted: Deleted,
}

/// What a DELETE answers; see [`Kind::deleted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The object, as it was last.
    Object,
    /// A `Status` with the object's name and `uid`.
    Status,
}

/// A path below an object.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// The path's last part: `status`, `scale`.
    pub name: &'static str,
    /// Group and version of `kind`; both empty where they are the parent's.
    pub group: &'static str,
    /// See `group`.
    pub version: &'static str,
    /// What a body sent there is, and an answer from there.
    pub kind: &'static str,
    /// As discovery lists them, sorted.
    pub verbs: &'static [&'static str],
}

pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list"];
const CREATE: &[&str] = &["create"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];
const EDIT: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const ALL: &[&str] = &["all"];
const EXT: &[&str] = &["api-extensions"];
const NONE: &[&str] = &[];

const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, group: "", version: "", kind, verbs }
}

const fn status(kind: &'static str) -> Subresource {
    sub("status", kind, EDIT)
}

const fn other(
    name: &'static str,
    group: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group, version: "v1", kind, verbs }
}

const SCALE: Subresource = other("scale", "autoscaling", "Scale", EDIT);

const POD_SUBS: &[Subresource] = &[
    sub("attach", "PodAttachOptions", CONNECT),
    sub("binding", "Binding", CREATE),
    sub("ephemeralcontainers", "Pod", EDIT),
    other("eviction", "policy", "Eviction", CREATE),
    sub("exec", "PodExecOptions", CONNECT),
    sub("log", "Pod", GET),
    sub("portforward", "PodPortForwardOptions", CONNECT),
    sub("proxy", "PodProxyOptions", PROXY),
    sub("resize", "Pod", EDIT),
    status("Pod"),
];

impl Kind {
    const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
        storage: &'static str,
        namespaced: bool,
    ) -> Kind {
        Kind {
            group,
            version,
            kind,
            plural,
            singular,
            short_names: NONE,
            categories: NONE,
            namespaced,
            verbs: ALL_VERBS,
            subresources: &[],
            storage,
            put_creates: false,
            deleted: Deleted::Status,
        }
    }

    const fn short(mut self, names: &'static [&'static str]) -> Kind {
        self.short_names = names;
        self
    }

    const fn cat(mut self, categories: &'static [&'static str]) -> Kind {
        self.categories = categories;
        self
    }

    const fn verbs(mut self, verbs: &'static [&'static str]) -> Kind {
        self.verbs = verbs;
        self
    }

    const fn subs(mut self, subresources: &'static [Subresource]) -> Kind {
        self.subresources = subresources;
        self
    }

    const fn put(mut self) -> Kind {
        self.put_creates = true;
        self
    }

    const fn answered(mut self) -> Kind {
        self.deleted = Deleted::Object;
        self
    }
}

macro_rules! kind {
    ($scope:ident $group:literal $version:literal $kind:literal $plural:literal $singular:literal) => {
        Kind::new($group, $version, $kind, $plural, $singular, concat!($plural, ".", $group), kind!(@ $scope))
    };
    ($scope:ident $version:literal $kind:literal $plural:literal $singular:literal) => {
        Kind::new("", $version, $kind, $plural, $singular, $plural, kind!(@ $scope))
    };
    (@ ns) => { true };
    (@ cluster) => { false };
}

const ADM: &str = "admissionregistration.k8s.io";

/// What is used now: measured at each request, stored nowhere. Upstream has it from an aggregated server.
pub const METRICS_GROUP: &str = "metrics.k8s.io";

/// Groups in the order of upstream's discovery.
pub const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    ADM,
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
    METRICS_GROUP,
];

/// What Kubernetes 1.36 serves without any switch: stable versions only (betas are off by default since
/// 1.24). And the metrics API, which nobody is without and which never left its beta.
#[rustfmt::skip]
pub static KINDS: &[Kind] = &[
    kind!(ns "v1" "Binding" "bindings" "binding").verbs(CREATE),
    kind!(cluster "v1" "ComponentStatus" "componentstatuses" "componentstatus").short(&["cs"]).verbs(READ),
    kind!(ns "v1" "ConfigMap" "configmaps" "configmap").short(&["cm"]),
    kind!(ns "v1" "Endpoints" "endpoints" "endpoints").put().short(&["ep"]),
    kind!(ns "v1" "Event" "events" "event").put().short(&["ev"]),
    kind!(ns "v1" "LimitRange" "limitranges" "limitrange").put().short(&["limits"]),
    kind!(cluster "v1" "Namespace" "namespaces" "namespace").short(&["ns"]).verbs(NO_COLLECTION)
        .subs(&[sub("finalize", "Namespace", UPDATE), status("Namespace")]),
    kind!(cluster "v1" "Node" "nodes" "node").short(&["no"])
        .subs(&[sub("proxy", "NodeProxyOptions", PROXY), status("Node")]),
    kind!(ns "v1" "PersistentVolumeClaim" "persistentvolumeclaims" "persistentvolumeclaim").answered().short(&["pvc"])
        .subs(&[status("PersistentVolumeClaim")]),
    kind!(cluster "v1" "PersistentVolume" "persistentvolumes" "persistentvolume").answered().short(&["pv"])
        .subs(&[status("PersistentVolume")]),
    kind!(ns "v1" "Pod" "pods" "pod").answered().short(&["po"]).cat(ALL).subs(POD_SUBS),
    kind!(ns "v1" "PodTemplate" "podtemplates" "podtemplate").answered(),
    kind!(ns "v1" "ReplicationController" "replicationcontrollers" "replicationcontroller").short(&["rc"]).cat(ALL)
        .subs(&[SCALE, status("ReplicationController")]),
    kind!(ns "v1" "ResourceQuota" "resourcequotas" "resourcequota").answered().short(&["quota"])
        .subs(&[status("ResourceQuota")]),
    kind!(ns "v1" "Secret" "secrets" "secret"),
    kind!(ns "v1" "ServiceAccount" "serviceaccounts" "serviceaccount").answered().short(&["sa"]),
    kind!(ns "v1" "Service" "services" "service").put().answered().short(&["svc"]).cat(ALL)
        .subs(&[sub("proxy", "ServiceProxyOptions", PROXY), status("Service")]),
    kind!(cluster "apiregistration.k8s.io" "v1" "APIService" "apiservices" "apiservice").cat(EXT)
        .subs(&[status("APIService")]),
    kind!(ns "apps" "v1" "ControllerRevision" "controllerrevisions" "controllerrevision"),
    kind!(ns "apps" "v1" "DaemonSet" "daemonsets" "daemonset").short(&["ds"]).cat(ALL).subs(&[status("DaemonSet")]),
    kind!(ns "apps" "v1" "Deployment" "deployments" "deployment").short(&["deploy"]).cat(ALL)
        .subs(&[SCALE, status("Deployment")]),
    kind!(ns "apps" "v1" "ReplicaSet" "replicasets" "replicaset").short(&["rs"]).cat(ALL)
        .subs(&[SCALE, status("ReplicaSet")]),
    kind!(ns "apps" "v1" "StatefulSet" "statefulsets" "statefulset").short(&["sts"]).cat(ALL)
        .subs(&[SCALE, status("StatefulSet")]),
    Kind::new("events.k8s.io", "v1", "Event", "events", "event", "events", true).put().short(&["ev"]),
    kind!(cluster "authentication.k8s.io" "v1" "SelfSubjectReview" "selfsubjectreviews" "selfsubjectreview").verbs(CREATE),
    kind!(cluster "authentication.k8s.io" "v1" "TokenReview" "tokenreviews" "tokenreview").verbs(CREATE),
    kind!(ns "authorization.k8s.io" "v1" "LocalSubjectAccessReview" "localsubjectaccessreviews" "localsubjectaccessreview")
        .verbs(CREATE),
    kind!(cluster "authorization.k8s.io" "v1" "SelfSubjectAccessReview" "selfsubjectaccessreviews" "selfsubjectaccessreview")
        .verbs(CREATE),
    kind!(cluster "authorization.k8s.io" "v1" "SelfSubjectRulesReview" "selfsubjectrulesreviews" "selfsubjectrulesreview")
        .verbs(CREATE),
    kind!(cluster "authorization.k8s.io" "v1" "SubjectAccessReview" "subjectaccessreviews" "subjectaccessreview").verbs(CREATE),
    kind!(ns "autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler")
        .short(&["hpa"]).cat(ALL).subs(&[status("HorizontalPodAutoscaler")]),
    kind!(ns "autoscaling" "v1" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler")
        .short(&["hpa"]).cat(ALL).subs(&[status("HorizontalPodAutoscaler")]),
    kind!(ns "batch" "v1" "CronJob" "cronjobs" "cronjob").short(&["cj"]).cat(ALL).subs(&[status("CronJob")]),
    kind!(ns "batch" "v1" "Job" "jobs" "job").cat(ALL).subs(&[status("Job")]),
    kind!(cluster "certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest")
        .short(&["csr"])
        .subs(&[sub("approval", "CertificateSigningRequest", EDIT), status("CertificateSigningRequest")]),
    kind!(cluster "networking.k8s.io" "v1" "IngressClass" "ingressclasses" "ingressclass"),
    kind!(ns "networking.k8s.io" "v1" "Ingress" "ingresses" "ingress").short(&["ing"]).subs(&[status("Ingress")]),
    kind!(cluster "networking.k8s.io" "v1" "IPAddress" "ipaddresses" "ipaddress").short(&["ip"]),
    kind!(ns "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" "networkpolicy").short(&["netpol"]),
    kind!(cluster "networking.k8s.io" "v1" "ServiceCIDR" "servicecidrs" "servicecidr").subs(&[status("ServiceCIDR")]),
    kind!(ns "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" "poddisruptionbudget").short(&["pdb"])
        .subs(&[status("PodDisruptionBudget")]),
    kind!(cluster "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding").put(),
    kind!(cluster "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole").put(),
    kind!(ns "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding").put(),
    kind!(ns "rbac.authorization.k8s.io" "v1" "Role" "roles" "role").put(),
    kind!(cluster "storage.k8s.io" "v1" "CSIDriver" "csidrivers" "csidriver").answered(),
    kind!(cluster "storage.k8s.io" "v1" "CSINode" "csinodes" "csinode").answered(),
    kind!(ns "storage.k8s.io" "v1" "CSIStorageCapacity" "csistoragecapacities" "csistoragecapacity"),
    kind!(cluster "storage.k8s.io" "v1" "StorageClass" "storageclasses" "storageclass").answered().short(&["sc"]),
    kind!(cluster "storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments" "volumeattachment").answered()
        .subs(&[status("VolumeAttachment")]),
    kind!(cluster "storage.k8s.io" "v1" "VolumeAttributesClass" "volumeattributesclasses" "volumeattributesclass").answered()
        .short(&["vac"]),
    kind!(cluster "admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicy" "mutatingadmissionpolicies" "mutatingadmissionpolicy").cat(EXT),
    kind!(cluster "admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicyBinding" "mutatingadmissionpolicybindings" "mutatingadmissionpolicybinding").cat(EXT),
    kind!(cluster "admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" "mutatingwebhookconfiguration").cat(EXT),
    kind!(cluster "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" "validatingadmissionpolicy").cat(EXT)
        .subs(&[status("ValidatingAdmissionPolicy")]),
    kind!(cluster "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" "validatingadmissionpolicybinding").cat(EXT),
    kind!(cluster "admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" "validatingwebhookconfiguration").cat(EXT),
    kind!(cluster "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" "customresourcedefinition")
        .short(&["crd", "crds"]).cat(EXT).subs(&[status("CustomResourceDefinition")]),
    kind!(cluster "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" "priorityclass").short(&["pc"]),
    kind!(ns "coordination.k8s.io" "v1" "Lease" "leases" "lease").put(),
    kind!(cluster "node.k8s.io" "v1" "RuntimeClass" "runtimeclasses" "runtimeclass"),
    kind!(ns "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" "endpointslice"),
    kind!(cluster "flowcontrol.apiserver.k8s.io" "v1" "FlowSchema" "flowschemas" "flowschema").subs(&[status("FlowSchema")]),
    kind!(cluster "flowcontrol.apiserver.k8s.io" "v1" "PriorityLevelConfiguration" "prioritylevelconfigurations" "prioritylevelconfiguration")
        .subs(&[status("PriorityLevelConfiguration")]),
    kind!(cluster "resource.k8s.io" "v1" "DeviceClass" "deviceclasses" "deviceclass").answered(),
    kind!(ns "resource.k8s.io" "v1" "ResourceClaim" "resourceclaims" "resourceclaim").answered().subs(&[status("ResourceClaim")]),
    kind!(ns "resource.k8s.io" "v1" "ResourceClaimTemplate" "resourceclaimtemplates" "resourceclaimtemplate").answered(),
    kind!(cluster "resource.k8s.io" "v1" "ResourceSlice" "resourceslices" "resourceslice").answered(),
    kind!(cluster "metrics.k8s.io" "v1beta1" "NodeMetrics" "nodes" "").verbs(READ),
    kind!(ns "metrics.k8s.io" "v1beta1" "PodMetrics" "pods" "").verbs(READ),
];
