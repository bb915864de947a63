//! Where a request comes from, and what the echo server says to it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result};
use skerry_lab::{Kubectl, Lab, Node, output};

/// By chance one of two backends is left out by as many requests once in 8 million runs.
const REQUESTS: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

    /// As the services of the manifest name their ports.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

pub enum Client<'a> {
    Outside(&'a Lab),
    Node(&'a Node),
    Pod { kubectl: &'a Kubectl, name: &'a str },
}

/// Who answered, and whom it took for the client.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Answer {
    pub host: String,
    pub peer: IpAddr,
}

impl Client<'_> {
    pub fn name(&self) -> String {
        match self {
            Client::Outside(_) => "outside".to_owned(),
            Client::Node(node) => format!("node {}", node.name()),
            Client::Pod { name, .. } => format!("pod {name}"),
        }
    }

    /// Runs a line of bash there.
    pub fn bash(&self, line: &str) -> Result<String> {
        let mut command = match self {
            Client::Outside(lab) => lab.client().command("bash"),
            Client::Node(node) => node.command("bash")?,
            Client::Pod { kubectl, name } => {
                let mut exec: Command = kubectl.command(&format!("exec {name} --"));
                exec.arg("bash");
                exec
            }
        };
        output(command.args(["-c", line])).with_context(|| format!("from {}", self.name()))
    }

    /// One request.
    pub fn ask(&self, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
        let answers = self.ask_until(protocol, to, 1)?;
        answers.into_iter().next().context("an answer")
    }

    /// Requests, each on a connection or from a socket of its own, until two backends have answered or it is
    /// clear that only one does. Not more of them than that: each leaves an entry in the nodes' tables.
    pub fn ask_both(&self, protocol: Protocol, to: SocketAddr) -> Result<BTreeSet<Answer>> {
        self.ask_until(protocol, to, 2)
    }

    fn ask_until(&self, protocol: Protocol, to: SocketAddr, backends: usize) -> Result<BTreeSet<Answer>> {
        let request = match protocol {
            Protocol::Tcp => format!("curl -gsS --max-time 3 http://{to}/"),
            Protocol::Udp => format!(
                "exec 3<>/dev/udp/{}/{} && echo hello >&3 && timeout 3 head -n 1 <&3",
                to.ip(),
                to.port()
            ),
        };
        let said = self
            .bash(&format!(
                "declare -A seen; for i in $(seq {REQUESTS}); do line=$({request}) || exit 1; echo \"$line\"; \
                 seen[$line]=1; if [ ${{#seen[@]}} -ge {backends} ]; then break; fi; done"
            ))
            .with_context(|| format!("{} {to}", protocol.name()))?;
        said.lines().map(|line| answer(line).with_context(|| format!("{to} said {line:?}"))).collect()
    }
}

/// `host=NAME peer=ADDRESS`
fn answer(line: &str) -> Option<Answer> {
    let (host, peer) = line.strip_prefix("host=")?.split_once(" peer=")?;
    Some(Answer { host: host.to_owned(), peer: peer.parse().ok()? })
}
