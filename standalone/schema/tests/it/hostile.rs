//! Objects that nobody would write, of every kind: nothing panics, and what passes is stable.

use serde_json::{Map, Value, json};
use skerry_schema::{
    Format, Kind, PatchType, Shape, Ty, apply_patch, cells, check, columns, decode, from_storage, kinds,
    prepare_create, prepare_update, selectable_fields, to_storage,
};

/// A small generator of its own: the same objects in every run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn word(&mut self) -> &'static str {
        const WORDS: [&str; 24] = [
            "",
            "a",
            "Always",
            "Never",
            "TCP",
            "ClusterIP",
            "NodePort",
            "None",
            "default",
            "IPv4",
            "10.0.0.1",
            "80",
            "Bad Name!",
            "x/y",
            "RollingUpdate",
            "Recreate",
            "Exists",
            "In",
            "25%",
            "NoExecute",
            "é",
            "kubernetes",
            "* * * * *",
            "..",
        ];
        WORDS[self.next(WORDS.len() as u64) as usize]
    }

    fn number(&mut self) -> i64 {
        const NUMBERS: [i64; 9] = [0, 1, -1, 2, 80, 511, 65536, i32::MAX as i64, 30000];
        NUMBERS[self.next(NUMBERS.len() as u64) as usize]
    }

    fn value(&mut self, ty: Ty, depth: u32) -> Value {
        match ty {
            Ty::String => json!(self.word()),
            Ty::Int32 | Ty::Int64 => json!(self.number()),
            Ty::Number => json!(self.number() as f64),
            Ty::Bool => json!(self.next(2) == 0),
            Ty::Quantity => json!(["1", "100m", "2Gi", "-1", "0", "1e3"][self.next(6) as usize]),
            Ty::IntOrString if self.next(2) == 0 => json!(self.number()),
            Ty::IntOrString => json!(self.word()),
            Ty::Time | Ty::MicroTime => json!("2026-01-02T03:04:05Z"),
            Ty::Bytes => json!("aGk="),
            Ty::Any => [json!(null), json!(1), json!({"a": []}), json!("x")][self.next(4) as usize].clone(),
            Ty::List(_) => {
                let inner = ty.inner().unwrap();
                (0..self.next(3)).map(|_| self.value(inner, depth + 1)).collect()
            }
            Ty::Map(_) => {
                let inner = ty.inner().unwrap();
                let count = self.next(3);
                Value::Object(
                    (0..count).map(|_| (self.word().to_owned(), self.value(inner, depth + 1))).collect(),
                )
            }
            Ty::Object(_) => Value::Object(self.object(ty.shape().unwrap(), depth + 1)),
            Ty::Either(..) if self.next(2) == 0 => self.value(ty.alternative().unwrap(), depth + 1),
            Ty::Either(..) => Value::Object(self.object(ty.shape().unwrap(), depth + 1)),
        }
    }

    fn object(&mut self, shape: Shape, depth: u32) -> Map<String, Value> {
        let mut map = Map::new();
        for field in shape.fields() {
            // The deeper, the sparser; what must be there often is.
            let odds =
                if field.rule().is_some_and(|rule| rule.required) { 2 } else { 3 + u64::from(depth) * 2 };
            if depth < 10 && self.next(odds) <= 1 && !matches!(field.name(), "apiVersion" | "kind") {
                map.insert(field.name().to_owned(), self.value(field.ty(), depth));
            }
        }
        map
    }
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn sorted(value: &Value) -> Value {
    let mut value = value.clone();
    value.sort_all_objects();
    value
}

fn exercise(kind: &Kind, random: &mut Random) -> bool {
    let shape = Shape::of(kind.group, kind.version, kind.kind).unwrap();
    let api_version = kind.api_version();
    let mut object = Value::Object(random.object(shape, 0));
    if random.next(4) != 0 {
        object["metadata"] =
            json!({"name": "x", "namespace": if kind.namespaced { "default" } else { "" }, "uid": "u"});
    }
    let mut made =
        decode(&api_version, kind.kind, object.to_string().as_bytes(), Format::Json).unwrap().value;
    let again = check(&api_version, kind.kind, made.clone()).unwrap();
    assert_eq!((sorted(&again.value), again.strict.len()), (sorted(&made), 0), "{}", kind.kind);
    let good = prepare_create(kind, &mut made, now()).is_ok();
    // What we add fits the kind too.
    let again = check(&api_version, kind.kind, made.clone()).unwrap();
    assert!(again.strict.is_empty(), "{}: {:?}", kind.kind, again.strict);
    if good {
        crate::readers::read(&api_version, kind.kind, &made)
            .unwrap_or_else(|error| panic!("{error}: {made}"));
    }
    assert_eq!(cells(kind, &made, now()).len(), columns(kind).len(), "{}", kind.kind);
    selectable_fields(kind, &made);
    let mut stored = made.clone();
    to_storage(kind, &mut stored);
    from_storage(kind, &mut stored);
    let mut other = Value::Object(random.object(shape, 0));
    other["metadata"] = made["metadata"].clone();
    for sub in [
        None,
        Some("status"),
        Some("finalize"),
        Some("resize"),
        Some("ephemeralcontainers"),
        Some("approval"),
    ] {
        let mut new = other.clone();
        let _ = prepare_update(kind, &made, &mut new, sub, now());
    }
    for patch in [&other, &made] {
        let patched = apply_patch(
            PatchType::Strategic,
            &api_version,
            kind.kind,
            &made,
            patch.to_string().as_bytes(),
            Format::Json,
        );
        if let Ok(patched) = patched {
            let _ = check(&api_version, kind.kind, patched);
        }
    }
    if good {
        let mut same = made.clone();
        let faults = prepare_update(kind, &made, &mut same, None, now());
        assert!(faults.is_ok(), "{}: {faults:?}\n{made}", kind.kind);
        assert_eq!(
            sorted(&same),
            sorted(&made),
            "{}: an update that changes nothing changed something",
            kind.kind
        );
    }
    good
}

#[test]
fn nothing_panics_and_what_was_accepted_once_is_accepted_again() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut accepted = 0;
    for kind in kinds() {
        for _ in 0..60 {
            accepted += usize::from(exercise(kind, &mut random));
        }
    }
    assert!(accepted > 200, "{accepted}: the generator no longer makes acceptable objects");
}
