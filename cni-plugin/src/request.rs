//! What the runtime asks: environment and standard input.

use std::{collections::BTreeMap, path::PathBuf};

use rscni_types::{
    error::Error,
    types::{self, Cmd, ContainerId, InterfaceName},
    version::{PluginInfo, SpecVersion},
};

use crate::conf::Conf;

/// Configurations larger than this, in bytes, are refused.
pub const MAX_CONF: u64 = 4 << 20;

/// A call about one container's interface: ADD, DEL, CHECK.
#[derive(Debug)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
    /// `None` only for a DEL after the namespace went.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`, by key.
    pub args: BTreeMap<String, String>,
}

/// A call that the specification allows in the version asked for.
#[derive(Debug)]
pub enum Request {
    Add(Attachment),
    Del(Attachment),
    Check(Attachment),
    Gc,
    Status,
    Version,
}

/// Environment variables by name; unset and empty are the same.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub fn command(env: Env<'_>) -> Result<Cmd, Error> {
    match env(types::CNI_COMMAND) {
        Some(command) => command.parse(),
        None => Err(Error::InvalidEnvValue(
            "CNI_COMMAND is not set: this program is started by container runtimes (CNI specification 1.1); \
             put it into their plugin folder, e.g. /opt/cni/bin"
                .into(),
        )),
    }
}

/// The version to answer in: what was asked for if we speak it.
pub fn version(conf: &Conf, command: Cmd) -> Result<SpecVersion, Error> {
    let version = conf.version()?;
    version.allows(command)?;
    PluginInfo::default().validate(version)?;
    Ok(version)
}

pub fn parse(command: Cmd, env: Env<'_>) -> Result<Request, Error> {
    Ok(match command {
        Cmd::Add => Request::Add(attachment(env, true)?),
        Cmd::Check => Request::Check(attachment(env, true)?),
        Cmd::Del => Request::Del(attachment(env, false)?),
        Cmd::Gc => Request::Gc,
        Cmd::Status => Request::Status,
        Cmd::Version => Request::Version,
    })
}

fn attachment(env: Env<'_>, netns_needed: bool) -> Result<Attachment, Error> {
    let netns = env(types::CNI_NETNS).map(PathBuf::from);
    let missing: Vec<&str> = [types::CNI_CONTAINERID, types::CNI_IFNAME]
        .into_iter()
        .filter(|name| env(name).is_none())
        .chain((netns_needed && netns.is_none()).then_some(types::CNI_NETNS))
        .collect();
    if !missing.is_empty() {
        return Err(Error::missing_env(&missing));
    }
    let container_id: ContainerId = env(types::CNI_CONTAINERID).unwrap_or_default().parse()?;
    let ifname: InterfaceName = env(types::CNI_IFNAME).unwrap_or_default().parse()?;
    // Both become part of a file's name (255 bytes at most, `@` between them).
    if container_id.len() > 200 {
        return Err(Error::InvalidEnvValue(format!(
            "CNI_CONTAINERID has {} bytes; at most 200",
            container_id.len()
        )));
    }
    if ifname.contains('@') {
        return Err(Error::InvalidEnvValue(format!("CNI_IFNAME {:?} holds a '@'", &*ifname)));
    }
    let args = parse_args(&env(types::CNI_ARGS).unwrap_or_default())?;
    Ok(Attachment { container_id: container_id.to_string(), ifname: ifname.to_string(), netns, args })
}

/// `KEY=VALUE;KEY=VALUE`
fn parse_args(text: &str) -> Result<BTreeMap<String, String>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::InvalidEnvValue(format!("CNI_ARGS: {pair:?} is no KEY=VALUE"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(command: Cmd, pairs: &[(&str, &str)]) -> Result<Request, Error> {
        let find =
            |name: &str| pairs.iter().find(|(k, v)| *k == name && !v.is_empty()).map(|(_, v)| v.to_string());
        parse(command, &find)
    }

    #[test]
    fn what_is_missing_is_named_all_at_once() {
        let error = parse_with(Cmd::Add, &[]).unwrap_err();
        assert_eq!(u32::from(&error), 4);
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(
            parse_with(Cmd::Del, &[("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")])
                .is_ok()
        );
    }

    #[test]
    fn ids_that_would_leave_their_folder_are_refused() {
        for (id, ifname) in
            [("../x", "eth0"), ("a/b", "eth0"), ("c", "../e"), ("c", "e@h"), ("", "eth0"), ("c", "a b")]
        {
            let error = parse_with(Cmd::Del, &[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)]).unwrap_err();
            assert_eq!(u32::from(&error), 4, "{id} {ifname}");
        }
        let long = "c".repeat(201);
        assert!(parse_with(Cmd::Del, &[("CNI_CONTAINERID", &long), ("CNI_IFNAME", "eth0")]).is_err());
    }

    #[test]
    fn args_are_pairs() {
        let args = parse_args("IgnoreUnknown=1;K8S_POD_NAME=web=1;").unwrap();
        assert_eq!(args["K8S_POD_NAME"], "web=1");
        assert_eq!(u32::from(&parse_args("novalue").unwrap_err()), 4);
    }

    #[test]
    fn commands_need_a_version_that_has_them() {
        let conf = |v: &str| Conf::parse(format!(r#"{{"cniVersion":"{v}"}}"#).as_bytes()).unwrap();
        for (asked, command, ok) in [
            ("0.3.1", Cmd::Add, true),
            ("0.3.1", Cmd::Check, false),
            ("0.4.0", Cmd::Check, true),
            ("1.0.0", Cmd::Gc, false),
            ("1.1.0", Cmd::Gc, true),
            ("1.0.0", Cmd::Status, false),
            ("0.2.0", Cmd::Add, false),
            ("1.2.0", Cmd::Add, false),
        ] {
            let result = version(&conf(asked), command);
            assert_eq!(result.is_ok(), ok, "{asked} {command:?}");
            if let Err(error) = result {
                assert_eq!(u32::from(&error), 1, "{error}");
            }
        }
    }
}
