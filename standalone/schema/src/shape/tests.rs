use super::*;

#[test]
fn fields_of_a_shape_are_found_by_name() {
    let pod = Shape::of("", "v1", "Pod").unwrap();
    let spec = pod.field("spec").unwrap().ty().shape().unwrap();
    assert_eq!(spec.go_name(), "v1.PodSpec");
    let containers = spec.field("containers").unwrap();
    assert_eq!((containers.merges(), containers.merge_key()), (true, Some("name")));
    assert_eq!(containers.ty().go_name(), "[]v1.Container");
    let volumes = spec.field("volumes").unwrap();
    assert!(volumes.merges() && volumes.retains_keys());
    assert_eq!(volumes.list_type(), ListType::Map);
    assert!(spec.field("nope").is_none());
    for shape in 0..TYPES.len() {
        assert!(Shape(shape as u16).fields().is_sorted_by_key(Field::name));
    }
}
