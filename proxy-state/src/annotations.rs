//! What a Service asks for by annotations. One that can't be read is taken as absent, and its owner is told.

use crate::{api, maglev, model::shortened};

/// How Services are served that say nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// Answers to clients outside leave from the backend's node. Such a Service is balanced by Maglev,
    /// whatever `is_maglev` says: who sees one direction only can forget a connection, and finds its backend
    /// again.
    pub is_direct: bool,
    /// Backends are named by Maglev tables, not drawn at random.
    pub is_maglev: bool,
    /// Elements of a Maglev table at least.
    pub maglev_size: u32,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults { is_direct: false, is_maglev: false, maglev_size: maglev::DEFAULT_SIZE }
    }
}

/// What comes of the annotations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    /// Elements of its Maglev tables; 0: backends are drawn at random.
    pub maglev: u32,
    pub resets: bool,
    pub is_direct: bool,
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

impl Asked {
    /// `is_external`: clients outside can reach it.
    pub fn of(annotations: &api::Annotations, is_external: bool, defaults: &Defaults) -> Asked {
        let mut unread = Vec::new();
        let mut read = Reader(&mut unread);
        let is_maglev = read.one_of(&annotations.balancing, BALANCING, &MODES, "random or maglev");
        let size = read.parsed(&annotations.maglev_table_size, TABLE_SIZE, "a number of elements");
        let resets = read.parsed(&annotations.reset_on_endpoint_removal, RESETS, "true or false");
        let direct = read.one_of(&annotations.forwarding_mode, FORWARDING, &FORWARDINGS, "snat or dsr");
        let is_direct = is_external && direct.unwrap_or(defaults.is_direct);
        let is_maglev = is_maglev.unwrap_or(defaults.is_maglev || is_direct);
        Asked {
            maglev: if is_maglev { maglev::size(size.unwrap_or(defaults.maglev_size)) } else { 0 },
            resets: resets.unwrap_or(false),
            is_direct,
            unread: (!unread.is_empty()).then(|| unread.into()),
        }
    }
}

const MODES: [(&str, bool); 2] = [("random", false), ("maglev", true)];
const FORWARDINGS: [(&str, bool); 2] = [("snat", false), ("dsr", true)];

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

/// Elements of the Maglev tables that a Service's annotations ask for, or that it gets without a word of
/// them; 0: its backends are drawn at random.
pub fn maglev_size(annotations: &api::Annotations) -> u32 {
    Asked::of(annotations, true, &Defaults { is_maglev: true, ..Defaults::default() }).maglev
}
