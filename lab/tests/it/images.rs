//! The images do what the walkthrough types into them.

use skerry_lab::{Lab, containerd, images};

#[test]
fn the_walkthroughs_images_run() {
    let images = images::walkthrough().unwrap();
    let lab = Lab::for_test().unwrap();
    let node = lab.node("node1").unwrap();
    node.start_containerd(&containerd::Options::default()).unwrap();
    node.import(&images).unwrap();
    node.import(&images).unwrap();
    let names = node.image_names().unwrap();
    for image in &images {
        assert!(image.names.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    }
    // Below the node's own cgroup, so that the lab's end is theirs.
    let ctr_run = |name: &str| format!("ctr -n k8s.io run --cgroup /{}/node1/{name}", lab.name());
    // `ctr` itself loses what a container writes that ends before its pipes are open: the shim writes into a
    // file.
    let out = tempfile::tempdir().unwrap();
    let run = |image: &str, name: &str, what: &str| {
        let file = out.path().join(name);
        let log = format!("--log-uri file://{}", file.display());
        node.sh(&format!("{} {log} --rm --net-host {image} {name} {what}", ctr_run(name))).unwrap();
        std::fs::read_to_string(file).unwrap()
    };
    assert!(run(images::NGINX, "ls", "ls /").contains("usr"));
    assert_eq!(run(images::NGINX, "bash", "bash -c 'echo $((6*7))'").trim(), "42");
    assert!(run(images::NGINX, "curl", "curl --version").contains("curl 7"));
    assert!(
        run(images::STRESS, "stress", "stress --vm 1 --vm-bytes 10M --timeout 1").contains("successful run")
    );
    node.sh(&format!("{} -d --net-host {} web", ctr_run("web"), images::NGINX)).unwrap();
    let page = "for i in $(seq 50); do curl -sf localhost && exit; sleep 0.1; done; exit 1";
    assert!(node.sh(page).unwrap().contains("Welcome to nginx!"));
    node.sh(&format!("{} -d {} logs", ctr_run("logs"), images::FLUENTD)).unwrap();
}
