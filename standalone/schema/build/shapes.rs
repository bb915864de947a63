//! Writes the shape tables as Rust constants that hold numbers only, so that they stay in the binary's
//! read-only pages.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

use crate::{roots::Root, rules::Rules};

/// The merge rule of one field.
#[derive(Clone, Default, Debug)]
pub struct Merge {
    /// `merge`, `merge,retainKeys`, `replace`, `retainKeys`.
    pub strategy: Option<String>,
    pub key: Option<String>,
    /// `atomic`, `set`, `map`.
    pub list: Option<String>,
    pub list_keys: Vec<String>,
    pub map: Option<String>,
}

pub type Merges = BTreeMap<(String, String), Merge>;

pub fn merge_rules(text: &str) -> Merges {
    let mut merges = Merges::new();
    let mut definition = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if !line.starts_with(' ') {
            definition = format!("io.k8s.{line}");
            continue;
        }
        let mut words = line.split_whitespace();
        let field = words.next().unwrap_or_default().to_owned();
        let mut merge = Merge::default();
        for word in words {
            let (name, value) = word.split_once('=').expect("merge.txt: a rule is name=value");
            let (head, tail) = value.split_once('/').map_or((value, None), |(head, tail)| (head, Some(tail)));
            match name {
                "patch" => {
                    merge.strategy = (!head.is_empty()).then(|| head.to_owned());
                    merge.key = tail.map(str::to_owned);
                }
                "list" => {
                    merge.list = Some(head.to_owned());
                    merge.list_keys =
                        tail.map(|keys| keys.split(',').map(str::to_owned).collect()).unwrap_or_default();
                }
                "map" => merge.map = Some(head.to_owned()),
                _ => panic!("merge.txt: {line}"),
            }
        }
        merges.insert((definition.clone(), field), merge);
    }
    merges
}

/// A definition that is a leaf for us, by the last part of its name.
pub fn leaf(name: &str) -> Option<&'static str> {
    Some(match name.strip_prefix("io.k8s.")? {
        "apimachinery.pkg.api.resource.Quantity" => "Ty::Quantity",
        "apimachinery.pkg.util.intstr.IntOrString" => "Ty::IntOrString",
        "apimachinery.pkg.apis.meta.v1.Time" => "Ty::Time",
        "apimachinery.pkg.apis.meta.v1.MicroTime" => "Ty::MicroTime",
        "apimachinery.pkg.apis.meta.v1.FieldsV1" | "apimachinery.pkg.runtime.RawExtension" => "Ty::Any",
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON" => "Ty::Any",
        _ => return None,
    })
}

struct Tables<'a> {
    names: String,
    types: Vec<String>,
    tys: Vec<String>,
    index: BTreeMap<&'a str, usize>,
    strings: Vec<String>,
    key_lists: Vec<Vec<String>>,
    rules: Vec<String>,
}

pub fn generate(
    definitions: &BTreeMap<String, Value>,
    roots: &[Root],
    merges: &Merges,
    rules: &Rules,
) -> String {
    let index = definitions
        .iter()
        .filter(|(name, schema)| leaf(name).is_none() && schema.get("properties").is_some())
        .enumerate()
        .map(|(at, (name, _))| (name.as_str(), at))
        .collect();
    let mut tables = Tables {
        names: String::new(),
        types: Vec::new(),
        tys: Vec::new(),
        index,
        strings: vec![String::new()],
        key_lists: vec![Vec::new()],
        rules: vec![rule_text(&crate::rules::Rule::default())],
    };
    let mut fields: Vec<String> = Vec::new();
    let ordered: Vec<&str> = tables.index.keys().copied().collect();
    for name in ordered {
        let schema = &definitions[name];
        let first = fields.len();
        let mut properties: Vec<(&String, &Value)> =
            schema["properties"].as_object().expect("properties are a map").iter().collect();
        properties.sort_by_key(|(field, _)| field.as_str());
        for (field, property) in properties {
            let key = (name.to_owned(), field.clone());
            let ty = tables.ty(property, definitions);
            let time = is_required(schema, field) && matches!(ty.as_str(), "Ty::Time" | "Ty::MicroTime");
            let ty = tables.ty_index(ty);
            let merge = merges.get(&key).cloned().unwrap_or_default();
            let strategy = merge.strategy.as_deref().unwrap_or_default();
            let merge_key = tables.string(merge.key.as_deref().unwrap_or_default());
            let keys = tables.keys(&merge.list_keys);
            let list = match merge.list.as_deref().or(merge.map.as_deref()) {
                None | Some("granular") => 0,
                Some("atomic") => 1,
                Some("set") => 2,
                Some("map") => 3,
                Some(other) => panic!("list type {other}"),
            };
            let rule = rules.get(&key).map_or(0, |rule| tables.rule(rule_text(rule)));
            let at = tables.name(field);
            fields.push(format!(
                "Field{{at:{at},len:{},ty:{ty},rule:{rule},merge:{},retain:{},time:{time},key:{merge_key},list:{list},keys:{keys}}}",
                field.len(),
                strategy.split(',').any(|word| word == "merge"),
                strategy.split(',').any(|word| word == "retainKeys"),
            ));
        }
        let at = tables.name(name);
        tables.types.push(format!(
            "TypeDef{{at:{at},len:{},first:{first},count:{}}}",
            name.len(),
            fields.len() - first
        ));
    }
    let mut roots: Vec<String> = roots
        .iter()
        .map(|root| {
            format!(
                "({:?},{:?},{:?},{})",
                root.group,
                root.version,
                root.kind,
                tables.index[root.definition.as_str()]
            )
        })
        .collect();
    roots.sort();
    let mut out = String::new();
    let _ = writeln!(out, "static NAMES: &str = {:?};", tables.names);
    array(&mut out, "TYPES", "TypeDef", &tables.types);
    array(&mut out, "FIELDS", "Field", &fields);
    array(&mut out, "TYS", "Ty", &tables.tys);
    array(&mut out, "RULES", "Rule", &tables.rules);
    array(&mut out, "ROOTS", "(&str, &str, &str, u16)", &roots);
    array(
        &mut out,
        "STRINGS",
        "&str",
        &tables.strings.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>(),
    );
    array(
        &mut out,
        "KEY_LISTS",
        "&[&str]",
        &tables.key_lists.iter().map(|keys| format!("&{keys:?}")).collect::<Vec<_>>(),
    );
    out
}

