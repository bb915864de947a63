//! Programs and links on devices and cgroups of the running kernel. Needs root.

use std::{
    fs::File,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use skerry_kernel::{
    CgroupHook, Direction, Filter, Instruction, Link, LinkTarget, Order, Program, attach_filters,
    cgroup_attachments, cgroup2_mount, detach_filter, filter_name, filter_program, has_tcx, ifindex, ifname,
    in_netns, instruction, is_bpffs, is_cgroup2, kernel_release, link_ids, mount_bpffs, netns_cookie,
    program_type, tcx_attachments, unmount,
};
use skerry_lab::Netns;

/// `return VALUE`.
fn give_back(value: i32) -> [Instruction; 2] {
    [instruction(0xb7, 0, 0, 0, value), instruction(0x95, 0, 0, 0, 0)]
}

fn tc(value: i32) -> Program {
    Program::load("skt_tc", program_type::SCHED_CLS, 0, &give_back(value)).unwrap()
}

#[test]
fn tcx_links_keep_their_order_and_are_found_again() {
    let netns = Netns::unique("links").unwrap();
    netns.ip("link add v0 type veth peer name v1").unwrap();
    let (a, b, c) = (tc(-1), tc(-1), tc(-1));
    netns
        .run(|| {
            let index = ifindex("v0").unwrap();
            assert_eq!(ifname(index).unwrap(), "v0");
            assert_eq!(tcx_attachments(index, Direction::Ingress).unwrap(), []);
            let first = Link::attach_tcx(a.fd(), index, Direction::Ingress, Order::Last).unwrap();
            let second = Link::attach_tcx(b.fd(), index, Direction::Ingress, Order::First).unwrap();
            let id = first.info().unwrap().id;
            let third = Link::attach_tcx(c.fd(), index, Direction::Ingress, Order::Before(id)).unwrap();
            let links: Vec<u32> =
                tcx_attachments(index, Direction::Ingress).unwrap().iter().map(|a| a.link_id).collect();
            let ids: Vec<u32> = [&second, &third, &first].map(|l| l.info().unwrap().id).to_vec();
            assert_eq!(links, ids);
            assert_eq!(tcx_attachments(index, Direction::Egress).unwrap(), []);

            let info = Link::by_id(id).unwrap().info().unwrap();
            assert_eq!(info.program_id, a.info().unwrap().id);
            assert_eq!(info.target, LinkTarget::Tcx { ifindex: index, attach_type: 46 });
            assert!(link_ids().any(|found| found.unwrap() == id));

            let other = tc(0);
            first.replace(other.fd()).unwrap();
            assert_eq!(first.info().unwrap().program_id, other.info().unwrap().id);
            first.detach().unwrap();
            assert_eq!(tcx_attachments(index, Direction::Ingress).unwrap().len(), 2);
            assert!(
                Link::attach_tcx(a.fd(), 999_999, Direction::Ingress, Order::Last)
                    .unwrap_err()
                    .is_not_found()
            );
        })
        .unwrap();
}

#[test]
fn a_pinned_link_keeps_its_program_running_until_the_pin_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("bpf");
    assert!(!is_bpffs(&mount).unwrap());
    mount_bpffs(&mount).unwrap();
    assert!(is_bpffs(&mount).unwrap());
    let netns = Netns::unique("pins").unwrap();
    netns.ip("link add v0 type veth peer name v1").unwrap();
    netns
        .run(|| {
            let index = ifindex("v0").unwrap();
            let pin = mount.join("from_pod-v0");
            let link = Link::attach_tcx(tc(-1).fd(), index, Direction::Ingress, Order::Last).unwrap();
            link.pin(&pin).unwrap();
            drop(link);
            assert_eq!(tcx_attachments(index, Direction::Ingress).unwrap().len(), 1);
            assert!(
                matches!(Link::open(&pin).unwrap().info().unwrap().target, LinkTarget::Tcx { ifindex, .. } if ifindex == index)
            );
            std::fs::remove_file(&pin).unwrap();
            // The kernel lets go of an unlinked pin after a grace period, and tells nobody.
            let deadline = Instant::now() + Duration::from_secs(10);
            while !tcx_attachments(index, Direction::Ingress).unwrap().is_empty() {
                assert!(Instant::now() < deadline, "still attached");
                std::thread::yield_now();
            }
        })
        .unwrap();
    unmount(&mount).unwrap();
}

