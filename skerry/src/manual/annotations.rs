/// An annotation that somebody reads.
pub struct Annotation {
    pub name: &'static str,
    /// Whose.
    pub object: &'static str,
    pub meaning: &'static str,
    pub values: &'static str,
    pub default: &'static str,
}

pub const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: "service.skerry.io/balancing",
        object: "Service",
        meaning: "how a backend is chosen: by lot, or by a Maglev table, in which a client keeps its backend whatever node it reaches",
        values: "`random`, `maglev`",
        default: "`--balancing`; `maglev` where answers are direct. For `skerry lb`: `maglev`",
    },
    Annotation {
        name: "service.skerry.io/maglev-table-size",
        object: "Service",
        meaning: "elements of its Maglev tables at least; rounded up to a prime",
        values: "251 to 65521",
        default: "`--maglev-table-size`",
    },
    Annotation {
        name: "service.skerry.io/forwarding-mode",
        object: "Service",
        meaning: "how packets from outside reach backends on other nodes: answers come back through the node that the client has reached, or the backend's node answers itself",
        values: "`snat`, `dsr`",
        default: "`--load-balancer-mode`",
    },
    Annotation {
        name: "service.skerry.io/reset-on-endpoint-removal",
        object: "Service",
        meaning: "TCP connections to endpoints that are gone are ended",
        values: "`true`, `false`",
        default: "`false`",
    },
    Annotation {
        name: "service.skerry.io/weight",
        object: "EndpointSlice",
        meaning: "the share of each of its endpoints, against those of the Service's other slices",
        values: "1 to 100",
        default: "1",
    },
    Annotation {
        name: "skerry.io/load-balancer-ips",
        object: "Service",
        meaning: "the load-balancer addresses that it asks for",
        values: "addresses, with commas between them",
        default: "one of a pool for each family",
    },
    Annotation {
        name: "skerry.io/load-balancer-pool",
        object: "Service",
        meaning: "the pool that its load-balancer addresses come from",
        values: "a pool's name",
        default: "any pool that is not kept for those that ask for it",
    },
    Annotation {
        name: "skerry.io/load-balancer-sharing-key",
        object: "Service",
        meaning: "Services of one namespace with the same key may have one load-balancer address, with ports of their own",
        values: "any text",
        default: "an address of its own",
    },
    Annotation {
        name: "skerry.io/balancer-mode",
        object: "Service",
        meaning: "how `skerry lb` in front of the nodes forwards: with its own address, or as the client has sent it",
        values: "`snat`, `dsr`",
        default: "`snat`",
    },
    Annotation {
        name: "skerry.io/balancer-weight",
        object: "Node",
        meaning: "its share of the new connections that `skerry lb` in front of the nodes gives out",
        values: "1 to 256",
        default: "1",
    },
    Annotation {
        name: "skerry.io/socket-lb",
        object: "Pod",
        meaning: "whether its connections to Services are translated at the socket; else on its device, where a sidecar in it sees what it has dialled",
        values: "`true`, `false`",
        default: "`true`; `false` where a mesh's injector has put a sidecar into it",
    },
];

/// What else bears our name, and what it is.
pub const OTHER_NAMES: &[(&str, &str)] = &[
    ("skerry.io/pool", "the loadBalancerClass of Services that get addresses from pools"),
    ("skerry.io/AddressAssigned", "the condition of a Service whose addresses come from a pool"),
    ("skerry.io/proxy", "who tells an Event"),
    ("skerry.io/node", "the node of a sandbox, at the container runtime"),
    ("skerry.io/cgroup", "the cgroup of a sandbox, at the container runtime"),
    (
        "skerry.io/termination-message-file",
        "where a container leaves its last words, at the container runtime",
    ),
    ("dns.skerry.io/port", "on a Node: the port at which it answers for names; its DNS process sets it"),
    (
        "skerry.io/local-path",
        "the default StorageClass, its provisioner, a volume's finalizer, and on a Node: where its folders are",
    ),
    ("skerry.io/local-path-node", "on a PersistentVolume: the node whose folder it is"),
    ("skerry.io/subscribed", "an event that the node agent makes for itself"),
];