fn is_required(schema: &Value, field: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == field))
}

fn array(out: &mut String, name: &str, of: &str, items: &[String]) {
    let _ = writeln!(out, "static {name}: [{of}; {}] = [\n{}\n];", items.len(), items.join(",\n"));
}

fn rule_text(rule: &crate::rules::Rule) -> String {
    let form = rule.form.as_ref().map(|form| format!("Form::{form}"));
    format!(
        "Rule{{required:{},immutable:{},zero_is_absent:{},default:{:?},values:&{:?},min:{:?},max:{:?},items:{:?},form:{}}}",
        rule.required,
        rule.immutable,
        rule.zero_is_absent,
        rule.default,
        rule.values,
        rule.min,
        rule.max,
        rule.items,
        form.map_or("None".to_owned(), |form| format!("Some({form})")),
    )
}

impl Tables<'_> {
    fn ty(&mut self, schema: &Value, definitions: &BTreeMap<String, Value>) -> String {
        let target = schema.get("$ref").or_else(|| schema["allOf"][0].get("$ref")).and_then(Value::as_str);
        if let Some(target) = target {
            let name = target.rsplit('/').next().unwrap_or_default();
            if let Some(leaf) = leaf(name) {
                return leaf.to_owned();
            }
            if let Some(at) = self.index.get(name) {
                return format!("Ty::Object({at})");
            }
            // JSONSchemaPropsOrBool and its like.
            let either = &definitions[name]["oneOf"];
            if !either[0].is_object() {
                return "Ty::Any".to_owned();
            }
            let (first, second) = (self.ty(&either[0], definitions), self.ty(&either[1], definitions));
            let at = first.strip_prefix("Ty::Object(").and_then(|rest| rest.strip_suffix(')'));
            let at = at.unwrap_or_else(|| panic!("{name}: the first of two forms is no object"));
            return format!("Ty::Either({at},{})", self.ty_index(second));
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("byte")) => "Ty::Bytes".to_owned(),
            (Some("string"), Some("date-time")) => "Ty::Time".to_owned(),
            (Some("string"), _) => "Ty::String".to_owned(),
            (Some("integer"), Some("int32")) => "Ty::Int32".to_owned(),
            (Some("integer"), _) => "Ty::Int64".to_owned(),
            (Some("number"), _) => "Ty::Number".to_owned(),
            (Some("boolean"), _) => "Ty::Bool".to_owned(),
            (Some("array"), _) => {
                let item = self.ty(&schema["items"], definitions);
                format!("Ty::List({})", self.ty_index(item))
            }
            (Some("object"), _) if schema.get("additionalProperties").is_some() => {
                let item = self.ty(&schema["additionalProperties"], definitions);
                format!("Ty::Map({})", self.ty_index(item))
            }
            _ => "Ty::Any".to_owned(),
        }
    }

    fn ty_index(&mut self, ty: String) -> usize {
        position(&mut self.tys, ty)
    }

    fn rule(&mut self, rule: String) -> usize {
        position(&mut self.rules, rule)
    }

    fn string(&mut self, text: &str) -> usize {
        position(&mut self.strings, text.to_owned())
    }

    fn keys(&mut self, keys: &[String]) -> usize {
        position(&mut self.key_lists, keys.to_vec())
    }

    fn name(&mut self, name: &str) -> usize {
        self.names.find(name).unwrap_or_else(|| {
            self.names.push_str(name);
            self.names.len() - name.len()
        })
    }
}

fn position<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    items.iter().position(|have| *have == item).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}
