//! Stands between the agent and the API server: notes every request, and refuses what the ClusterRole does
//! not allow.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// More than any head that a client sends.
const MAX_HEAD: u64 = 64 << 10;

/// What RBAC judges by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Request {
    pub verb: String,
    pub group: String,
    /// With its subresource, if any: `nodes/status`. A path that names no resource stands here whole.
    pub resource: String,
    pub namespace: String,
}

/// A rule taken apart: one verb on one resource.
pub type Right = (String, String, String);

#[derive(Clone, Default)]
pub struct Recorder {
    seen: Arc<Mutex<BTreeSet<Request>>>,
    rights: Arc<BTreeSet<Right>>,
}

impl Recorder {
    pub fn new(cluster_role: &Value) -> Recorder {
        Recorder { rights: Arc::new(rights(cluster_role)), ..Recorder::default() }
    }

    pub fn seen(&self) -> BTreeSet<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn rights(&self) -> &BTreeSet<Right> {
        &self.rights
    }

    pub fn allows(&self, request: &Request) -> bool {
        let Request { verb, group, resource, .. } = request;
        self.rights.contains(&(verb.clone(), group.clone(), resource.clone()))
    }

    /// Serves until the process ends. `upstream` speaks plain HTTP.
    pub fn serve(&self, listener: TcpListener, upstream: SocketAddr) {
        let recorder = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let recorder = recorder.clone();
                std::thread::spawn(move || {
                    // A client that goes away in the middle is its own affair.
                    if let Err(error) = recorder.pass(client, upstream) {
                        eprintln!("recorder: {error:#}");
                    }
                });
            }
        });
    }

    /// One request a connection: the answer says so, and the client comes again.
    fn pass(&self, mut client: TcpStream, upstream: SocketAddr) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if (&mut reader).take(MAX_HEAD).read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let request = parse(head.lines().next().unwrap_or_default()).context("a request line")?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(request.clone());
        if !self.allows(&request) {
            let body = format!(
                r#"{{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,"message":"{request:?}"}}"#
            );
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )?;
            return Ok(());
        }
        let mut server = TcpStream::connect(upstream).context("connect to kubectl proxy")?;
        let (line, headers) = head.split_once("\r\n").context("a head")?;
        write!(server, "{line}\r\nConnection: close\r\n{headers}")?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        std::io::copy(&mut (&mut reader).take(length.unwrap_or(0)), &mut server)?;
        // An answer may be a watch that goes on for minutes.
        std::io::copy(&mut server, &mut client).ok();
        Ok(())
    }
}

fn rights(cluster_role: &Value) -> BTreeSet<Right> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in cluster_role["rules"].as_array().into_iter().flatten() {
        for verb in list(&rule["verbs"]) {
            for group in list(&rule["apiGroups"]) {
                for resource in list(&rule["resources"]) {
                    rights.insert((verb.clone(), group.clone(), resource));
                }
            }
        }
    }
    rights
}

/// `GET /apis/GROUP/VERSION[/namespaces/NAMESPACE]/RESOURCE[/NAME[/SUBRESOURCE]]?QUERY HTTP/1.1`.
fn parse(line: &str) -> Option<Request> {
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", &[][..]),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (resource, is_named) = match rest {
        [] => (path.to_owned(), false),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let verb = match (method, is_named) {
        ("GET", _) if query.split('&').any(|pair| pair == "watch=true") => "watch",
        ("GET", true) => "get",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return None,
    };
    Some(Request {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource,
        namespace: namespace.to_owned(),
    })
}
