//! Two nodes, a service over both, clients of each kind.

use super::{Agent, Api, TestNode, Underlay, net::Pod, roles::Role};

pub const CLUSTER_IP: &str = "10.96.0.10";
pub const NODE_PORT: u16 = 30080;

/// Two nodes with a serving pod each, a client pod on the first, a service over both.
pub struct Scene {
    // Dropped in this order: children, agents, pods, nodes.
    pub servers: Vec<Role>,
    pub agents: Vec<Agent>,
    pub client: Pod,
    _pods: Vec<Pod>,
    pub api: Api,
    pub near: TestNode,
    _far: TestNode,
    pub underlay: Underlay,
}

impl Scene {
    pub fn new(protocol: &str) -> Scene {
        Scene::on(Underlay::new(), protocol)
    }

    pub fn on(underlay: Underlay, protocol: &str) -> Scene {
        super::log();
        let api = Api::new();
        let (near, far) = (underlay.node("near", 1), underlay.node("far", 2));
        api.service("web", CLUSTER_IP, protocol, 80, NODE_PORT);
        for node in [&near, &far] {
            api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
            api.listen_in(&node.netns, &node.kubeconfig());
        }
        let agents = [&near, &far].map(|node| {
            let mut agent = Agent::start(node, node.config());
            agent.wait_ready();
            agent
        });
        let client = near.pod(9);
        let pods = vec![near.pod(5), far.pod(6)];
        let servers = vec![
            Role::start("serve", &["near", "8080"], |line| pods[0].command(&near, line)),
            Role::start("serve", &["far", "8080"], |line| pods[1].command(&far, line)),
        ];
        let mut scene =
            Scene { servers, agents: agents.into(), client, _pods: pods, api, near, _far: far, underlay };
        scene.backends(protocol, &["near", "far"]);
        for agent in &mut scene.agents {
            agent.wait("told of the endpoints", |progress| progress.slices == 1);
        }
        scene
    }

    pub fn backends(&self, protocol: &str, names: &[&str]) {
        let endpoints: Vec<(&str, &str)> = names
            .iter()
            .map(|name| (if *name == "near" { "10.244.1.5" } else { "10.244.2.6" }, *name))
            .collect();
        self.api.endpoints("web", protocol, 8080, &endpoints);
    }

    pub fn cluster_ip(&self) -> String {
        format!("{CLUSTER_IP}:80")
    }

    pub fn node_port(&self) -> String {
        format!("{}:{NODE_PORT}", self.near.ip())
    }

    pub fn in_pod(&self, role: &str) -> Role {
        Role::start(role, &[&self.cluster_ip()], |line| self.client.command(&self.near, line))
    }

    pub fn on_node(&self, role: &str) -> Role {
        Role::start(role, &[&self.cluster_ip()], |line| self.near.command(line))
    }

    pub fn outside(&self, role: &str) -> Role {
        Role::start(role, &[&self.node_port()], |line| outside_command(&self.underlay, line))
    }
}

pub fn outside_command(underlay: &Underlay, line: &str) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(format!("exec nsenter --net={} -- {line}", underlay.client.path().display()));
    command
}
