use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;

use super::{ConfigError, name, server};
use crate::settings::{Log, Rewrite, Settings};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    forward: Vec<String>,
    stub_domains: BTreeMap<String, Vec<String>>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    rewrites: Vec<FileRewrite>,
    log: FileLog,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileRewrite {
    name: Option<String>,
    suffix: Option<String>,
    to: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum FileLog {
    #[default]
    None,
    Failures,
    All,
}

/// # Errors
/// Names the field that is wrong.
pub(super) fn read(text: &str) -> Result<Settings, ConfigError> {
    let file: File = match text.trim() {
        "" => File::default(),
        text => serde_saphyr::from_str(text)?,
    };
    settings(&file).map_err(ConfigError::Wrong)
}

fn settings(file: &File) -> Result<Settings, String> {
    let at = |field: String| move |error: String| format!("{field}: {error}");
    let servers = |field: &str, texts: &[String]| {
        let all = texts.iter().map(|text| server(text));
        all.collect::<Result<Vec<_>, _>>().map_err(at(field.to_owned()))
    };
    let mut settings = Settings { forward: servers("forward", &file.forward)?, ..Settings::default() };
    for (zone, texts) in &file.stub_domains {
        let field = format!("stubDomains.{zone}");
        if texts.is_empty() {
            return Err(format!("{field}: names no resolver: write at least one"));
        }
        let zone = name(zone).map_err(at(field.clone()))?;
        settings.stubs.push((zone, servers(&field, texts)?));
    }
    for (host, addresses) in &file.hosts {
        let host = name(host).map_err(at(format!("hosts.{host}")))?;
        settings.hosts.insert(host, addresses.clone());
    }
    for (index, rewrite) in file.rewrites.iter().enumerate() {
        let field = format!("rewrites[{index}]");
        let to = name(&rewrite.to).map_err(at(format!("{field}.to")))?;
        settings.rewrites.push(match (&rewrite.name, &rewrite.suffix) {
            (Some(from), None) => Rewrite::Name(name(from).map_err(at(format!("{field}.name")))?, to),
            (None, Some(from)) => Rewrite::Suffix(name(from).map_err(at(format!("{field}.suffix")))?, to),
            _ => return Err(format!("{field}: write one of `name` and `suffix`")),
        });
    }
    settings.log = match file.log {
        FileLog::None => Log::None,
        FileLog::Failures => Log::Failures,
        FileLog::All => Log::All,
    };
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_can_be_set_is_read() {
        let text = "forward: [192.0.2.1, '[2001:db8::1]:5353']\nstubDomains:\n  Corp.example: [10.0.0.53]\n\
                    hosts: {db.corp.example: [10.0.0.5, 'fd00::5']}\n\
                    rewrites:\n  - {name: old.example, to: new.example}\n  - {suffix: a.example, to: b.example}\nlog: all\n";
        let read = read(text).unwrap();
        assert_eq!(read.forward, ["192.0.2.1:53", "[2001:db8::1]:5353"].map(|text| text.parse().unwrap()));
        let [(zone, servers)] = &read.stubs[..] else { panic!("{read:?}") };
        assert_eq!((zone.to_ascii().as_str(), servers.len()), ("corp.example.", 1));
        assert_eq!(read.hosts[&name("db.corp.example").unwrap()].len(), 2);
        let rewritten = |text: &str| read.rewritten(&name(text).unwrap()).map(|name| name.to_ascii());
        assert_eq!(rewritten("OLD.example").as_deref(), Some("new.example."));
        assert_eq!(rewritten("x.y.a.example").as_deref(), Some("x.y.b.example."));
        assert_eq!((rewritten("a.example"), rewritten("c.example")), (None, None));
        assert_eq!(read.log, Log::All);
        assert_eq!(super::read("").unwrap(), Settings::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, field) in [
            ("forward: [nonsense]", "forward: `nonsense`"),
            ("stubDomains: {a.example: [x]}", "stubDomains.a.example"),
            ("stubDomains: {a.example: []}", "stubDomains.a.example"),
            ("hosts: {a: [300.1.1.1]}", "300.1.1.1"),
            ("rewrites: [{to: a}]", "rewrites[0]"),
            ("rewrites: [{name: a, suffix: b, to: c}]", "rewrites[0]"),
            ("forwards: []", "forwards"),
            ("log: some", "some"),
        ] {
            let error = read(text).unwrap_err();
            let chain = skerry_vocabulary::chain(&error);
            assert!(chain.contains(field), "{text}: {chain}");
        }
    }
}
