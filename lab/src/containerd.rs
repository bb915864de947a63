//! The configuration of a containerd of our own: own folders, own socket, nothing shared with one that is there.

use crate::images;

/// What differs between users of the lab's containerd.
#[derive(Clone, Debug)]
pub struct Options {
    /// The prefix of all its folders; empty: the usual places, which are the node's own in a lab.
    pub prefix: String,
    pub cni_bin_dir: String,
    pub cni_conf_dir: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            prefix: String::new(),
            cni_bin_dir: "/opt/cni/bin".to_owned(),
            cni_conf_dir: "/etc/cni/net.d".to_owned(),
        }
    }
}

/// containerd 1.6's configuration file (version 2 of its format), as containerd 1.7 reads it too.
pub fn config(options: &Options) -> String {
    let Options { prefix, cni_bin_dir, cni_conf_dir } = options;
    let pause = images::PAUSE;
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not start a sandbox at all.
    format!(
        r#"version = 2
root = "{prefix}/var/lib/containerd"
state = "{prefix}/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
]

[grpc]
address = "{prefix}/run/containerd/containerd.sock"

[ttrpc]
address = "{prefix}/run/containerd/containerd.sock.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
path = "{prefix}/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{prefix}/run/containerd/runc"
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin_dir}"
conf_dir = "{cni_conf_dir}"
max_conf_num = 1
"#
    )
}
