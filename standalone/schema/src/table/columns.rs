//! Which columns each kind has.

/// A `TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The head of the column; `kubectl` prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` ...
    pub r#type: &'static str,
    /// `name` for the column that names the object, else `""`.
    pub format: &'static str,
    /// For clients that draw tables of their own: `kubectl` prints none.
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, r#type: "string", format: "", description, priority: 0 }
}

const fn number(name: &'static str, description: &'static str) -> Column {
    Column { name, r#type: "integer", format: "", description, priority: 0 }
}

const fn flag(name: &'static str, description: &'static str) -> Column {
    Column { name, r#type: "boolean", format: "", description, priority: 0 }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, r#type: "string", format: "", description, priority: 1 }
}

const NAME: Column =
    Column { name: "Name", r#type: "string", format: "name", description: "The object's name.", priority: 0 };
const AGE: Column = text("Age", "How long ago the object was made.");
const CREATED: Column = text("Created At", "When the object was made.");
const CONTAINERS: Column = wide("Containers", "Names of the template's containers.");
const IMAGES: Column = wide("Images", "Images of the template's containers.");
const SELECTOR: Column = wide("Selector", "Labels of the pods it looks after.");
const DATA: Column = number("Data", "How many keys it holds.");
const STATUS: Column = text("Status", "The state it is in.");

const POD: &[Column] = &[
    NAME,
    text("Ready", "Ready containers of all containers."),
    text("Status", "The state of the pod, or why it is not running."),
    text("Restarts", "How often its containers were started again, and when last."),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The node it runs on."),
    wide("Nominated Node", "The node that is being made free for it."),
    wide("Readiness Gates", "Conditions beside the containers' that make it ready."),
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Ready pods of wanted pods."),
    text("Up-to-date", "Pods of the newest template."),
    text("Available", "Pods that have been ready long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", "Pods wanted."),
    number("Current", "Pods there are."),
    number("Ready", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const STATEFUL_SET: &[Column] = &[NAME, text("Ready", "Ready pods of wanted pods."), AGE, CONTAINERS, IMAGES];
const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", "Nodes that should run the pod."),
    number("Current", "Nodes that run it."),
    number("Ready", "Nodes where it is ready."),
    number("Up-to-date", "Nodes that run the newest template."),
    number("Available", "Nodes where it has been ready long enough."),
    text("Node Selector", "Labels of the nodes it is for."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const JOB: &[Column] = &[
    NAME,
    STATUS,
    text("Completions", "Pods that succeeded of those wanted."),
    text("Duration", "From start to end."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When it runs."),
    text("Timezone", "The time zone of the schedule."),
    flag("Suspend", "Whether it pauses."),
    number("Active", "Jobs running now."),
    text("Last Schedule", "When it ran last."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How it is reached."),
    text("Cluster-IP", "Its address inside the cluster."),
    text("External-IP", "Its addresses outside the cluster."),
    text("Port(s)", "Its ports, with node ports."),
    AGE,
    wide("Selector", "Labels of its pods."),
];
const NODE: &[Column] = &[
    NAME,
    STATUS,
    text("Roles", "What the node is for."),
    AGE,
    text("Version", "The version of its node agent."),
    wide("Internal-IP", "Its address inside the cluster."),
    wide("External-IP", "Its address outside the cluster."),
    wide("OS-Image", "Its operating system."),
    wide("Kernel-Version", "Its kernel."),
    wide("Container-Runtime", "What runs its containers."),
];
const EVENT: &[Column] = &[
    text("Last Seen", "When it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "One word for what happened."),
    text("Object", "What it is about."),
    wide("Subobject", "The part of the object."),
    wide("Source", "Who reported it."),
    text("Message", "What happened."),
    wide("First Seen", "When it happened first."),
    Column {
        name: "Count",
        r#type: "integer",
        format: "",
        description: "How often it happened.",
        priority: 1,
    },
    Column { name: "Name", r#type: "string", format: "name", description: "The event's name.", priority: 1 },
];
const PV: &[Column] = &[
    NAME,
    text("Capacity", "Its size."),
    text("Access Modes", "How it can be mounted."),
    text("Reclaim Policy", "What happens to it after its claim."),
    STATUS,
    text("Claim", "The claim it is bound to."),
    text("StorageClass", "The class it is of."),
    text("VolumeAttributesClass", "The attributes class it has."),
    text("Reason", "Why it is in its state."),
    AGE,
    wide("VolumeMode", "File system or block device."),
];
const PVC: &[Column] = &[
    NAME,
    STATUS,
    text("Volume", "The volume it is bound to."),
    text("Capacity", "The volume's size."),
    text("Access Modes", "How it is mounted."),
    text("StorageClass", "The class it asks for."),
    text("VolumeAttributesClass", "The attributes class it has."),
    AGE,
    wide("VolumeMode", "File system or block device."),
];
const BINDING: &[Column] = &[
    NAME,
    text("Role", "The role it grants."),
    AGE,
    wide("Users", "To which users."),
    wide("Groups", "To which groups."),
    wide("ServiceAccounts", "To which service accounts."),
];
const QUOTA: &[Column] =
    &[NAME, text("Request", "Used and allowed requests."), text("Limit", "Used and allowed limits."), AGE];
const METRICS: &[Column] = &[
    NAME,
    text("cpu", "Processor time used per time, in cores."),
    text("memory", "The working set."),
    text("Window", "The time over which the use of processors was measured."),
];

/// The columns of a kind.
#[rustfmt::skip]
pub fn of(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => POD,
        "Deployment" => DEPLOYMENT,
        "ReplicaSet" | "ReplicationController" => REPLICA_SET,
        "StatefulSet" => STATEFUL_SET,
        "DaemonSet" => DAEMON_SET,
        "Job" => JOB,
        "CronJob" => CRON_JOB,
        "Service" => SERVICE,
        "Node" => NODE,
        "Event" => EVENT,
        "PersistentVolume" => PV,
        "PersistentVolumeClaim" => PVC,
        "RoleBinding" | "ClusterRoleBinding" => BINDING,
        "ResourceQuota" => QUOTA,
        "NodeMetrics" | "PodMetrics" => METRICS,
        "Role" | "ClusterRole" | "LimitRange" | "CustomResourceDefinition" => const { &[NAME, CREATED] },
        "Namespace" => const { &[NAME, STATUS, AGE] },
        "ConfigMap" => const { &[NAME, DATA, AGE] },
        "Secret" => const { &[NAME, text("Type", "What it is for."), DATA, AGE] },
        "ServiceAccount" => const { &[NAME, number("Secrets", "How many secrets it names."), AGE] },
        "Endpoints" => const { &[NAME, text("Endpoints", "Addresses and ports."), AGE] },
        "EndpointSlice" => const { &[NAME, text("AddressType", "The family of the addresses."), text("Ports", "The ports."),
            text("Endpoints", "The addresses."), AGE] },
        "Ingress" => const { &[NAME, text("Class", "Who serves it."), text("Hosts", "For which host names."),
            text("Address", "Where it is reached."), text("Ports", "On which ports."), AGE] },
        "IngressClass" => const { &[NAME, text("Controller", "Who serves it."), text("Parameters", "Where its parameters are."), AGE] },
        "NetworkPolicy" => const { &[NAME, text("Pod-Selector", "Labels of the pods it is about."), AGE] },
        "Lease" => const { &[NAME, text("Holder", "Who holds it."), AGE] },
        "PodDisruptionBudget" => const { &[NAME, text("Min Available", "Pods that must stay."),
            text("Max Unavailable", "Pods that may be away."), number("Allowed Disruptions", "Pods that may go now."), AGE] },
        "HorizontalPodAutoscaler" => const { &[NAME, text("Reference", "What it scales."), text("Targets", "Measured and wanted."),
            text("MinPods", "The fewest pods."), text("MaxPods", "The most pods."), text("Replicas", "Pods there are."), AGE] },
        "PriorityClass" => const { &[NAME, number("Value", "The priority."), flag("Global-Default", "Whether it is for pods that name none."),
            AGE, text("PreemptionPolicy", "Whether its pods push others out.")] },
        "StorageClass" => const { &[NAME, text("Provisioner", "Who makes the volumes."), text("ReclaimPolicy", "What happens to them after their claim."),
            text("VolumeBindingMode", "When they are made."), flag("AllowVolumeExpansion", "Whether they can grow."), AGE] },
        "ControllerRevision" => const { &[NAME, text("Controller", "Whose revision it is."), number("Revision", "Its number."), AGE] },
        "CertificateSigningRequest" => const { &[NAME, AGE, text("SignerName", "Who should sign it."), text("Requestor", "Who asked."),
            text("RequestedDuration", "For how long."), text("Condition", "What became of it.")] },
        "RuntimeClass" => const { &[NAME, text("Handler", "The runtime's name for it."), AGE] },
        "VolumeAttachment" => const { &[NAME, text("Attacher", "Who attaches it."), text("PV", "Which volume."), text("Node", "To which node."),
            flag("Attached", "Whether it is attached."), AGE] },
        "CSINode" => const { &[NAME, number("Drivers", "How many drivers it has."), AGE] },
        "CSIDriver" => const { &[NAME, flag("AttachRequired", "Whether volumes are attached first."), flag("PodInfoOnMount", "Whether it is told the pod."),
            flag("StorageCapacity", "Whether it says how much is free."), AGE] },
        "CSIStorageCapacity" => const { &[NAME, text("StorageClassName", "Of which class."), text("Capacity", "How much is free."), AGE] },
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => const { &[NAME, number("Webhooks", "How many webhooks."), AGE] },
        "ValidatingAdmissionPolicy" => const { &[NAME, number("Validations", "How many validations."), text("ParamKind", "The kind of its parameters."), AGE] },
        "MutatingAdmissionPolicy" => const { &[NAME, number("Mutations", "How many mutations."), text("ParamKind", "The kind of its parameters."), AGE] },
        "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding" => const { &[NAME, text("PolicyName", "The policy."), text("ParamRef", "Its parameters."), AGE] },
        "APIService" => const { &[NAME, text("Service", "Who serves it."), text("Available", "Whether it answers."), AGE] },
        "FlowSchema" => const { &[NAME, text("PriorityLevel", "The level of its requests."), number("MatchingPrecedence", "Its place in the order."),
            text("DistinguisherMethod", "What tells its flows apart."), AGE] },
        "PriorityLevelConfiguration" => const { &[NAME, text("Type", "Whether it is limited."), AGE] },
        "PodTemplate" => const { &[NAME, text("Containers", "Names of its containers."), text("Images", "Images of its containers."),
            text("Pod Labels", "Labels of its pods.")] },
        "ComponentStatus" => const { &[NAME, STATUS, text("Message", "What it says."), text("Error", "What went wrong.")] },
        "IPAddress" => const { &[NAME, text("ParentRef", "Whose address it is.")] },
        "ServiceCIDR" => const { &[NAME, text("CIDRs", "The ranges."), AGE] },
        "ResourceClaim" => const { &[NAME, text("State", "What became of it."), AGE] },
        "ResourceSlice" => const { &[NAME, text("Node", "Whose resources."), text("Driver", "Whose driver."), text("Pool", "Of which pool."), AGE] },
        "VolumeAttributesClass" => const { &[NAME, text("DriverName", "The driver."), AGE] },
        _ => const { &[NAME, AGE] },
    }
}
