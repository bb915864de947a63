use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::{Read, name, server};
use crate::settings::{Log, Rewrite, Settings};

/// What CoreDNS does by these we do anyway.
const DONE: [&str; 11] = [
    "cache",
    "errors",
    "health",
    "kubernetes",
    "loadbalance",
    "loop",
    "metadata",
    "nodecache",
    "prometheus",
    "ready",
    "reload",
];
/// Blocks and directives of one file at most; what is behind is left out and said.
const MAX_LINES: usize = 10_000;

/// A line's words, and those of the block that it opens.
struct Directive {
    words: Vec<String>,
    block: Vec<Vec<String>>,
}

/// Takes `forward`, `hosts`, `rewrite name`, `log` and zones of their own out of a Corefile. Whatever else
/// stands there is left out, each once in the warnings.
pub(super) fn read(text: &str, domain: &Name) -> Read {
    let mut read = Read::default();
    for (zones, directives) in blocks(text, &mut read.warnings) {
        for zone in zones {
            let zone = match name(zone.trim_start_matches("dns://").split(':').next().unwrap_or(&zone)) {
                Ok(zone) => zone,
                Err(error) => {
                    read.warnings.push(format!("a server of the Corefile is left out: {error}"));
                    continue;
                }
            };
            let is_whole = zone.is_root() || zone == *domain;
            for directive in &directives {
                take(directive, is_whole.then_some(()).map_or(Some(&zone), |()| None), &mut read);
            }
        }
    }
    read.warnings.sort();
    read.warnings.dedup();
    read
}

/// `zone`: of a server for a zone of its own.
fn take(directive: &Directive, zone: Option<&Name>, read: &mut Read) {
    let words: Vec<&str> = directive.words.iter().map(String::as_str).collect();
    let settings = &mut read.settings;
    let taken = match (&words[..], zone) {
        (["forward", from, to @ ..], _) => forward(from, to, zone, settings),
        (["hosts", rest @ ..], None) => hosts(rest, &directive.block, settings),
        (["rewrite", rest @ ..], None) => rewrite(rest, settings),
        (["log", ..], _) => {
            settings.log = Log::All;
            Ok(())
        }
        ([known, ..], _) if DONE.contains(known) => Ok(()),
        ([other, ..], _) => Err(format!("`{other}` is not known")),
        ([], _) => Ok(()),
    };
    if let Err(why) = taken {
        read.warnings.push(format!("left out of the Corefile: {why}"));
    }
}

fn forward(from: &str, to: &[&str], zone: Option<&Name>, settings: &mut Settings) -> Result<(), String> {
    // `forward . /etc/resolv.conf` is what is done where nothing is said.
    let servers: Vec<_> =
        to.iter().filter(|to| !to.starts_with('/')).map(|to| server(to)).collect::<Result<_, _>>()?;
    let from = name(from)?;
    let zone = if from.is_root() { zone.cloned() } else { Some(from) };
    match zone {
        None => settings.forward = servers,
        Some(_) if servers.is_empty() => {}
        Some(zone) => settings.stubs.push((zone, servers)),
    }
    Ok(())
}

fn hosts(rest: &[&str], block: &[Vec<String>], settings: &mut Settings) -> Result<(), String> {
    if let Some(file) = rest.first().filter(|word| word.starts_with('/')) {
        return Err(format!("`hosts {file}`: files are not read, only what stands in the block"));
    }
    for line in block {
        let Some((Ok(ip), names)) = line.split_first().map(|(first, names)| (first.parse::<IpAddr>(), names))
        else {
            // `fallthrough`, `ttl` and `no_reverse` change little or nothing here.
            continue;
        };
        for host in names {
            settings.hosts.entry(name(host)?).or_default().push(ip);
        }
    }
    Ok(())
}

