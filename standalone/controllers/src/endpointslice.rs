//! wip
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
