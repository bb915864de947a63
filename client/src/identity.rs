//! A client certificate that lives in files and is renewed there by somebody.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("client certificate {}: not PEM", path.display())]
    Certificate { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("client key {}: not PEM", path.display())]
    Key { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("client certificate {} and key {} can't be used together", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Shows at each handshake what the files hold then. While they can't be read, or do not fit each other
/// because they are just being replaced, what they held before is shown.
#[derive(Debug)]
pub struct FileIdentity {
    certificate: PathBuf,
    key: PathBuf,
    last: RwLock<Arc<CertifiedKey>>,
}

impl FileIdentity {
    /// # Errors
    /// When the files can't be used now.
    pub fn new(certificate: &Path, key: &Path) -> Result<FileIdentity, IdentityError> {
        let last = RwLock::new(read(certificate, key)?);
        Ok(FileIdentity { certificate: certificate.to_owned(), key: key.to_owned(), last })
    }
}

impl ResolvesClientCert for FileIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match read(&self.certificate, &self.key) {
            Ok(now) => *self.last.write().unwrap_or_else(PoisonError::into_inner) = now,
            Err(error) => {
                let error = skerry_vocabulary::chain(&error);
                tracing::warn!(error, "the client certificate of before is shown once more");
            }
        }
        Some(self.last.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, IdentityError> {
    let file =
        |path: &Path| fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source });
    let (certificate_pem, key_pem) = (file(certificate)?, file(key)?);
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(&certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|source| IdentityError::Certificate { path: certificate.to_owned(), source })?;
    let der = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|source| IdentityError::Key { path: key.to_owned(), source })?;
    let pair =
        |source| IdentityError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let signing = rustls::crypto::ring::sign::any_supported_type(&der).map_err(pair)?;
    let identity = CertifiedKey::new(chain, signing);
    identity.keys_match().map_err(pair)?;
    Ok(Arc::new(identity))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn issue(dir: &Path) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let pems = (certificate.pem(), key.serialize_pem());
        fs::write(dir.join("c"), &pems.0).unwrap();
        fs::write(dir.join("k"), &pems.1).unwrap();
        pems
    }

    #[test]
    fn a_renewed_certificate_is_shown_at_the_next_handshake_and_half_of_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c"), dir.path().join("k"));
        issue(dir.path());
        let identity = FileIdentity::new(&certificate, &key).unwrap();
        let shown = || identity.resolve(&[], &[]).unwrap().cert[0].clone();
        let first = shown();
        issue(dir.path());
        let second = shown();
        assert_ne!(first, second);
        let (fresh, _) = issue(dir.path());
        // The certificate is new, the key is not yet.
        fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!(shown(), second);
        fs::remove_file(&key).unwrap();
        assert_eq!(shown(), second);
        fs::write(&certificate, fresh).unwrap();
        assert!(FileIdentity::new(&certificate, &key).is_err());
        let error = FileIdentity::new(&key, &certificate).unwrap_err();
        assert!(matches!(error, IdentityError::Read { .. }), "{error}");
    }
}
