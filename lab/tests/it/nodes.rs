//! Labs that really run: nodes reach each other, run containers, and leave nothing behind.

use std::time::{Duration, Instant};

use skerry_lab::{Lab, containerd, images, run};

#[test]
fn nodes_reach_each_other_and_stay_apart_in_all_else() {
    let lab = Lab::for_test().unwrap();
    let (a, b) = (lab.node("node1").unwrap(), lab.node("node2").unwrap());
    a.sh(&format!("busybox ping -c1 -W2 {}", b.ip())).unwrap();
    a.sh(&format!("busybox ping -c1 -W2 {}", b.ip6())).unwrap();
    lab.client().sh(&format!("busybox ping -c1 -W2 {}", a.ip())).unwrap();
    lab.client().sh(&format!("busybox ping -c1 -W2 {}", a.ip6())).unwrap();
    run("busybox", &["ping", "-c1", "-W2", &a.ip().to_string()]).unwrap();
    run("busybox", &["ping", "-c1", "-W2", &a.ip6().to_string()]).unwrap();
    assert_eq!(a.sh("cat /proc/sys/kernel/hostname").unwrap().trim(), "node1");
    a.sh("mkdir -p /etc/cni/net.d /var/lib/x /run/x /opt/x && touch /etc/cni/net.d/of-a && : > /sys/fs/bpf/.. ").ok();
    assert!(a.sh("ls /etc/cni/net.d/of-a").is_ok());
    assert!(b.sh("ls /etc/cni/net.d/of-a").is_err());
    assert!(!std::path::Path::new("/etc/cni/net.d/of-a").exists());
    assert_eq!(a.sh("ls /sys/class/net | sort | tr '\\n' ' '").unwrap().trim(), "eth0 lo");
    a.sh("mkdir /sys/fs/bpf/of-a").unwrap();
    assert!(b.sh("ls /sys/fs/bpf/of-a").is_err());
    let mine = a.sh("cat /proc/self/cgroup").unwrap();
    assert!(mine.contains(&format!("0::/{}/node1/shell", lab.name())), "{mine}");
}

#[test]
fn three_nodes_run_a_container_each_and_leave_nothing() {
    let images = images::only(&[images::BUSYBOX, images::PAUSE]).unwrap();
    let begun = Instant::now();
    let lab = Lab::for_test().unwrap();
    let name = lab.name().to_owned();
    std::thread::scope(|scope| {
        for node in ["master", "node1", "node2"] {
            let (lab, images) = (&lab, &images);
            scope.spawn(move || {
                let node = lab.node(node).unwrap();
                node.start_containerd(&containerd::Options::default()).unwrap();
                node.import(images).unwrap();
            });
        }
    });
    eprintln!("three nodes up in {:?}", begun.elapsed());
    let node = lab.node("node1").unwrap();
    let ctr = |name: &str| format!("ctr -n k8s.io run --cgroup /{}/node1/{name}", lab.name());
    // Not by its output: `ctr` closes the pipes of a container that ended before it had opened them.
    let said = tempfile::tempdir().unwrap();
    let mount = format!("--mount type=bind,src={},dst=/said,options=rbind:rw", said.path().display());
    let line = format!("{} --rm {mount} {} one sh -c 'echo hello > /said/it'", ctr("one"), images::BUSYBOX);
    node.sh(&line).unwrap();
    assert_eq!(std::fs::read_to_string(said.path().join("it")).unwrap(), "hello\n");

    let mut daemon = node.daemon("containerd").expect("containerd is known by name");
    daemon.kill().unwrap();
    assert!(node.daemon("containerd").is_none());
    node.start_containerd(&containerd::Options::default()).unwrap();
    node.sh(&format!("{} -d {} two sleep 1000", ctr("two"), images::BUSYBOX)).unwrap();

    drop(lab);
    let left = run("sh", &["-c", &format!("ip netns; ip -br link; ls /run/skerry-lab /var/lib/skerry-lab; grep -r {name} /proc/mounts || true; find /sys/fs/cgroup -name {name}")]).unwrap();
    assert!(!left.contains(&name), "{left}");
}

#[test]
fn a_lab_is_found_again_by_name_and_a_second_end_does_no_harm() {
    let name = format!("n{}", std::process::id());
    let _end = EndsAnyway(name.clone());
    let lab = Lab::named(&name).unwrap();
    let ip = lab.node("one").unwrap().ip();
    let mut sleeper = lab.node("one").unwrap().spawn("sleeper", "sleep", &["1000"]).unwrap();
    drop(lab);
    let lab = Lab::find(&name).unwrap().expect("it is still there");
    let node = lab.node("one").unwrap();
    assert_eq!(node.ip(), ip);
    assert_eq!(node.daemon("sleeper").unwrap().pid(), sleeper.pid());
    node.sh("echo kept > /var/lib/kept").unwrap();
    lab.end(false).unwrap();
    assert!(sleeper.wait(Duration::from_secs(5)).is_ok());
    let lab = Lab::named(&name).unwrap();
    assert_eq!(lab.node("one").unwrap().sh("cat /var/lib/kept").unwrap().trim(), "kept");
    lab.end(true).unwrap();
    skerry_lab::end(&name, true).unwrap();
    assert!(Lab::find(&name).unwrap().is_none());
}

/// A lab that persists would outlive a failed assertion.
struct EndsAnyway(String);

impl Drop for EndsAnyway {
    fn drop(&mut self) {
        skerry_lab::end(&self.0, true).unwrap();
    }
}
