use super::*;

#[test]
fn every_group_has_a_place_in_discovery_and_no_path_is_taken_twice() {
    let mut paths = std::collections::BTreeSet::new();
    for kind in kinds() {
        assert!(GROUP_ORDER.contains(&kind.group), "{}", kind.group);
        assert!(paths.insert((kind.group, kind.version, kind.plural)), "{}", kind.plural);
    }
    assert_eq!(groups().iter().find(|group| group.name == "autoscaling").unwrap().versions, ["v2", "v1"]);
}
