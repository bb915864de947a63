//! A mount of NFS against a ClusterIP, as the kubelet makes one: the kernel itself dials, and dials again
//! when its server has gone. The kernel before Linux 6.6 wrote the backend over the address that it was to
//! dial (commit 0bdf399342c5, in 6.1 since 6.1.57), and never came to another one.

mod server;

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proxy_abi::proto;
use server::Server;
use skerry_lab::Netns;
use skerry_packet_cases::{VIP, World};
use skerry_vm_cases::lacks_guest;

const PORT: u16 = 2049;
/// An emulated CPU's; the kernel waits 3 s before it dials a server again that has refused it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The export's root on a folder; taken off at the end.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(netns: &Netns, ip: Ipv4Addr) -> Result<Mounted, String> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!(
            "addr={ip},vers=3,proto=tcp,port={PORT},mountproto=tcp,mountport={PORT},nolock,noac,lookupcache=none,hard"
        );
        let (source, kind) = (format!("{ip}:/"), "nfs");
        netns
            .run(|| {
                let flags = MsFlags::MS_RDONLY;
                mount(Some(source.as_str()), folder.path(), Some(kind), flags, Some(options.as_str()))
            })
            .unwrap()
            .map_err(|errno| format!("mount {source} ({options}): {errno}"))?;
        Ok(Mounted(folder))
    }

    /// What the server says that answers.
    fn who(&self) -> String {
        std::fs::read_to_string(self.0.path().join(server::WHO)).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_mount_of_nfs_follows_its_service() {
    if lacks_guest("a_mount_of_nfs_follows_its_service", "mounts of NFS") {
        return;
    }
    let mut world = World::new();
    // The kernel's own sockets belong to the root of all groups.
    world.nodes[0].object.attach_to_cgroup(Path::new("/sys/fs/cgroup")).unwrap();
    let pods = [0, 1].map(|node| world.nodes[node].pod_address);
    let far = Server::start(&world.nodes[1].pod, PORT, "far");
    world.serve(1, proto::TCP, PORT, None, &[(pods[1], PORT)]);
    let mounted = Mounted::new(&world.nodes[0].netns, VIP).unwrap();
    assert_eq!(mounted.who(), "far");
    assert_eq!(
        world.nodes[0].object.flows().unwrap(),
        [],
        "translated at the socket: no packet needed a flow"
    );

    let near = Server::start(&world.nodes[0].pod, PORT, "near");
    world.serve(1, proto::TCP, PORT, None, &[(pods[0], PORT)]);
    assert_eq!(mounted.who(), "far", "a connection is not cut");
    far.stop();
    let begun = Instant::now();
    // It waits in the kernel until some server answers.
    assert_eq!(mounted.who(), "near");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(mounted);
    near.stop();
}
