use super::*;

struct Fixture {
    _folder: tempfile::TempDir,
    dir: PathBuf,
    boot: PathBuf,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (dir, boot) = (folder.path().join("state"), folder.path().join("boot_id"));
    fs::write(&boot, "11111111-aaaa\n").unwrap();
    Fixture { _folder: folder, dir, boot }
}

impl Fixture {
    fn store(&self) -> Store {
        Store::open(&self.dir, &self.boot).unwrap()
    }
}

fn record(id: &str) -> Record {
    Record {
        container_id: id.into(),
        ifname: "eth0".into(),
        network: "skerry".into(),
        netns: "/run/netns/x".into(),
        host_ifname: "sk0".into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: Vec::new(),
        pod: BTreeMap::from([("K8S_POD_NAME".into(), "web".into())]),
        left_out: 0,
        host_ifindex: 0,
    }
}

fn ranges(text: &str) -> Vec<Range> {
    vec![Range::parse(text).unwrap()]
}

fn claim(store: &Store, id: &str, range: &str) -> Result<Claim, StateError> {
    store.claim(record(id), &ranges(range), &[], &|_| false, &|_| false)
}

fn addresses(claim: &Claim) -> Vec<String> {
    claim.record.as_ref().unwrap().addresses.iter().map(IpAddr::to_string).collect()
}

#[test]
fn a_record_is_found_again_with_all_it_held() {
    let f = fixture();
    let store = f.store();
    let mut made = claim(&store, "c1", "10.0.0.0/24").unwrap();
    store.note_ifindex(&mut made, 17).unwrap();
    let record = made.record.clone();
    drop(made);
    let found = store.find("c1@eth0").unwrap().unwrap();
    assert_eq!(found.record, record);
    assert_eq!(found.record.unwrap().host_ifindex, 17);
    assert!(store.find("c2@eth0").unwrap().is_none());
    assert!(matches!(claim(&store, "c1", "10.0.0.0/24"), Err(StateError::Exists { .. })));
}

#[test]
fn freed_addresses_rest_and_a_full_pool_says_so() {
    let f = fixture();
    let store = f.store();
    let first = claim(&store, "a", "10.0.0.0/29").unwrap();
    assert_eq!(addresses(&first), ["10.0.0.2"]);
    store.release(&first).unwrap();
    for (id, expected) in
        [("b", "10.0.0.3"), ("c", "10.0.0.4"), ("d", "10.0.0.5"), ("e", "10.0.0.6"), ("f", "10.0.0.2")]
    {
        assert_eq!(addresses(&claim(&store, id, "10.0.0.0/29").unwrap()), [expected]);
    }
    let error = claim(&store, "g", "10.0.0.0/29").unwrap_err();
    assert!(matches!(error, StateError::Pool(PoolError::Full { .. })), "{error}");
    assert!(store.find("g@eth0").unwrap().is_none());
}

#[test]
fn an_address_that_has_a_new_owner_is_not_freed_by_the_old_one() {
    let f = fixture();
    let store = f.store();
    let old = claim(&store, "old", "10.0.0.0/30").unwrap();
    // As after a kill between the record and its address.
    fs::remove_file(store.address_path("10.0.0.2".parse().unwrap())).unwrap();
    let new = claim(&store, "new", "10.0.0.0/30").unwrap();
    assert_eq!(addresses(&new), ["10.0.0.2"]);
    store.release(&old).unwrap();
    assert!(store.owns("new@eth0", "10.0.0.2".parse().unwrap()));
}

#[test]
fn dead_owners_make_room_only_when_the_pool_is_full() {
    let f = fixture();
    let store = f.store();
    let range = ranges("10.0.0.0/29");
    for id in ["a", "b", "c", "d", "e"] {
        drop(claim(&store, id, "10.0.0.0/29").unwrap());
    }
    let busy = store.find("a@eth0").unwrap().unwrap();
    let dead = |record: &Record| matches!(record.container_id.as_str(), "a" | "d");
    let made = store.claim(record("f"), &range, &[], &dead, &|_| false).unwrap();
    assert_eq!(addresses(&made), ["10.0.0.5"], "d's, not a's: a call is at work on that one");
    drop(busy);
}