fn rewrite(rest: &[&str], settings: &mut Settings) -> Result<(), String> {
    let rest = match rest {
        ["stop" | "continue", rest @ ..] => rest,
        rest => rest,
    };
    let rewrite = match rest {
        ["name", "suffix", from, to, ..] => {
            Rewrite::Suffix(name(from.trim_start_matches('.'))?, name(to.trim_start_matches('.'))?)
        }
        ["name", "prefix" | "substring" | "regex", ..] => {
            return Err(format!("`rewrite {}`: only whole names and suffixes are rewritten", rest.join(" ")));
        }
        ["name", "exact", from, to, ..] | ["name", from, to, ..] => Rewrite::Name(name(from)?, name(to)?),
        other => return Err(format!("`rewrite {}` is not known", other.join(" "))),
    };
    settings.rewrites.push(rewrite);
    Ok(())
}

/// Servers with their zones, and the directives of each.
fn blocks(text: &str, warnings: &mut Vec<String>) -> Vec<(Vec<String>, Vec<Directive>)> {
    let mut blocks: Vec<(Vec<String>, Vec<Directive>)> = Vec::new();
    let mut depth = 0_usize;
    let mut waiting: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if number >= MAX_LINES {
            warnings.push(format!("what follows line {MAX_LINES} of the Corefile is left out"));
            break;
        }
        let line = line.split('#').next().unwrap_or_default();
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        // A brace of a server's line may stand at a name: `.:53{`.
        let opens = words.last().is_some_and(|word| word.ends_with('{'));
        if let Some(last) = words.last_mut().filter(|_| opens) {
            last.pop();
        }
        words.retain(|word| !word.is_empty());
        if words.first().is_some_and(|word| word == "}") {
            depth = depth.saturating_sub(1);
            continue;
        }
        match (depth, opens) {
            (0, _) => {
                waiting.extend(words.iter().map(|word| word.trim_matches(',').to_owned()));
                if opens {
                    blocks.push((std::mem::take(&mut waiting), Vec::new()));
                }
            }
            (1, _) if !words.is_empty() => {
                if let Some((_, directives)) = blocks.last_mut() {
                    directives.push(Directive { words, block: Vec::new() });
                }
            }
            (2, _) if !words.is_empty() => {
                let directive = blocks.last_mut().and_then(|(_, directives)| directives.last_mut());
                if let Some(directive) = directive {
                    directive.block.push(words);
                }
            }
            _ => {}
        }
        depth += usize::from(opens);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn domain() -> Name {
        Name::from_ascii("cluster.local.").unwrap()
    }

    /// As kubeadm writes it, and what people add.
    const USUAL: &str = "
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    log
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    hosts {
       10.0.0.5 db.corp.example db
       fd00::5 db.corp.example
       fallthrough
    }
    rewrite name old.example new.example
    rewrite stop name suffix .a.example .b.example
    rewrite name regex (.*)\\.c\\.example {1}.d.example
    forward . 192.0.2.1 192.0.2.2:5353 {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
    template IN A {
       rcode NXDOMAIN
    }
}
corp.example:53 other.example {
    errors
    cache 30
    forward . 10.0.0.53
}
";

    #[test]
    fn the_usual_corefile_is_understood_and_what_is_not_is_named_once() {
        let Read { settings, warnings } = read(USUAL, &domain());
        assert_eq!(settings.forward, ["192.0.2.1:53", "192.0.2.2:5353"].map(|text| text.parse().unwrap()));
        let zones: Vec<String> = settings.stubs.iter().map(|(zone, _)| zone.to_ascii()).collect();
        assert_eq!(zones, ["corp.example.", "other.example."]);
        assert_eq!(settings.hosts[&name("db.corp.example").unwrap()].len(), 2);
        assert_eq!(settings.hosts[&name("db").unwrap()].len(), 1);
        assert_eq!((settings.rewrites.len(), settings.log), (2, Log::All));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("regex") || warnings[1].contains("regex"));
        assert!(warnings.iter().any(|warning| warning.contains("`template`")));
    }

    #[test]
    fn the_nodes_resolvers_are_what_is_asked_where_the_corefile_names_their_file() {
        let text = ".:53 {\n forward . /etc/resolv.conf {\n max_concurrent 1000\n }\n}\n";
        let Read { settings, warnings } = read(text, &domain());
        assert_eq!((settings, warnings.len()), (Settings::default(), 0));
    }

    proptest! {
        #[test]
        fn no_text_brings_the_reader_down(text in "(\\PC|[ \n{}#.:])*") {
            read(&text, &domain());
        }
    }
}
