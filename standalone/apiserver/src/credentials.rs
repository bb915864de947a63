//! What the server hands out at start: kubeconfigs with embedded certificates, and the token by which nodes
//! join.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::pki::{
    Authority, Pair, PkiError, Subject, hex, make_private_folder, read_if_there, write_private,
};

/// Where the server's own files stand, below `DATA_DIR/server`.
#[derive(Clone, Debug)]
pub struct Paths {
    pub pki: PathBuf,
    pub admin_kubeconfig: PathBuf,
    pub controllers_kubeconfig: PathBuf,
    pub scheduler_kubeconfig: PathBuf,
    pub join_token: PathBuf,
    kubeconfigs: PathBuf,
}

impl Paths {
    pub fn below(data_dir: &Path) -> Self {
        let server = data_dir.join("server");
        let kubeconfigs = server.join("kubeconfig");
        Self {
            pki: server.join("pki"),
            admin_kubeconfig: kubeconfigs.join("admin.yaml"),
            controllers_kubeconfig: kubeconfigs.join("controllers.yaml"),
            scheduler_kubeconfig: kubeconfigs.join("scheduler.yaml"),
            join_token: server.join("join-token"),
            kubeconfigs,
        }
    }
}

/// The URLs under which people and our own processes reach the server.
#[derive(Clone, Debug)]
pub struct Urls {
    pub outside: String,
    pub local: String,
}

impl Urls {
    /// `outside` is the advertised address, `local` the one it is bound to (loopback for a wildcard).
    pub fn new(advertise: IpAddr, bound: std::net::SocketAddr) -> Self {
        let local = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            ip => ip,
        };
        Self { outside: url(advertise, bound.port()), local: url(local, bound.port()) }
    }
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}

/// Writes the three kubeconfigs; a file that already says the same is left alone.
pub fn write_kubeconfigs(authority: &Authority, paths: &Paths, urls: &Urls) -> Result<(), PkiError> {
    make_private_folder(&paths.kubeconfigs)?;
    let clients = [
        (
            &paths.admin_kubeconfig,
            "admin",
            Subject::new("kubernetes-admin", &["system:masters"]),
            &urls.outside,
        ),
        (
            &paths.controllers_kubeconfig,
            "controllers",
            Subject::new("system:kube-controller-manager", &[]),
            &urls.local,
        ),
        (&paths.scheduler_kubeconfig, "scheduler", Subject::new("system:kube-scheduler", &[]), &urls.local),
    ];
    for (path, name, subject, server) in clients {
        let pair = authority.client(&paths.pki, name, &subject)?;
        let text = kubeconfig(server, authority.certificate_pem(), &subject.common_name, &pair);
        if read_if_there(path)?.as_deref() != Some(text.as_str()) {
            write_private(path, &text)?;
        }
    }
    Ok(())
}

/// A kubeconfig with everything in it.
pub fn kubeconfig(server: &str, ca_pem: &str, user: &str, pair: &Pair) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: skerry\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user:?}\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: skerry\n  context:\n    cluster: skerry\n    user: {user:?}\n\
         current-context: skerry\n",
        ca = encode(ca_pem),
        certificate = encode(&pair.certificate_pem),
        key = encode(&pair.key_pem),
    )
}

/// The join token `skerry1.HASH.SECRET`: reads it, or makes it. The secret is returned.
///
/// A token that pins another authority (its files were replaced) keeps its secret and gets the new hash.
pub fn join_secret(authority: &Authority, path: &Path) -> Result<String, PkiError> {
    let found = read_if_there(path)?;
    let secret = found
        .as_deref()
        .and_then(|text| text.trim().strip_prefix("skerry1."))
        .and_then(|rest| rest.split_once('.'))
        .map(|(_, secret)| secret.to_owned())
        .filter(|secret| secret.len() >= 32)
        .unwrap_or_else(|| hex(&rand::random::<[u8; 32]>()));
    let text = format!("skerry1.{}.{secret}\n", authority.fingerprint());
    if found.as_deref() != Some(text.as_str()) {
        write_private(path, &text)?;
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_first_start_stay_the_same_at_the_second() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let authority = Authority::load_or_create(&paths.pki).unwrap();
        let urls = Urls::new([192, 0, 2, 1].into(), "0.0.0.0:6443".parse().unwrap());
        let read = || {
            write_kubeconfigs(&authority, &paths, &urls).unwrap();
            join_secret(&authority, &paths.join_token).unwrap();
            [&paths.admin_kubeconfig, &paths.scheduler_kubeconfig, &paths.join_token]
                .map(|path| std::fs::read_to_string(path).unwrap())
        };
        let first = read();
        assert_eq!(first, read());
        assert!(first[0].contains("server: https://192.0.2.1:6443"));
        assert!(first[1].contains("server: https://127.0.0.1:6443"));
        assert!(first[2].starts_with(&format!("skerry1.{}.", authority.fingerprint())));
    }
}
