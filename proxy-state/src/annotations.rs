//! What a Service asks for by annotations. One that can't be read is taken as absent, and its owner is told.

use crate::{api, maglev, model::shortened};

/// What the annotations say; `None`: nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wishes {
    /// Elements of its Maglev tables; 0: backends are drawn at random.
    pub maglev: Option<u32>,
    pub resets: Option<bool>,
    /// Answers to clients outside leave from the backend's node.
    pub direct: Option<bool>,
    pub unread: Option<Box<[Unread]>>,
}

/// An annotation that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unread {
    pub annotation: &'static str,
    pub text: Box<str>,
    pub values: &'static str,
}

const BALANCING: &str = "service.skerry.io/balancing";
const TABLE_SIZE: &str = "service.skerry.io/maglev-table-size";
const RESETS: &str = "service.skerry.io/reset-on-endpoint-removal";
const FORWARDING: &str = "service.skerry.io/forwarding-mode";

impl Wishes {
    pub fn of(annotations: &api::Annotations) -> Wishes {
        let mut unread = Vec::new();
        let mut read = Reader(&mut unread);
        let is_maglev = read.one_of(&annotations.balancing, BALANCING, &MODES, "random or maglev");
        let size = read.parsed(&annotations.maglev_table_size, TABLE_SIZE, "a number of elements");
        let resets = read.parsed(&annotations.reset_on_endpoint_removal, RESETS, "true or false");
        let direct = read.one_of(&annotations.forwarding_mode, FORWARDING, &FORWARDINGS, "snat or dsr");
        Wishes {
            maglev: is_maglev.map(|is_maglev| if is_maglev { table(size) } else { 0 }),
            resets,
            direct,
            unread: (!unread.is_empty()).then(|| unread.into()),
        }
    }
}

const MODES: [(&str, bool); 2] = [("random", false), ("maglev", true)];
const FORWARDINGS: [(&str, bool); 2] = [("snat", false), ("dsr", true)];

fn table(asked: Option<u32>) -> u32 {
    maglev::size(asked.unwrap_or(maglev::DEFAULT_SIZE))
}

struct Reader<'a>(&'a mut Vec<Unread>);

impl Reader<'_> {
    fn one_of(
        &mut self,
        text: &Option<String>,
        annotation: &'static str,
        known: &[(&str, bool)],
        values: &'static str,
    ) -> Option<bool> {
        let text = text.as_deref()?;
        let found = known.iter().find(|(name, _)| *name == text.trim()).map(|(_, value)| *value);
        self.or_unread(found, text, annotation, values)
    }

    fn parsed<T: std::str::FromStr>(
        &mut self,
        text: &Option<String>,
        annotation: &'static str,
        values: &'static str,
    ) -> Option<T> {
        let text = text.as_deref()?;
        self.or_unread(text.trim().parse().ok(), text, annotation, values)
    }

    fn or_unread<T>(
        &mut self,
        found: Option<T>,
        text: &str,
        annotation: &'static str,
        values: &'static str,
    ) -> Option<T> {
        if found.is_none() {
            self.0.push(Unread { annotation, text: shortened(text), values });
        }
        found
    }
}

/// Elements of the Maglev tables that a Service's annotations ask for; 0: its backends are drawn at random. `otherwise`: without
/// a word of them.
pub fn maglev_size(annotations: &api::Annotations, otherwise: bool) -> u32 {
    Wishes::of(annotations).maglev.unwrap_or(default_maglev(otherwise))
}

/// Elements of a Maglev table that nobody has asked for.
pub(crate) fn default_maglev(is_maglev: bool) -> u32 {
    if is_maglev { table(None) } else { 0 }
}
