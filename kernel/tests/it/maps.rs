//! Maps of the running kernel. Needs root.

use skerry_kernel::{Error, Map, MapSpec, PerCpuMap, Update, map_type, mount_bpffs, unmount};

fn hash(max_entries: u32) -> MapSpec<'static> {
    MapSpec { name: "skt_hash", map_type: map_type::HASH, max_entries, flags: 0 }
}

#[test]
fn elements_are_written_read_and_deleted() {
    let map = Map::<u32, u64>::create(&hash(2)).unwrap();
    assert_eq!(map.lookup(&1).unwrap(), None);
    map.update(&1, &10, Update::Insert).unwrap();
    assert!(map.update(&1, &11, Update::Insert).unwrap_err().is_exists());
    assert!(map.update(&2, &20, Update::Replace).unwrap_err().is_not_found());
    map.update(&1, &12, Update::Replace).unwrap();
    assert_eq!(map.lookup(&1).unwrap(), Some(12));
    map.update(&2, &20, Update::Any).unwrap();
    let full = map.update(&3, &30, Update::Any).unwrap_err();
    assert!(full.is_full());
    assert_eq!(full.to_string(), "update map skt_hash");
    assert!(map.delete(&1).unwrap());
    assert!(!map.delete(&1).unwrap());
}

#[test]
fn a_map_of_another_layout_is_refused() {
    let map = Map::<u32, u64>::create(&hash(2)).unwrap();
    let error = Map::<u32, u32>::by_id(map.info().id).unwrap_err();
    assert!(matches!(error, Error::Layout { part: "the value", found: 8, expected: 4, .. }), "{error}");
    let error = PerCpuMap::<u32, u64>::from_fd(map.fd().try_clone_to_owned().unwrap(), "m").unwrap_err();
    assert!(matches!(error, Error::Kind { per_cpu: false, .. }), "{error}");
}

#[test]
fn batches_write_read_and_delete_more_than_one_chunk() {
    let map = Map::<u32, u64>::create(&hash(20_000)).unwrap();
    let keys: Vec<u32> = (0..20_000).collect();
    let values: Vec<u64> = keys.iter().map(|k| u64::from(*k) * 3).collect();
    map.update_batch(&keys, &values).unwrap();
    let mut entries = map.entries().unwrap();
    entries.sort_unstable();
    assert_eq!(entries, keys.iter().copied().zip(values).collect::<Vec<_>>());
    let odd_and_absent: Vec<u32> = (0..30_000).filter(|k| k % 2 == 1).collect();
    assert_eq!(map.delete_batch(&odd_and_absent).unwrap(), 10_000);
    assert_eq!(map.entries().unwrap().len(), 10_000);
}

#[test]
fn a_batch_that_fills_the_map_says_how_far_it_came() {
    let map = Map::<u32, u64>::create(&hash(10)).unwrap();
    let keys: Vec<u32> = (0..12).collect();
    let error = map.update_batch(&keys, &[0; 12]).unwrap_err();
    assert!(matches!(error, Error::Batch { done: 10, total: 12, .. }), "{error:?}");
    assert!(error.is_full());
    assert!(matches!(map.update_batch(&keys, &[0; 3]), Err(Error::Uneven { keys: 12, values: 3, .. })));
}

#[test]
fn arrays_and_tries_take_batches_too() {
    let array = Map::<u32, u32>::create(&MapSpec {
        name: "skt_array",
        map_type: map_type::ARRAY,
        max_entries: 5_000,
        flags: 0,
    })
    .unwrap();
    let keys: Vec<u32> = (0..5_000).collect();
    array.update_batch(&keys, &keys).unwrap();
    assert!(array.entries().unwrap().iter().all(|(k, v)| k == v));
    assert_eq!(array.entries().unwrap().len(), 5_000);

    let trie = Map::<[u32; 2], u32>::create(&MapSpec {
        name: "skt_trie",
        map_type: map_type::LPM_TRIE,
        max_entries: 100,
        flags: map_type::NO_PREALLOC,
    })
    .unwrap();
    let keys: Vec<[u32; 2]> = (0..100u32).map(|k| [32, k.to_be()]).collect();
    let values: Vec<u32> = (0..100).collect();
    trie.update_batch(&keys, &values).unwrap();
    let mut entries = trie.entries().unwrap();
    entries.sort_by_key(|e| e.1);
    assert_eq!(entries, keys.iter().copied().zip(values).collect::<Vec<_>>());
    assert_eq!(trie.delete_batch(&keys[..40]).unwrap(), 40);
    assert_eq!(trie.entries().unwrap().len(), 60);
}

#[test]
fn a_walk_by_keys_meets_each_once() {
    let map = Map::<u32, u64>::create(&hash(10)).unwrap();
    for key in 0..10 {
        map.update(&key, &1, Update::Any).unwrap();
    }
    let mut met: Vec<u32> =
        std::iter::successors(map.next_key(None).unwrap(), |key| map.next_key(Some(key)).unwrap()).collect();
    met.sort_unstable();
    assert_eq!(met, (0..10).collect::<Vec<_>>());
}

#[test]
fn per_cpu_values_come_apart_even_when_not_a_multiple_of_eight() {
    let map = PerCpuMap::<u32, u32>::create(&MapSpec {
        name: "skt_percpu",
        map_type: map_type::PERCPU_ARRAY,
        max_entries: 4,
        flags: 0,
    })
    .unwrap();
    map.fill(&2, &7).unwrap();
    let values = map.lookup(&2).unwrap().unwrap();
    assert!(!values.is_empty() && values.iter().all(|v| *v == 7), "{values:?}");
    assert!(map.lookup(&0).unwrap().unwrap().iter().all(|v| *v == 0));
    assert_eq!(map.lookup(&4).unwrap(), None);
}

#[test]
fn a_pinned_map_outlives_its_maker_and_absence_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("bpf");
    mount_bpffs(&mount).unwrap();
    mount_bpffs(&mount).unwrap();
    let pin = mount.join("MAP");
    let map = Map::<u32, u64>::create(&hash(2)).unwrap();
    map.update(&5, &50, Update::Any).unwrap();
    map.pin(&pin).unwrap();
    assert!(map.pin(&pin).unwrap_err().is_exists());
    drop(map);
    assert_eq!(Map::<u32, u64>::open(&pin).unwrap().lookup(&5).unwrap(), Some(50));
    let absent = Map::<u32, u64>::open(&mount.join("OTHER")).unwrap_err();
    assert!(absent.is_not_found());
    assert_eq!(absent.to_string(), format!("open pinned map {}", mount.join("OTHER").display()));
    unmount(&mount).unwrap();
}
