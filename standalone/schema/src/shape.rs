//! The field tree of every kind, as tables that the build script writes: numbers in read-only pages, no heap.

mod rule;

pub use rule::{Form, Rule};

/// The type of a field. The numbers are indexes into the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    /// Any text.
    String,
    /// A whole number of 32 bits, signed.
    Int32,
    /// A whole number of 64 bits, signed.
    Int64,
    /// A number that may have a fraction.
    Number,
    /// `true` or `false`, and no text for it.
    Bool,
    /// A text such as `100m`, or a number.
    Quantity,
    /// A number of 32 bits, or a text: ports, percentages.
    IntOrString,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// base64.
    Bytes,
    /// Any JSON.
    Any,
    /// Items of one type, [`Ty::inner`].
    List(u16),
    /// Text keys, values of one type, [`Ty::inner`].
    Map(u16),
    /// An object with fields, [`Ty::shape`].
    Object(u16),
    /// An object of this type, or a value of the other one.
    Either(u16, u16),
}

/// How an apply treats a list or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// It says nothing: lists are atomic, maps are not.
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Items are told apart by their whole values; of simple types only.
    Set,
    /// Keyed by [`Field::list_keys`].
    Map,
}

#[derive(Debug)]
pub struct TypeDef {
    at: u32,
    len: u16,
    first: u16,
    count: u16,
}

/// A field of a [`Shape`].
#[derive(Debug)]
pub struct Field {
    at: u32,
    len: u16,
    ty: u16,
    rule: u16,
    merge: bool,
    retain: bool,
    time: bool,
    key: u8,
    list: u8,
    keys: u8,
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// A definition: its name and its fields, sorted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(u16);

impl Shape {
    /// The shape of a kind.
    pub fn of(group: &str, version: &str, kind: &str) -> Option<Shape> {
        let version = if kind == "DeleteOptions" { "v1" } else { version };
        let group = if matches!(kind, "DeleteOptions" | "Status") { "" } else { group };
        let found =
            ROOTS.binary_search_by(|root| (root.0, root.1, root.2).cmp(&(group, version, kind))).ok()?;
        Some(Shape(ROOTS[found].3))
    }

    /// The full name, `io.k8s.api.core.v1.PodSpec`.
    pub fn name(self) -> &'static str {
        let def = &TYPES[usize::from(self.0)];
        &NAMES[def.at as usize..def.at as usize + usize::from(def.len)]
    }

    /// The last part of the name, `PodSpec`: what Go calls the struct.
    pub fn short_name(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// As Go prints the type: `v1.PodSpec`.
    pub fn go_name(self) -> String {
        let mut parts = self.name().rsplit('.');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{version}.{name}")
    }

    /// In the order of their names.
    pub fn fields(self) -> &'static [Field] {
        let def = &TYPES[usize::from(self.0)];
        &FIELDS[usize::from(def.first)..usize::from(def.first) + usize::from(def.count)]
    }

    /// By its JSON name, upper and lower case told apart.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        let fields = self.fields();
        fields.binary_search_by(|field| field.name().cmp(name)).ok().map(|at| &fields[at])
    }
}

impl Field {
    /// The JSON name.
    pub fn name(&self) -> &'static str {
        &NAMES[self.at as usize..self.at as usize + usize::from(self.len)]
    }

    /// The type of its value.
    pub fn ty(&self) -> Ty {
        TYS[usize::from(self.ty)]
    }

    /// `None`: every value of its type will do.
    pub fn rule(&self) -> Option<&'static Rule> {
        (self.rule != 0).then(|| &RULES[usize::from(self.rule)])
    }

    /// A time that must be there: typed readers know no object without it.
    pub fn needs_time(&self) -> bool {
        self.time
    }

    /// Strategic merge goes into this list's items (instead of replacing the list).
    pub fn merges(&self) -> bool {
        self.merge
    }

    /// The patch names by `$retainKeys` what stays.
    pub fn retains_keys(&self) -> bool {
        self.retain
    }

    /// The item's field that strategic merge compares.
    pub fn merge_key(&self) -> Option<&'static str> {
        (self.key != 0).then(|| STRINGS[usize::from(self.key)])
    }

    /// Of a list, or a map; [`ListType::Unset`] for whatever else.
    pub fn list_type(&self) -> ListType {
        [ListType::Unset, ListType::Atomic, ListType::Set, ListType::Map][usize::from(self.list.min(3))]
    }

    /// Of a list that is a map: which fields of an item tell it apart. Otherwise empty.
    pub fn list_keys(&self) -> &'static [&'static str] {
        KEY_LISTS[usize::from(self.keys)]
    }
}

impl Ty {
    /// The type of a list's items or a map's values.
    pub fn inner(self) -> Option<Ty> {
        match self {
            Ty::List(at) | Ty::Map(at) => Some(TYS[usize::from(at)]),
            _ => None,
        }
    }

    /// What stands where no object does.
    pub fn alternative(self) -> Option<Ty> {
        match self {
            Ty::Either(_, at) => Some(TYS[usize::from(at)]),
            _ => None,
        }
    }

    /// The shape of an object.
    pub fn shape(self) -> Option<Shape> {
        match self {
            Ty::Object(at) | Ty::Either(at, _) => Some(Shape(at)),
            _ => None,
        }
    }

    /// As Go prints the type in its messages.
    pub fn go_name(self) -> String {
        match self {
            Ty::String => "string".to_owned(),
            Ty::Int32 => "int32".to_owned(),
            Ty::Int64 => "int64".to_owned(),
            Ty::Number => "float64".to_owned(),
            Ty::Bool => "bool".to_owned(),
            Ty::Quantity => "resource.Quantity".to_owned(),
            Ty::IntOrString => "intstr.IntOrString".to_owned(),
            Ty::Time | Ty::MicroTime => "string".to_owned(),
            Ty::Bytes => "[]uint8".to_owned(),
            Ty::Any => "interface {}".to_owned(),
            Ty::List(_) => format!("[]{}", self.inner().map(Ty::go_name).unwrap_or_default()),
            Ty::Map(_) => format!("map[string]{}", self.inner().map(Ty::go_name).unwrap_or_default()),
            Ty::Object(_) | Ty::Either(..) => self.shape().map(Shape::go_name).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
