use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use skerry_dns::serve::{Lookup, Told, ask_admin};
use skerry_kubelet::spec::dns::{ClusterDns, config, parse_resolv_conf};

use crate::cli::ApiOptions;

#[derive(Clone, Debug, Args)]
pub struct LookupArgs {
    /// What a program would look up; with a final dot: as it stands
    name: String,
    /// NAMESPACE/POD, or a pod of the namespace default: its search list counts
    #[arg(long)]
    from: Option<String>,
    /// A, AAAA, SRV, PTR …
    #[arg(long = "type", default_value = "A")]
    kind: String,
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    #[arg(long, default_value = "/run/skerry")]
    run_dir: PathBuf,
    #[command(flatten)]
    api: ApiOptions,
}

pub fn run(args: LookupArgs) -> anyhow::Result<ExitCode> {
    let socket = args.run_dir.join("dns/admin.sock");
    let host = parse_resolv_conf(&std::fs::read_to_string(&args.resolv_conf).unwrap_or_default());
    let (searches, options) = match &args.from {
        None => (Vec::new(), Vec::new()),
        Some(from) => {
            let (namespace, name) = from.split_once('/').unwrap_or(("default", from));
            let pod: Pod = args.api.pod(namespace, name)?;
            // Where the pod asks the node's own resolvers nothing of the cluster is known; any address will
            // do here.
            let servers = vec![std::net::Ipv4Addr::UNSPECIFIED.into()];
            let cluster = ClusterDns { servers: servers.clone(), domain: args.cluster_domain.clone() };
            let dns = config(&pod, &cluster, &host);
            if !dns.servers.contains(&servers[0].to_string()) {
                println!(
                    "pod {from} does not ask the cluster's DNS but {}: its dnsPolicy says so",
                    dns.servers.join(", ")
                );
                return Ok(ExitCode::FAILURE);
            }
            (dns.searches, dns.options)
        }
    };
    let names = candidates(&args.name, &searches, ndots(&options));
    for name in &names {
        let lookup = Lookup { name: name.clone(), kind: args.kind.clone() };
        let told = ask_admin(&socket, &lookup)?;
        print(name, &args.kind, &told);
        if !told.answers.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::FAILURE)
}

fn print(name: &str, kind: &str, told: &Told) {
    println!("{name} {}: {}", kind.to_uppercase(), told.code);
    for answer in &told.answers {
        println!("    {answer}");
    }
    for why in &told.why {
        println!("  {why}");
    }
}

/// resolv.conf(5): 1 if nothing is said.
fn ndots(options: &[String]) -> usize {
    let said = options.iter().rev().find_map(|option| option.strip_prefix("ndots:")?.parse().ok());
    said.unwrap_or(1)
}

/// The names that a program asks for, one after the other until one has an answer, as glibc does it.
fn candidates(name: &str, searches: &[String], ndots: usize) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let whole = format!("{name}.");
    let mut names: Vec<String> =
        searches.iter().map(|search| format!("{name}.{}.", search.trim_end_matches('.'))).collect();
    if name.matches('.').count() >= ndots {
        names.insert(0, whole);
    } else {
        names.push(whole);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_in_the_order_of_the_resolver() {
        let searches = ["ns.svc.cluster.local".to_owned(), "svc.cluster.local".to_owned()];
        let of = |name: &str, ndots: usize| candidates(name, &searches, ndots);
        assert_eq!(of("web", 5), ["web.ns.svc.cluster.local.", "web.svc.cluster.local.", "web."]);
        assert_eq!(of("a.b", 1), ["a.b.", "a.b.ns.svc.cluster.local.", "a.b.svc.cluster.local."]);
        assert_eq!(of("a.b.", 5), ["a.b."]);
        assert_eq!(ndots(&["ndots:5".into(), "rotate".into(), "ndots:2".into()]), 2);
        assert_eq!(ndots(&[]), 1);
    }
}
