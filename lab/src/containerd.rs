//! The configuration of a containerd of our own: own folders, own socket, nothing shared with one that is
//! there.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{Daemon, images};

/// What differs between users of the lab's containerd. By default the usual places, which are a node's own in
/// a lab.
#[derive(Clone, Debug)]
pub struct Options {
    pub root: String,
    pub state: String,
    pub cni_bin_dir: String,
    pub cni_conf_dir: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            root: "/var/lib/containerd".to_owned(),
            state: "/run/containerd".to_owned(),
            cni_bin_dir: "/opt/cni/bin".to_owned(),
            cni_conf_dir: "/etc/cni/net.d".to_owned(),
        }
    }
}

/// How long it may take until containerd says that it is ready.
const START: Duration = Duration::from_secs(20);

/// Waits until a containerd that was started with `NOTIFY_SOCKET` says that it is ready (sd_notify(3)).
pub(crate) fn await_ready(notify: &UnixDatagram, daemon: &mut Daemon) -> Result<()> {
    let deadline = Instant::now() + START;
    let mut message = [0; 256];
    // A containerd that ends says nothing: the short time-out is there to see that.
    notify.set_read_timeout(Some(Duration::from_millis(200))).context("set a time-out")?;
    loop {
        let length = notify.recv(&mut message).unwrap_or(0);
        if String::from_utf8_lossy(message.get(..length).unwrap_or_default()).contains("READY=1") {
            return Ok(());
        }
        if !daemon.runs() || Instant::now() > deadline {
            bail!(
                "containerd did not get ready; the end of {}:\n{}",
                daemon.log().display(),
                daemon.tail(15)
            );
        }
    }
}

/// containerd 1.6's configuration file (version 2 of its format), as containerd 1.7 reads it too.
pub fn config(options: &Options) -> String {
    let Options { root, state, cni_bin_dir, cni_conf_dir } = options;
    let pause = images::PAUSE;
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not start a sandbox at all.
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
]

[grpc]
address = "{state}/containerd.sock"

[ttrpc]
address = "{state}/containerd.sock.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"

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
Root = "{state}/runc"
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin_dir}"
conf_dir = "{cni_conf_dir}"
max_conf_num = 1
"#
    )
}
