//! `skerry-cni`: gives pods their network (CNI specification 0.3.0 to 1.1.0).
//!
//! [`run`] is the program; [`records`], [`given_at`] and [`restore`] are for the agent, which writes what pods
//! have into tables that were made anew.
//!
//! Started by the container runtime once a call, with the call in the environment and the configuration on
//! standard input; lives for milliseconds. A client of the agent's pinned maps ([`proxy_abi`]): works while
//! the agent is down.

mod add;
mod answer;
mod check;
mod conf;
mod datapath;
mod del;
mod failure;
mod identity;
mod loopback;
mod netlink;
mod pool;
mod range;
mod request;
mod restore;
mod state;
mod upkeep;
mod veth;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use rscni_types::{
    error::Error as CniError,
    types::{Cmd, ErrorResult},
    version::{PluginInfo, SpecVersion},
};
use serde_json::{Value, json};

use crate::{conf::Conf, failure::Failure, request::Request};
pub use crate::{
    restore::{RestoreError, Restored, given_at, records, restore},
    state::{Record, StateError},
};

/// Answers the call that the environment and standard input hold.
pub fn run() -> ExitCode {
    // Until it is known which version is asked for, the newest is spoken.
    let mut version = SpecVersion::CURRENT;
    let (text, code) = match call(&mut version) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Err(failure) => {
            let error = ErrorResult::new(version, &failure.into_cni());
            (json!(error).to_string(), ExitCode::FAILURE)
        }
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Ok(()) => code,
        // Nobody listens: the runtime takes it as failed and sends a DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

fn call(version: &mut SpecVersion) -> Result<Option<Value>, Failure> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let command = request::command(&env)?;
    let conf = read_conf()?;
    if command == Cmd::Version {
        return Ok(Some(version_info(&conf)));
    }
    *version = request::version(&conf, command)?;
    match request::parse(command, &env)? {
        request if conf.is_loopback() => loopback::answer(&conf, *version, &request),
        Request::Add(attachment) => add::add(&conf, *version, &attachment).map(Some),
        Request::Del(attachment) => del::del(&conf, &attachment).map(|()| None),
        Request::Check(attachment) => check::check(&conf, &attachment).map(|()| None),
        Request::Gc => upkeep::gc(&conf).map(|()| None),
        Request::Status => upkeep::status(&conf).map(|()| None),
        Request::Version => Ok(Some(version_info(&conf))),
    }
}

fn read_conf() -> Result<Conf, CniError> {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(request::MAX_CONF + 1).read_to_end(&mut text);
    read.map_err(|e| {
        CniError::IOFailure(format!("read the network configuration from standard input: {e}"))
    })?;
    if text.len() as u64 > request::MAX_CONF {
        let limit = request::MAX_CONF;
        return Err(CniError::InvalidNetworkConfig(format!(
            "the network configuration is over {limit} bytes"
        )));
    }
    Conf::parse(&text)
}

/// In the version that was asked in, if it can be read.
fn version_info(conf: &Conf) -> Value {
    let asked = conf.version().ok().filter(|version| version.is_supported());
    let known = PluginInfo::default();
    json!({
        "cniVersion": asked.unwrap_or(SpecVersion::CURRENT),
        "supportedVersions": known.supported_versions(),
    })
}