/// A cgroup of its own, removed at the end.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn cgroup_links_are_made_replaced_and_listed() {
    let root = cgroup2_mount().unwrap().expect("a cgroup2 mount");
    let cgroup = Cgroup(root.join(format!("skt-kernel-{}", std::process::id())));
    std::fs::create_dir(&cgroup.0).unwrap();
    assert!(is_cgroup2(&cgroup.0).unwrap());
    let folder = File::open(&cgroup.0).unwrap();
    for hook in [
        CgroupHook::Connect4,
        CgroupHook::Connect6,
        CgroupHook::Sendmsg4,
        CgroupHook::Sendmsg6,
        CgroupHook::Recvmsg4,
        CgroupHook::Recvmsg6,
        CgroupHook::Getpeername4,
        CgroupHook::Getpeername6,
    ] {
        let load =
            || Program::load("skt_sock", program_type::CGROUP_SOCK_ADDR, hook as u32, &give_back(1)).unwrap();
        let (old, new) = (load(), load());
        let link = Link::attach_cgroup(old.fd(), folder.as_fd(), hook).unwrap();
        assert_eq!(cgroup_attachments(folder.as_fd(), hook).unwrap(), [old.info().unwrap().id]);
        let by_id = Link::by_id(link.info().unwrap().id).unwrap();
        by_id.replace(new.fd()).unwrap();
        let info = link.info().unwrap();
        assert_eq!(info.program_id, new.info().unwrap().id);
        assert_eq!(Program::by_id(info.program_id).unwrap().info().unwrap(), new.info().unwrap());
        assert!(
            matches!(info.target, LinkTarget::Cgroup { attach_type, .. } if attach_type == hook as u32),
            "{info:?}"
        );
    }
}

#[test]
fn every_namespace_has_a_cookie_of_its_own() {
    let netns = Netns::unique("cookie").unwrap();
    let inside = netns.run(|| netns_cookie().unwrap()).unwrap();
    assert_ne!(inside, 0);
    assert_ne!(inside, netns_cookie().unwrap());
    assert_eq!(inside, netns.run(|| netns_cookie().unwrap()).unwrap());
}

#[test]
fn work_in_a_namespace_does_not_move_the_caller() {
    let netns = Netns::unique("within").unwrap();
    let before = netns_cookie().unwrap();
    let file = File::open(netns.path()).unwrap();
    let inside = in_netns(file.as_fd(), netns.name(), || netns_cookie().unwrap()).unwrap();
    assert_eq!(inside, netns.run(|| netns_cookie().unwrap()).unwrap());
    assert_eq!(netns_cookie().unwrap(), before);
    let no_namespace = File::open("/dev/null").unwrap();
    let error = in_netns(no_namespace.as_fd(), "/dev/null", || ()).unwrap_err();
    assert_eq!(error.to_string(), "enter network namespace /dev/null");
    assert!(kernel_release().unwrap().contains('.'));
}

#[test]
fn a_kernel_is_asked_for_tcx_by_a_question_that_attaches_nothing() {
    let netns = Netns::unique("tcx").unwrap();
    netns.ip("link add v0 type veth peer name v1").unwrap();
    let program = tc(-1);
    let attached = netns
        .run(|| {
            let index = ifindex("v0").unwrap();
            Link::attach_tcx(program.fd(), index, Direction::Ingress, Order::First)
        })
        .unwrap();
    assert_eq!(has_tcx().unwrap(), attached.is_ok());
}

#[test]
fn filters_are_attached_replaced_found_and_removed() {
    let netns = Netns::unique("filters").unwrap();
    netns.ip("link add v0 type veth peer name v1").unwrap();
    let (a, b, c) = (tc(-1), tc(-1), tc(0));
    let id = |program: &Program| Some(program.info().unwrap().id);
    netns
        .run(|| {
            let index = ifindex("v0").unwrap();
            let on = |direction| filter_program(index, direction).unwrap();
            let filter = |direction, program: &Program| {
                attach_filters(index, &[Filter { direction, program: program.fd(), name: "skt" }]).unwrap();
            };
            assert_eq!(on(Direction::Ingress), None, "no qdisc yet");
            assert!(!detach_filter(index, Direction::Egress).unwrap());
            filter(Direction::Ingress, &a);
            assert_eq!((on(Direction::Ingress), on(Direction::Egress)), (id(&a), None));
            filter(Direction::Egress, &b);
            filter(Direction::Ingress, &c);
            assert_eq!((on(Direction::Ingress), on(Direction::Egress)), (id(&c), id(&b)));
            assert_eq!(filter_name(index, Direction::Ingress).unwrap().as_deref(), Some("skt"));
            assert!(detach_filter(index, Direction::Ingress).unwrap());
            assert_eq!((on(Direction::Ingress), on(Direction::Egress)), (None, id(&b)));
            assert_eq!(filter_name(index, Direction::Ingress).unwrap(), None);
            let both = [Direction::Ingress, Direction::Egress];
            attach_filters(index, &both.map(|direction| Filter { direction, program: a.fd(), name: "skt" }))
                .unwrap();
            assert_eq!(both.map(on), [id(&a), id(&a)]);
            let missing = attach_filters(999_999, &[]).unwrap_err();
            assert!(missing.is_not_found(), "{missing}");
        })
        .unwrap();
    assert!(netns.sh("tc filter show dev v0 ingress").unwrap().contains("direct-action"));
}
