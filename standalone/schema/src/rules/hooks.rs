//! Which code holds for which definition.

use serde_json::{Map, Value};

use super::{
    Errors, access, endpoints, job, network, objects, pod, pod_defaults, pod_parts, protection, service,
    storage, workload,
};

type Object = Map<String, Value>;

/// Defaults that depend on other fields. Runs after the table's defaults of this object, before those of its
/// fields.
pub fn defaults(definition: &str, map: &mut Object) {
    match definition.strip_prefix("io.k8s.").unwrap_or(definition) {
        "api.core.v1.Pod" => pod_defaults::pod(map),
        "api.core.v1.Container" | "api.core.v1.EphemeralContainer" => pod_defaults::container(map),
        "api.core.v1.Volume" => pod_defaults::volume(map),
        "api.core.v1.ServiceSpec" => service::defaults(map),
        "api.core.v1.ReplicationController" => workload::replication_controller_defaults(map),
        "api.apps.v1.DeploymentStrategy"
        | "api.apps.v1.StatefulSetUpdateStrategy"
        | "api.apps.v1.DaemonSetUpdateStrategy" => workload::rolling_update_defaults(map),
        "api.apps.v1.StatefulSetSpec" => workload::claim_template_defaults(map),
        "api.batch.v1.Job" => workload::job_defaults(map),
        "api.autoscaling.v2.HorizontalPodAutoscalerSpec" => workload::autoscaler_defaults(map),
        "api.networking.v1.NetworkPolicySpec" => network::policy_defaults(map),
        "api.rbac.v1.Subject" => access::subject_defaults(map),
        "api.core.v1.LimitRangeItem" => objects::limit_range_defaults(map),
        "api.core.v1.Secret" => objects::secret_defaults(map),
        "api.core.v1.NodeSpec" => objects::node_defaults(map),
        "api.resource.v1.ExactDeviceRequest" => objects::device_request_defaults(map),
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionNames" => {
            objects::resource_names_defaults(map);
        }
        _ => {}
    }
}

/// Faults between fields. Runs after the table's rules for this object and its fields.
pub fn validate(definition: &str, map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    match definition.strip_prefix("io.k8s.").unwrap_or(definition) {
        "api.core.v1.Pod" => {
            pod_parts::pod(map, old, errors);
            storage::own_claims(map, errors);
            protection::refuse(map, old, path, errors);
        }
        "api.core.v1.PodTemplateSpec" => protection::refuse(map, old, path, errors),
        "api.core.v1.PodSpec" => {
            pod::spec(map, path, errors);
            pod_parts::spec(map, path, errors);
        }
        "api.core.v1.EnvFromSource" => pod_parts::env_from(map, path, errors),
        "api.core.v1.VolumeMount" => pod_parts::mount(map, path, errors),
        "api.core.v1.SecurityContext" => pod_parts::security(map, path, errors),
        "api.core.v1.SeccompProfile" => pod_parts::seccomp(map, path, errors),
        "api.core.v1.NodeSelectorTerm" => pod_parts::node_term(map, path, errors),
        "api.core.v1.PodAffinityTerm" => pod_parts::pod_term(map, path, errors),
        "api.core.v1.TopologySpreadConstraint" => pod_parts::spread(map, path, errors),
        "api.core.v1.PodDNSConfig" => pod_parts::dns(map, path, errors),
        "api.core.v1.HTTPHeader" => pod_parts::header(map, path, errors),
        "api.core.v1.VolumeProjection" => pod_parts::projection(map, path, errors),
        "api.core.v1.DownwardAPIVolumeFile" => pod_parts::downward_file(map, path, errors),
        "api.core.v1.Toleration" => pod::toleration(map, path, errors),
        "api.core.v1.EnvVar" => pod::env(map, path, errors),
        "api.core.v1.Lifecycle" => pod::lifecycle(map, path, errors),
        "api.core.v1.ResourceRequirements" => {
            pod::resources(map, path, errors);
            pod_parts::resources(map, path, errors);
        }
        "api.core.v1.NodeSelectorRequirement" => pod::node_requirement(map, path, errors),
        "api.core.v1.Volume" => pod::volume(map, path, errors),
        "api.core.v1.NodeSpec" => objects::node(map, old, path, errors),
        "api.core.v1.ServiceSpec" => service::validate(map, old, path, errors),
        "api.core.v1.ReplicationControllerSpec" => workload::replication_controller(map, path, errors),
        "api.apps.v1.DeploymentSpec" => workload::deployment(map, path, errors),
        "api.apps.v1.ReplicaSetSpec" => workload::replica_set(map, path, errors),
        "api.apps.v1.StatefulSetSpec" => workload::stateful_set(map, old, path, errors),
        "api.apps.v1.DaemonSetSpec" => workload::daemon_set(map, path, errors),
        "api.batch.v1.Job" => job::object(map, old, errors),
        "api.batch.v1.JobSpec" => job::spec(map, path, errors),
        "api.batch.v1.CronJobSpec" => job::cron(map, path, errors),
        "api.autoscaling.v2.HorizontalPodAutoscalerSpec"
        | "api.autoscaling.v1.HorizontalPodAutoscalerSpec" => {
            workload::autoscaler(map, path, errors);
        }
        "api.policy.v1.PodDisruptionBudgetSpec" => workload::disruption_budget(map, path, errors),
        "api.core.v1.ConfigMap" => objects::config_map(map, old, errors),
        "api.core.v1.Secret" => objects::secret(map, old, errors),
        "api.core.v1.Event" => objects::event(map, errors),
        "api.scheduling.v1.PriorityClass" => objects::priority_class(map, errors),
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" => {
            objects::resource_definition(map, errors);
        }
        "kube-aggregator.pkg.apis.apiregistration.v1.APIService" => objects::api_service(map, errors),
        "api.discovery.v1.EndpointSlice" => endpoints::slice(map, errors),
        "api.core.v1.EndpointSubset" => endpoints::subset(map, path, errors),
        "api.core.v1.Service" => service::source_ranges(map, errors),
        "api.networking.v1.ServiceCIDRSpec" => network::service_cidr(map, path, errors),
        "api.networking.v1.IngressSpec" => network::ingress(map, path, errors),
        "api.networking.v1.IngressBackend" => network::ingress_backend(map, path, errors),
        "api.networking.v1.HTTPIngressPath" => network::ingress_path(map, path, errors),
        "api.networking.v1.NetworkPolicyPeer" => network::policy_peer(map, path, errors),
        "api.networking.v1.NetworkPolicyPort" => network::policy_port(map, path, errors),
        "api.core.v1.PersistentVolumeSpec" => storage::volume(map, old, path, errors),
        "api.core.v1.PersistentVolumeClaimSpec" => {
            // In a template it may change as all of the template may.
            storage::claim(map, old.filter(|_| path == "spec"), path, errors);
        }
        "api.core.v1.PersistentVolumeClaimTemplate" => storage::claim_template(map, path, errors),
        "api.rbac.v1.Role" => access::role(map, true, errors),
        "api.rbac.v1.ClusterRole" => access::role(map, false, errors),
        "api.rbac.v1.RoleBinding" => access::binding(map, true, errors),
        "api.rbac.v1.ClusterRoleBinding" => access::binding(map, false, errors),
        "api.rbac.v1.Subject" => access::subject(map, path, errors),
        _ => {}
    }
}
