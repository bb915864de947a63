//! `skerry status`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use skerry_client::{Client, Follow, Item, News, Options, Source, Target, connect};

use crate::{args::FolderArgs, paths::Paths, supervise};

pub fn run(args: FolderArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(report(&args))
}

/// Prints a line for each process, for the API and for each node. Fails where something that was started does
/// not work.
async fn report(args: &FolderArgs) -> anyhow::Result<ExitCode> {
    let paths = Paths(args);
    let mut well = true;
    for role in ["up", "server", "node", "dns"] {
        match supervise::holder(&paths.lock(role))? {
            Some(pid) => println!("{role:<8} runs, process {pid}"),
            None => println!("{role:<8} does not run{}", elsewhere(Path::new("/proc"), role)),
        }
    }
    let kubeconfig = paths.kubeconfig("admin");
    if !kubeconfig.exists() {
        println!("{:<8} is on another machine, or no cluster was made here", "server");
        return Ok(ExitCode::FAILURE);
    }
    let nodes = match nodes(&kubeconfig).await {
        Ok(nodes) => nodes,
        Err(error) => {
            println!("{:<8} does not answer: {error:#}", "api");
            return Ok(ExitCode::FAILURE);
        }
    };
    println!("{:<8} answers", "api");
    for node in nodes {
        let ready = is_ready(&node);
        well &= ready;
        let name = node.metadata.name.unwrap_or_default();
        println!("{:<8} {name} {}", "node", if ready { "Ready" } else { "NotReady" });
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where a role runs that nobody has here: a cluster in namespaces has run folders of its own.
fn elsewhere(proc: &Path, role: &str) -> String {
    let link = |path: PathBuf| std::fs::read_link(path).ok();
    let own = link(proc.join("self/ns/mnt"));
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        let namespace = link(entry.path().join("ns/mnt"))?;
        let program = in_role(&words, role).filter(|_| Some(namespace) != own)?;
        Some((pid, program.to_owned()))
    });
    match found.min() {
        Some((pid, program)) => format!(
            " here, but as process {pid} in namespaces of its own: `nsenter -t {pid} -a {program} status` asks there"
        ),
        None => String::new(),
    }
}

/// Our program's path, where these words, each ended by a zero, started it in this role.
fn in_role<'a>(words: &'a [u8], role: &str) -> Option<&'a str> {
    let mut words = words.split(|byte| *byte == 0);
    let program = std::str::from_utf8(words.next()?).ok()?;
    (Path::new(program).file_name()? == "skerry" && words.next()? == role.as_bytes()).then_some(program)
}

async fn nodes(kubeconfig: &Path) -> anyhow::Result<Vec<Node>> {
    let nodes: Api<Item<Node>> = Api::all(client(kubeconfig).await?);
    let listed = nodes.list(&kube::api::ListParams::default()).await?;
    Ok(listed.items.into_iter().map(Item::any).collect())
}

/// Returns once the node is Ready; told by a watch that outlives an API server that is not up yet.
pub async fn node_ready(kubeconfig: &Path, name: &str) -> anyhow::Result<()> {
    let target = Target::named("/api/v1/nodes", name);
    let mut node = Follow::new(client(kubeconfig).await?, target, Options::default());
    loop {
        let told = match node.next().await {
            News::Listed(object) | News::Applied(object) => object.item().ok().map(Item::any),
            // What interrupts it is tried again; what is wrong stands in the server's own log, too.
            _ => None,
        };
        if told.is_some_and(|node| is_ready(&node)) {
            return Ok(());
        }
    }
}

/// Sets a label without a value.
pub async fn label_node(kubeconfig: &Path, name: &str, label: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client(kubeconfig).await?);
    let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": {label: ""}}}));
    let labelled = nodes.patch_metadata(name, &PatchParams::default(), &patch).await;
    labelled.map(drop).with_context(|| format!("label node {name} with {label}"))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    Ok(connect(&Source::Kubeconfig(kubeconfig.to_owned())).await?.client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_role_that_runs_in_other_namespaces_is_found_there() {
        let proc = std::env::temp_dir().join(format!("skerry-proc-{}", std::process::id()));
        let process = |name: &str, words: &str, namespace: &str| {
            std::fs::create_dir_all(proc.join(name).join("ns")).unwrap();
            std::fs::write(proc.join(name).join("cmdline"), words).unwrap();
            symlink(namespace, proc.join(name).join("ns/mnt")).unwrap();
        };
        process("self", "skerry\0status\0", "mnt:[1]");
        process("10", "/opt/bin/skerry\0server\0--bind\0[::]:1\0", "mnt:[1]");
        process("30", "/opt/bin/skerry\0server\0", "mnt:[2]");
        process("20", "/opt/bin/skerry\0server\0", "mnt:[3]");
        process("40", "vi\0server\0", "mnt:[2]");
        process("x", "/opt/bin/skerry\0node\0", "mnt:[2]");
        let found = elsewhere(&proc, "server");
        assert!(found.contains("`nsenter -t 20 -a /opt/bin/skerry status`"), "{found}");
        assert_eq!(elsewhere(&proc, "node"), "");
        std::fs::remove_dir_all(&proc).unwrap();
    }
}
