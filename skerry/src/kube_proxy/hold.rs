//! nftables: kube-proxy's tables go in one transaction with the coming of an empty one of ours.
//!
//! The kernel translates the packets of a tracked connection in its NAT hooks, and takes these away with the
//! last chain of type `nat`. kube-proxy's table has its own chains: without it, connections that were made
//! through it would meet the service's address untranslated and be reset. Our table holds the hooks, has no
//! rule, and goes when no such connection is left.

use std::fmt::Write as _;

use anyhow::Context;

use super::{names::NFT_TABLE, run, tracked};

/// Name of our table, in the families `ip` and `ip6`.
const HOLD: &str = "skerry-hold";
/// The hooks that a connection may have been translated in.
const HOOKS: &[(&str, i32)] = &[("prerouting", -100), ("input", 100), ("output", -100), ("postrouting", 100)];

/// Removes kube-proxy's tables.
pub fn replace_tables() -> anyhow::Result<Option<String>> {
    let Some(tables) = tables()? else { return Ok(None) };
    let families: Vec<&str> =
        ["ip", "ip6"].into_iter().filter(|family| has(&tables, family, NFT_TABLE)).collect();
    if families.is_empty() {
        return Ok(None);
    }
    let text: String = families.iter().map(|family| replacement(family)).collect();
    run::feed("nft", &["-f", "-"], &text)?;
    Ok(Some(format!("nftables: table {NFT_TABLE} removed ({})", families.join(", "))))
}

/// One transaction, as `nft -f` reads it.
fn replacement(family: &str) -> String {
    let mut text = format!("add table {family} {HOLD}\n");
    for (hook, priority) in HOOKS {
        // Writing to a String cannot fail.
        writeln!(text, "add chain {family} {HOLD} {hook} {{ type nat hook {hook} priority {priority}; }}")
            .ok();
    }
    writeln!(text, "delete table {family} {NFT_TABLE}").ok();
    text
}

/// Removes our table once no translated connection needs it. `None`: it is not there, or is still needed.
pub fn release() -> anyhow::Result<Option<String>> {
    let families = held()?;
    if families.is_empty() {
        return Ok(None);
    }
    let connections =
        tracked::translated().context("look for connections that kube-proxy's rules translated")?;
    if connections > 0 {
        return Ok(Some(format!(
            "nftables: the empty table {HOLD} stays while connections made through kube-proxy's rules live ({connections} now); \
             run this again to remove it"
        )));
    }
    let text: String = families.iter().map(|family| format!("delete table {family} {HOLD}\n")).collect();
    run::feed("nft", &["-f", "-"], &text)?;
    Ok(None)
}

/// Whether our table is there.
pub fn is_held() -> bool {
    held().is_ok_and(|families| !families.is_empty())
}

fn held() -> anyhow::Result<Vec<&'static str>> {
    let tables = tables()?.unwrap_or_default();
    Ok(["ip", "ip6"].into_iter().filter(|family| has(&tables, family, HOLD)).collect())
}

/// Lines `table FAMILY NAME`; `None`: no program to ask.
fn tables() -> anyhow::Result<Option<String>> {
    run::output("nft", &["list", "tables"])
}

fn has(tables: &str, family: &str, name: &str) -> bool {
    tables.lines().any(|line| line.split_whitespace().eq(["table", family, name]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_by_family_and_whole_name() {
        let tables =
            "table ip filter\ntable ip6 kube-proxy\ntable inet kube-proxy\ntable ip kube-proxy-other\n";
        assert!(has(tables, "ip6", "kube-proxy"));
        assert!(!has(tables, "ip", "kube-proxy"));
    }

    #[test]
    fn the_hooks_come_before_the_table_goes() {
        let text = replacement("ip6");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"add table ip6 skerry-hold"));
        assert_eq!(lines.last(), Some(&"delete table ip6 kube-proxy"));
        assert_eq!(lines.iter().filter(|line| line.contains("type nat hook")).count(), 4);
    }
}