#[test]
fn a_reboot_starts_afresh() {
    let f = fixture();
    drop(claim(&f.store(), "a", "10.0.0.0/30").unwrap());
    fs::write(&f.boot, "22222222-bbbb\n").unwrap();
    assert!(Store::existing(&f.dir, &f.boot).unwrap().is_none());
    let store = f.store();
    assert!(!f.dir.join("11111111-aaaa").exists());
    assert!(store.find("a@eth0").unwrap().is_none());
    assert_eq!(addresses(&claim(&store, "a", "10.0.0.0/30").unwrap()), ["10.0.0.2"]);
}

#[test]
fn a_boot_id_that_is_no_name_is_refused() {
    let f = fixture();
    fs::write(&f.boot, "../x").unwrap();
    assert!(matches!(Store::existing(&f.dir, &f.boot), Err(StateError::BootId { .. })));
    fs::remove_file(&f.boot).unwrap();
    let error = Store::existing(&f.dir, &f.boot).err().unwrap().to_string();
    assert!(error.starts_with("read the boot's id in "), "{error}");
}

#[test]
fn a_spoilt_record_still_gives_its_addresses_back() {
    let f = fixture();
    let store = f.store();
    drop(claim(&store, "a", "10.0.0.0/29").unwrap());
    drop(claim(&store, "b", "10.0.0.0/29").unwrap());
    fs::write(store.record_path("a@eth0"), "{\"contai").unwrap();
    let found = store.find("a@eth0").unwrap().unwrap();
    assert!(found.record.is_none());
    store.release(&found).unwrap();
    assert_eq!(store.taken().unwrap(), HashSet::from(["10.0.0.3".parse().unwrap()]));
    assert_eq!(store.keys().unwrap(), ["b@eth0"]);
}

#[test]
fn orphaned_addresses_are_found_by_gc() {
    let f = fixture();
    let store = f.store();
    drop(claim(&store, "a", "10.0.0.0/29").unwrap());
    symlink("nobody@eth0", store.address_path("10.0.0.6".parse().unwrap())).unwrap();
    assert_eq!(store.free_orphans().unwrap(), 1);
    assert_eq!(store.taken().unwrap().len(), 1);
}

#[test]
fn many_at_once_get_different_addresses() {
    let f = fixture();
    let all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|i| {
                let f = &f;
                scope.spawn(move || addresses(&claim(&f.store(), &format!("c{i}"), "10.0.0.0/24").unwrap()))
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40);
}

