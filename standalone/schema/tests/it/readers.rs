//! What the API accepts, every client with typed objects can read: a walk along the shapes of all kinds.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::{Map, Value, json};
use skerry_schema::{
    Shape, Ty, check, from_storage, kinds, prepare_create, prepare_update, split_api_version, to_storage,
};

type Reading = fn(Value) -> Result<(), serde_json::Error>;

/// How clients read each kind: by the types of k8s-openapi.
fn readings() -> Vec<((&'static str, &'static str, &'static str), Reading)> {
    let mut readings: Vec<(_, Reading)> = Vec::new();
    macro_rules! roots {
        ($($group:literal $version:literal $kind:literal $path:path;)*) => {{
            $(readings.push((($group, $version, $kind), |value| serde_json::from_value::<$path>(value).map(drop)));)*
        }};
    }
    include!("../../build/typed.in");
    // Types of the metrics API are in no crate that we use: as `kubectl top` reads them.
    readings.push((("metrics.k8s.io", "v1beta1", "NodeMetrics"), |value| {
        serde_json::from_value::<NodeMetrics>(value).map(drop)
    }));
    readings.push((("metrics.k8s.io", "v1beta1", "PodMetrics"), |value| {
        serde_json::from_value::<PodMetrics>(value).map(drop)
    }));
    readings
}

type Amounts = BTreeMap<String, Quantity>;

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct NodeMetrics {
    metadata: ObjectMeta,
    timestamp: Option<Time>,
    window: Option<String>,
    usage: Option<Amounts>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct PodMetrics {
    metadata: ObjectMeta,
    timestamp: Option<Time>,
    window: Option<String>,
    containers: Option<Vec<ContainerMetrics>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: Option<String>,
    usage: Option<Amounts>,
}

/// Reads an object as clients do that speak JSON, and writes it for those that speak protobuf.
pub fn read(api_version: &str, kind: &str, object: &Value) -> Result<(), String> {
    if skerry_protobuf::is_supported(api_version, kind) {
        skerry_protobuf::encode(object).map_err(|error| error.to_string())?;
    }
    let (group, version) = split_api_version(api_version);
    let (_, reading) = readings()
        .into_iter()
        .find(|(known, _)| *known == (group, version, kind))
        .unwrap_or_else(|| panic!("nobody reads {api_version} {kind}"));
    reading(object.clone()).map_err(|error| error.to_string())
}

/// What stands in every field of an object that is made for the walk.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Objects without fields, in lists and maps too.
    Empty,
    /// null, as Go writes its zero values.
    Null,
    /// A value at the edge of its type.
    Edge,
    /// Another such.
    OtherEdge,
}

const FILLS: [Fill; 4] = [Fill::Empty, Fill::Null, Fill::Edge, Fill::OtherEdge];

/// A definition that contains itself is walked this often on one way.
const ROUNDS: usize = 2;

/// `way`: the shapes that the value stands in.
fn value(ty: Ty, fill: Fill, way: &[Shape]) -> Value {
    if let Some(inner) = ty.inner() {
        let item = value(inner, fill, way);
        return if matches!(ty, Ty::List(_)) { json!([item]) } else { json!({"k": item}) };
    }
    if let (Some(other), Fill::OtherEdge) = (ty.alternative(), fill) {
        return value(other, fill, way);
    }
    if let Some(shape) = ty.shape() {
        return Value::Object(object(shape, fill, way));
    }
    let edge = match (ty, fill) {
        (_, Fill::Empty | Fill::Null) => return Value::Null,
        (Ty::String, Fill::Edge) => "",
        (Ty::String, _) => "\u{1F980}\0",
        (Ty::Int32, Fill::Edge) => return json!(i32::MIN),
        (Ty::Int32, _) => return json!(i32::MAX),
        (Ty::Int64, Fill::Edge) => return json!(i64::MIN),
        (Ty::Int64, _) => return json!(i64::MAX),
        (Ty::Number, Fill::Edge) => return json!(u64::MAX),
        (Ty::Number, _) => return json!(-0.5e300),
        (Ty::Bool, _) => return json!(true),
        (Ty::Quantity, Fill::Edge) => return json!(1),
        (Ty::Quantity, _) => "-1e3",
        (Ty::IntOrString, Fill::Edge) => return json!(i32::MIN),
        (Ty::IntOrString, _) => "",
        (Ty::Time | Ty::MicroTime, Fill::Edge) => "0000-01-01T00:00:00Z",
        (Ty::Time | Ty::MicroTime, _) => "9999-12-30T22:00:00.999999999Z",
        // Line ends and spare bits, which Go passes over.
        (Ty::Bytes, Fill::Edge) => "YW\r\nJj\nYQ==",
        (Ty::Bytes, _) => "YR==",
        (Ty::Any, Fill::Edge) => return json!([null, {"a": null}]),
        (Ty::Any, _) => return json!("x"),
        (Ty::List(_) | Ty::Map(_) | Ty::Object(_) | Ty::Either(..), _) => unreachable!("handled above"),
    };
    json!(edge)
}

fn object(shape: Shape, fill: Fill, way: &[Shape]) -> Map<String, Value> {
    let way: Vec<Shape> = way.iter().copied().chain([shape]).collect();
    let mut map = Map::new();
    for field in shape.fields().iter().filter(|field| !matches!(field.name(), "apiVersion" | "kind")) {
        let mut ty = field.ty();
        while let Some(inner) = ty.inner() {
            ty = inner;
        }
        let rounds = way.iter().filter(|shape| Some(**shape) == ty.shape()).count();
        if rounds < ROUNDS {
            map.insert(field.name().to_owned(), value(field.ty(), fill, &way));
        }
    }
    map
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

#[test]
fn what_the_door_lets_in_every_reader_can_read() {
    let mut walked = 0;
    for kind in kinds() {
        let (api_version, name) = (kind.api_version(), kind.kind);
        let shape = Shape::of(kind.group, kind.version, name).unwrap();
        for fill in FILLS {
            let made = Value::Object(object(shape, fill, &[]));
            let mut let_in = match check(&api_version, name, made) {
                Ok(decoded) => decoded.value,
                Err(error) => panic!("{name} {fill:?}: {error}"),
            };
            let stored = let_in.clone();
            read(&api_version, name, &let_in).unwrap_or_else(|error| panic!("{name} {fill:?}: {error}"));
            // What defaults add, and what an update of the status brings together. Most rules are broken by
            // such an object: that nothing unreadable comes of it holds all the more.
            let_in["metadata"] =
                json!({"name": "x", "namespace": if kind.namespaced { "default" } else { "" }, "uid": "u"});
            let _ = prepare_create(kind, &mut let_in, now());
            read(&api_version, name, &let_in).unwrap_or_else(|error| panic!("{name} {fill:?} made: {error}"));
            let mut updated = stored.clone();
            let _ = prepare_update(kind, &let_in, &mut updated, Some("status"), now());
            read(&api_version, name, &updated)
                .unwrap_or_else(|error| panic!("{name} {fill:?} status: {error}"));
            // The other faces of the same stored object.
            for face in kinds().iter().filter(|face| face.storage == kind.storage) {
                let mut shown = stored.clone();
                to_storage(kind, &mut shown);
                from_storage(face, &mut shown);
                read(&face.api_version(), face.kind, &shown)
                    .unwrap_or_else(|error| panic!("{name} {fill:?} as {}: {error}", face.api_version()));
            }
            walked += 1;
        }
    }
    assert!(walked >= 4 * 60, "{walked}");
}

#[test]
fn a_condition_without_its_time_is_read_as_one_of_long_ago() {
    let service = |condition: Value| json!({"status": {"conditions": [condition]}});
    for condition in [
        json!({"type": "X", "status": "True", "reason": "E", "message": "m"}),
        json!({"type": "X", "status": "True", "reason": "E", "message": "m", "lastTransitionTime": null}),
    ] {
        let stored = check("v1", "Service", service(condition)).unwrap().value;
        assert_eq!(stored["status"]["conditions"][0]["lastTransitionTime"], "0001-01-01T00:00:00Z");
        read("v1", "Service", &stored).unwrap();
    }
}
