//! What a server is started with.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use ipnetwork::IpNetwork;

use crate::claims::first_service_ip;

#[derive(Debug, Clone)]
pub struct Config {
    /// Files go to `data_dir/server`.
    pub data_dir: PathBuf,
    /// Port 0: one is chosen (tests).
    pub bind: SocketAddr,
    /// The address under which nodes and pods reach the server.
    pub advertise: IpAddr,
    /// More names and addresses for the serving certificate.
    pub extra_sans: Vec<String>,
    /// One range a family; the first address of the first belongs to the `kubernetes` Service.
    pub service_cidrs: Vec<IpNetwork>,
    pub nodeport_range: RangeInclusive<u16>,
    pub limits: Limits,
}

/// Bounds on what clients can make the server hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of clients with a certificate; a quarter as many more are let in without one.
    pub connections: usize,
    /// Requests under way, watches and upgrades left out.
    pub in_flight: usize,
    /// Watches, log streams and upgrades under way.
    pub long_running: usize,
    /// Bytes of a request's body (upstream's limit is 3 MiB too).
    pub body_bytes: usize,
    /// A request that takes longer is answered with 504.
    pub request_timeout: std::time::Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            in_flight: 400,
            long_running: 10_000,
            body_bytes: 3 << 20,
            request_timeout: std::time::Duration::from_secs(60),
        }
    }
}

impl Config {
    /// The project's defaults: services 10.96.0.0/12, node ports 30000–32767.
    pub fn new(data_dir: PathBuf, bind: SocketAddr, advertise: IpAddr) -> Self {
        let services = ipnetwork::Ipv4Network::new_checked([10, 96, 0, 0].into(), 12).map(IpNetwork::V4);
        Self {
            data_dir,
            bind,
            advertise,
            extra_sans: Vec::new(),
            service_cidrs: services.into_iter().collect(),
            nodeport_range: 30_000..=32_767,
            limits: Limits::default(),
        }
    }

    /// Every name under which the server may be called.
    pub fn serving_names(&self) -> Vec<String> {
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "::1",
        ]
        .map(str::to_owned)
        .to_vec();
        names.extend(self.service_cidrs.iter().map(|cidr| first_service_ip(*cidr).to_string()));
        names.push(self.advertise.to_string());
        if !self.bind.ip().is_unspecified() {
            names.push(self.bind.ip().to_string());
        }
        names.extend(self.extra_sans.iter().cloned());
        names.sort();
        names.dedup();
        names
    }
}
