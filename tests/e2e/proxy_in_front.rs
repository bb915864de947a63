//! Row 16 with what people have: nginx as a TCP proxy in front of the workers' NodePorts. Requests spread; a
//! worker whose cable is pulled is left out, and costs no request.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use skerry_lab::debian;
use skerry_tests::{eventually, get};

use crate::{
    world::{SOON, World},
    xdp_balancer::{answers, workers_with_a_pod, write_to},
};

const PORT: u16 = 8000;
const CONFIG: &str = "/var/log/nginx.conf";

pub fn nginx_spreads_and_leaves_a_killed_node_out(world: &World) -> Result<()> {
    let (_ns, addresses, port) = workers_with_a_pod(world, "front-nginx")?;
    let lab = world.lab()?;
    let node = lab.node("nginx")?;
    let nginx = debian::unpacked("nginx")?.join("usr/sbin/nginx");
    let module = debian::unpacked("libnginx-mod-stream")?.join("usr/lib/nginx/modules/ngx_stream_module.so");
    write_to(&node, CONFIG, &config(&module.display().to_string(), &addresses, port))?;
    let mut daemon = node.spawn("nginx", nginx, &["-c", CONFIG, "-e", "stderr"])?;
    let client = lab.client();
    let to = SocketAddr::new(node.ip().into(), PORT);
    eventually("nginx answers", SOON, || client.run(|| get(to))?).with_context(|| daemon.tail(20))?;
    ensure!(answers(&client, to)?.len() == addresses.len(), "not all three workers were asked");
    lab.cable(&world.node("node1")?, false)?;
    let after = answers(&client, to);
    lab.cable(&world.node("node1")?, true)?;
    let after = after.with_context(|| daemon.tail(20))?;
    ensure!(after.len() == addresses.len() - 1, "{} workers answer, one of three is gone", after.len());
    eventually("the worker comes back", SOON, || {
        ensure!(answers(&client, to)?.len() == addresses.len(), "it is not asked");
        Ok(())
    })?;
    daemon.stop(Duration::from_secs(5)).map(drop)
}

/// Who does not answer at once is tried again a second later, and another one in its place.
fn config(module: &str, workers: &[Ipv4Addr], port: u16) -> String {
    let servers: String =
        workers.iter().map(|ip| format!("server {ip}:{port} max_fails=1 fail_timeout=1s; ")).collect();
    format!(
        "load_module {module};\ndaemon off;\nuser root;\npid /var/log/nginx.pid;\nevents {{}}\nstream {{\n  \
         upstream workers {{ {servers}}}\n  server {{ listen {PORT}; proxy_connect_timeout 200ms; proxy_pass workers; \
         }}\n}}\n"
    )
}
