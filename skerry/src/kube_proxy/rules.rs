//! From the text of `iptables-save` to the input of `iptables-restore --noflush` that takes kube-proxy's part
//! away. Pure.

use std::{collections::BTreeMap, collections::BTreeSet, fmt::Write as _};

use super::names::{self, MARK, POSTROUTING};

/// What is to be done about one listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Input of `iptables-restore --noflush`: each table is one commit. Empty: nothing to do.
    pub restore: String,
    pub chains: usize,
    /// Rules of built-in chains that lead to them.
    pub jumps: usize,
    pub kept: Vec<Kept>,
}

/// A chain of kube-proxy's that stays because somebody else uses it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    pub table: String,
    pub chain: String,
    /// The chain of others that leads to it.
    pub used_by: String,
}

#[derive(Default)]
struct Table<'a> {
    name: &'a str,
    /// Chains that somebody made; built-in ones have a policy instead of `-`.
    made: Vec<&'a str>,
    rules: Vec<Rule<'a>>,
}

struct Rule<'a> {
    chain: &'a str,
    /// All that follows the chain's name.
    rest: &'a str,
    /// Where it leads (`-j`, `-g`).
    target: Option<&'a str>,
}

/// Decides about everything that `iptables-save` (either flavour, either family) printed.
pub fn removal(save: &str) -> Removal {
    let mut whole = Removal::default();
    for table in parse(save) {
        remove_from(&table, &mut whole);
    }
    whole
}

fn remove_from(table: &Table<'_>, whole: &mut Removal) {
    let ours: BTreeSet<&str> =
        table.made.iter().copied().filter(|chain| names::is_chain(table.name, chain)).collect();
    let kept = used_by_others(table, &ours);
    let gone: Vec<&str> = ours.iter().copied().filter(|chain| !kept.contains_key(chain)).collect();
    // kube-proxy's own jumps; one that somebody else wrote to an inner chain keeps that chain.
    let jumps: Vec<&Rule<'_>> =
        table.rules.iter().filter(|rule| is_own_jump(table, rule) && leads_to(rule, &gone)).collect();
    whole.kept.extend(kept.into_iter().map(|(chain, used_by)| Kept {
        table: table.name.to_owned(),
        chain: chain.to_owned(),
        used_by: used_by.to_owned(),
    }));
    if gone.is_empty() {
        return;
    }
    whole.chains += gone.len();
    whole.jumps += jumps.len();
    // Under --noflush a chain's line empties it. Writing to a String cannot fail.
    let text = &mut whole.restore;
    writeln!(text, "*{}", table.name).ok();
    for chain in &gone {
        writeln!(text, ":{chain} - [0:0]").ok();
    }
    for rule in &jumps {
        writeln!(text, "-D {} {}", rule.chain, rule.rest).ok();
    }
    for chain in &gone {
        writeln!(text, "-X {chain}").ok();
    }
    text.push_str("COMMIT\n");
}

/// Chains of ours that rules of others lead to, each with one that does; and what these need themselves.
fn used_by_others<'a>(table: &Table<'a>, ours: &BTreeSet<&'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut kept = BTreeMap::new();
    let mut next: Vec<(&str, &str)> = table
        .rules
        .iter()
        .filter(|rule| !ours.contains(rule.chain) && !is_own_jump(table, rule))
        .filter_map(|rule| Some((rule.target?, rule.chain)))
        .collect();
    // Each chain is entered once, so the walk ends.
    while let Some((chain, used_by)) = next.pop() {
        if !ours.contains(chain) || kept.contains_key(chain) {
            continue;
        }
        kept.insert(chain, used_by);
        let inner = table.rules.iter().filter(|rule| rule.chain == chain);
        next.extend(inner.filter_map(|rule| Some((rule.target?, chain))));
        if chain == MARK {
            // A mark that nobody acts on is worth nothing.
            next.push((POSTROUTING, used_by));
        }
    }
    kept
}

fn is_own_jump(table: &Table<'_>, rule: &Rule<'_>) -> bool {
    !table.made.contains(&rule.chain) && rule.target.is_some_and(|target| names::is_entry(table.name, target))
}

fn leads_to(rule: &Rule<'_>, chains: &[&str]) -> bool {
    rule.target.is_some_and(|target| chains.contains(&target))
}

/// `iptables-save(8)`: `*TABLE`, `:CHAIN POLICY [PACKETS:BYTES]`, `-A CHAIN RULE`, `COMMIT`, `#` comments.
fn parse(save: &str) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    for line in save.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { name, ..Table::default() });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            if let (Some(name), Some("-")) = (words.next(), words.next()) {
                table.made.push(name);
            }
        } else if let Some((chain, rest)) = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' ')) {
            table.rules.push(Rule { chain, rest, target: target(rest) });
        }
    }
    tables
}

/// The word behind `-j` or `-g`. A comment may hold the same letters, within quotes.
fn target(rule: &str) -> Option<&str> {
    let mut words = words(rule);
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// Words of a rule; a quoted one, in which `\` takes the next character as it is, counts as one and keeps its
/// quotes.
fn words(rule: &str) -> impl Iterator<Item = &str> {
    let mut rest = rule;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.find(|c: char| {
            let ends = c.is_whitespace() && !quoted;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