/// The folder is gone while pods run: what they use is not given to others.
#[test]
fn what_the_datapath_uses_is_never_given() {
    let f = fixture();
    let store = f.store();
    let used = ["10.0.0.2", "10.0.0.3", "10.0.0.5"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let is_used = |ip: IpAddr| used.contains(&ip);
    let give = |id: &str, asked: &[IpAddr]| {
        store.claim(record(id), &ranges("10.0.0.0/29"), asked, &|_| false, &is_used)
    };
    assert_eq!(addresses(&give("a", &[]).unwrap()), ["10.0.0.4"]);
    assert_eq!(addresses(&give("b", &[]).unwrap()), ["10.0.0.6"]);
    assert!(matches!(give("c", &[]), Err(StateError::Pool(PoolError::Full { .. }))));
    assert!(matches!(give("d", &used[..1]), Err(StateError::Pool(PoolError::Taken { .. }))));
}

#[test]
fn a_partly_lost_or_spoilt_state_costs_only_what_was_lost() {
    let f = fixture();
    let store = f.store();
    for id in ["a", "b", "c"] {
        drop(claim(&store, id, "10.0.0.0/29").unwrap());
    }
    // No text, none at all, cut off within the device's number.
    fs::write(store.record_path("a@eth0"), b"\xff\xfe\0").unwrap();
    fs::write(store.record_path("b@eth0"), "").unwrap();
    let whole = fs::read_to_string(store.record_path("c@eth0")).unwrap();
    fs::write(store.record_path("c@eth0"), format!("{whole}1")).unwrap();
    for key in ["a@eth0", "b@eth0"] {
        assert!(store.find(key).unwrap().unwrap().record.is_none(), "{key}");
    }
    let c = store.find("c@eth0").unwrap().unwrap();
    assert_eq!(c.record.as_ref().unwrap().host_ifindex, 0, "1 could be the beginning of 17");
    drop(c);
    // One folder of the three.
    fs::remove_dir_all(f.dir.join("11111111-aaaa/attachments")).unwrap();
    assert!(store.keys().unwrap().is_empty() && store.find("c@eth0").unwrap().is_none());
    let store = f.store();
    assert_eq!(addresses(&claim(&store, "d", "10.0.0.0/29").unwrap()), ["10.0.0.5"], "theirs stay theirs");
    fs::remove_dir_all(f.dir.join("11111111-aaaa/addresses")).unwrap();
    assert_eq!(addresses(&claim(&f.store(), "e", "10.0.0.0/29").unwrap()), ["10.0.0.6"]);
}

/// A directory in a record's place: it can't be opened as one, and stands in nobody's way.
#[test]
fn a_record_that_cannot_be_opened_is_in_nobodys_way() {
    let f = fixture();
    let store = f.store();
    for id in ["a", "b", "c", "d", "e"] {
        drop(claim(&store, id, "10.0.0.0/29").unwrap());
    }
    fs::remove_file(store.record_path("a@eth0")).unwrap();
    fs::create_dir(store.record_path("a@eth0")).unwrap();
    let dead = |record: &Record| record.container_id == "d";
    let made = store.claim(record("f"), &ranges("10.0.0.0/29"), &[], &dead, &|_| false).unwrap();
    assert_eq!(addresses(&made), ["10.0.0.5"]);
}

/// Two records name one address: it is the one's whose the address says it is.
#[test]
fn of_two_records_with_one_address_the_owner_keeps_it() {
    let f = fixture();
    let store = f.store();
    drop(claim(&store, "a", "10.0.0.0/29").unwrap());
    let mut double = record("b");
    double.addresses = vec!["10.0.0.2".parse().unwrap()];
    fs::write(store.record_path("b@eth0"), serde_json::to_string(&double).unwrap()).unwrap();
    let address = double.addresses[0];
    assert!(store.allows("a@eth0", address) && !store.allows("b@eth0", address));
    store.release(&store.find("b@eth0").unwrap().unwrap()).unwrap();
    assert!(store.owns("a@eth0", address));
}

/// Nothing half-made is left, and what is there stays readable.
#[test]
fn a_full_disk_refuses_and_leaves_nothing_behind() {
    let f = fixture();
    let folder = f.dir.parent().unwrap().join("small");
    fs::create_dir(&folder).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "nr_inodes=10", "small"])
        .arg(&folder)
        .status();
    assert!(mounted.unwrap().success());
    let done = std::panic::catch_unwind(|| {
        let store = Store::open(&folder, &f.boot).unwrap();
        let mut given = 0;
        let error = loop {
            match claim(&store, &format!("c{given}"), "10.0.0.0/24") {
                Ok(_) => given += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StateError::Io { .. }), "{error}");
        assert_eq!((store.keys().unwrap().len(), store.taken().unwrap().len()), (given, given));
        store.release(&store.find("c0@eth0").unwrap().unwrap()).unwrap();
        claim(&store, "again", "10.0.0.0/24").unwrap();
    });
    let unmounted = std::process::Command::new("umount").arg("-l").arg(&folder).status();
    assert!(unmounted.unwrap().success());
    done.unwrap();
}
