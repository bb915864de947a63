//! What a server is started with.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
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
    pub readiness: Readiness,
}

/// How a part that runs beside the API server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ok,
    /// It works; people should know this.
    Noted(String),
    Failed(String),
}

type Look = Arc<dyn Fn() -> Health + Send + Sync>;

type Count = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What `/readyz` and `/metrics` ask besides the API server's own parts: names, and whom to ask.
#[derive(Clone, Default)]
pub struct Readiness {
    looks: Vec<(&'static str, Look)>,
    unreadable: Vec<(&'static str, Count)>,
}

impl Readiness {
    pub fn with(mut self, name: &'static str, look: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        self.looks.push((name, Arc::new(look)));
        self
    }

    /// `count` says how many revisions of objects a part could not read, of all times.
    pub fn with_unreadable(
        mut self,
        name: &'static str,
        count: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.unreadable.push((name, Arc::new(count)));
        self
    }

    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.unreadable.iter().map(|(name, count)| (*name, count()))
    }

    /// A line for each part, whether one has failed, and whether any has something to say. Strangers are not
    /// told what.
    pub(crate) fn lines(&self, to_stranger: bool) -> (String, bool, bool) {
        let (mut text, mut failed, mut noted) = (String::new(), false, false);
        let told = |what: String| if to_stranger { "reason withheld".to_owned() } else { what };
        for (name, look) in &self.looks {
            match look() {
                Health::Ok => text.push_str(&format!("[+]{name} ok\n")),
                Health::Noted(what) => {
                    noted = true;
                    text.push_str(&format!("[+]{name} ok, but: {}\n", told(what)));
                }
                Health::Failed(why) => {
                    failed = true;
                    text.push_str(&format!("[-]{name} failed: {}\n", told(why)));
                }
            }
        }
        (text, failed, noted)
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.looks.iter().map(|(name, _)| name)).finish()
    }
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
            readiness: Readiness::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_its_parts_say_and_strangers_hear_no_names() {
        let readiness = Readiness::default()
            .with("a", || Health::Ok)
            .with("b", || Health::Noted("services default/web".into()))
            .with("c", || Health::Failed("no list".into()));
        let (text, failed, noted) = readiness.lines(false);
        assert_eq!(text, "[+]a ok\n[+]b ok, but: services default/web\n[-]c failed: no list\n");
        assert!(failed && noted && !readiness.lines(true).0.contains("default/web"));
    }
}
