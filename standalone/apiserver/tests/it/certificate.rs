//! The serving certificate: what the server may be called.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use skerry_lab::Netns;
use skerry_store::Options;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{TestServer, until};

async fn server(folder: tempfile::TempDir, advertise: &str) -> TestServer {
    let advertise = advertise.parse().unwrap();
    let adjust = |config: &mut skerry_apiserver::Config| {
        (config.bind, config.advertise) = ("0.0.0.0:0".parse().unwrap(), advertise);
    };
    TestServer::start_in(folder, adjust, Options::default()).await
}

/// Whether a client that dials `name` believes the server.
async fn is_believed(server: &TestServer, name: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.authority_pem().as_bytes()).unwrap()).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let here = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let stream = TcpStream::connect(here).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(tls)).connect(name, stream).await.is_ok()
}

#[test]
fn the_certificate_names_every_address_that_the_machine_has_and_follows_them() {
    let netns = Netns::unique("names").unwrap();
    netns
        .sh("ip link set lo up; ip address add 192.0.2.10/32 dev lo; ip address add 192.0.2.20/32 dev lo")
        .unwrap();
    let change = |line: &str| netns.sh(line).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    netns
        .run(|| {
            runtime().block_on(async {
                let first = server(tempfile::tempdir().unwrap(), "192.0.2.10").await;
                assert!(is_believed(&first, "192.0.2.10").await);
                // Given another address, it is still believed by those who know the old one.
                let second = server(first.stop().await, "192.0.2.20").await;
                assert!(is_believed(&second, "192.0.2.10").await && is_believed(&second, "192.0.2.20").await);
                assert!(!is_believed(&second, "192.0.2.30").await);
                change("ip address add 192.0.2.30/32 dev lo");
                until("a new address is named", || is_believed(&second, "192.0.2.30")).await;
                change("ip address del 192.0.2.10/32 dev lo");
                until("an address that is gone is not", || async {
                    !is_believed(&second, "192.0.2.10").await
                })
                .await;
                change("ip address del 192.0.2.20/32 dev lo");
                assert!(is_believed(&second, "192.0.2.20").await, "what was given stays");
                second.stop().await;
            });
        })
        .unwrap();
}
