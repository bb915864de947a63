//! The cluster's own certificate authority, and what it signs.
//!
//! Everything is load-or-create: a second start with the same folder changes nothing but what is about to
//! expire or no longer fits (the serving certificate follows its names). Every file is written beside itself
//! and renamed, mode 0600.

use std::{
    io::Write,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// A certificate with less than this left is signed anew.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * 86_400);
/// Clocks of nodes that join may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(3_600);

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not readable as PEM: restore it from a backup, or remove it and its key to have it made anew"
    )]
    Pem { path: PathBuf },
    #[error(
        "{path} is missing, the key of the authority that all certificates are of: restore it from a backup, or remove ca.crt \
         as well to begin a new authority, which every node has to join anew"
    )]
    KeyLost { path: PathBuf },
    #[error("sign the certificate of {subject}")]
    Sign { subject: String, source: rcgen::Error },
    #[error(
        "read the certificate request: it must be one PEM block CERTIFICATE REQUEST signed by its own key"
    )]
    Request { source: rcgen::Error },
    #[error("{name} is neither a DNS name nor an address: correct it in the list of extra names")]
    Name { name: String, source: rcgen::Error },
}

/// The authority: signs, and says who it is.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// Who a client certificate speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

impl Subject {
    pub fn new(common_name: &str, organizations: &[&str]) -> Self {
        let organizations = organizations.iter().map(|name| (*name).to_owned()).collect();
        Self { common_name: common_name.to_owned(), organizations }
    }
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` in `folder`, or makes both.
    pub fn load_or_create(folder: &Path) -> Result<Self, PkiError> {
        make_private_folder(folder)?;
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        if let Some(pair) = read_pair(&certificate_path, &key_path)? {
            return Self::from_pair(&pair, &certificate_path);
        }
        // The key is written first: alone it has signed nothing yet.
        if certificate_path.exists() {
            return Err(PkiError::KeyLost { path: key_path });
        }
        let key = generate("the certificate authority")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&Subject::new("skerry-ca", &[]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, CA_LIFETIME);
        let certificate = params
            .self_signed(&key)
            .map_err(|source| PkiError::Sign { subject: "the certificate authority".into(), source })?;
        let pair = Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        write_pair(&pair, &certificate_path, &key_path)?;
        Self::from_pair(&pair, &certificate_path)
    }

    fn from_pair(pair: &Pair, path: &Path) -> Result<Self, PkiError> {
        let unreadable = || PkiError::Pem { path: path.to_owned() };
        let key = KeyPair::from_pem(&pair.key_pem).map_err(|_| unreadable())?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate_pem, key).map_err(|_| unreadable())?;
        let certificate =
            CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).map_err(|_| unreadable())?;
        Ok(Self { issuer, certificate_pem: pair.certificate_pem.clone(), certificate })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the certificate's DER, in hex: what a join token pins.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.certificate))
    }

    /// The serving certificate in `folder`, signed anew when its names are not exactly `names` or it nears
    /// its end.
    pub fn serving(&self, folder: &Path, names: &[String]) -> Result<Pair, PkiError> {
        let (certificate_path, key_path) = (folder.join("serving.crt"), folder.join("serving.key"));
        if let Some(pair) = read_pair(&certificate_path, &key_path)?
            && self.still_good(&pair)
            && names_of(&pair) == sorted(names)
        {
            return Ok(pair);
        }
        let mut params = CertificateParams::default();
        for name in names {
            let san = match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .map_err(|source| PkiError::Name { name: name.clone(), source })?,
                ),
            };
            params.subject_alt_names.push(san);
        }
        params.distinguished_name = distinguished_name(&Subject::new("kube-apiserver", &[]));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pair = self.sign(params, "the API server")?;
        write_pair(&pair, &certificate_path, &key_path)?;
        Ok(pair)
    }

    /// The client certificate `NAME.crt` in `folder` for `subject`, signed anew when it nears its end.
    pub fn client(&self, folder: &Path, name: &str, subject: &Subject) -> Result<Pair, PkiError> {
        let (certificate_path, key_path) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        if let Some(pair) = read_pair(&certificate_path, &key_path)?
            && self.still_good(&pair)
            && pem_subject(&pair.certificate_pem).as_ref() == Some(subject)
        {
            return Ok(pair);
        }
        let pair = self.issue_client(subject)?;
        write_pair(&pair, &certificate_path, &key_path)?;
        Ok(pair)
    }

    /// A client certificate and key that stand in no file.
    pub fn issue_client(&self, subject: &Subject) -> Result<Pair, PkiError> {
        self.sign(client_params(subject), &subject.common_name)
    }

    /// Signs a request's public key for `subject`; whatever else the request asks for is not looked at.
    pub fn sign_request(&self, request_pem: &str, subject: &Subject) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|source| PkiError::Request { source })?;
        request.params = client_params(subject);
        set_validity(&mut request.params, LEAF_LIFETIME);
        let certificate = request
            .signed_by(&self.issuer)
            .map_err(|source| PkiError::Sign { subject: subject.common_name.clone(), source })?;
        Ok(certificate.pem())
    }

    fn sign(&self, mut params: CertificateParams, subject: &str) -> Result<Pair, PkiError> {
        let key = generate(subject)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_LIFETIME);
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| PkiError::Sign { subject: subject.to_owned(), source })?;
        Ok(Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signed by this authority and far enough from its end.
    fn still_good(&self, pair: &Pair) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()) else { return false };
        let (Ok((_, leaf)), Ok((_, ca))) = (
            x509_parser::parse_x509_certificate(&der),
            x509_parser::parse_x509_certificate(&self.certificate),
        ) else {
            return false;
        };
        let renew_at = SystemTime::now() + RENEW_BEFORE;
        let seconds = renew_at.duration_since(UNIX_EPOCH).map_or(i64::MAX, |since| since.as_secs() as i64);
        leaf.verify_signature(Some(ca.public_key())).is_ok()
            && leaf.validity().not_after.timestamp() > seconds
    }
}

impl Pair {
    /// The certificate and key as rustls takes them.
    pub fn parts(&self) -> Option<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).ok()?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).ok()?;
        Some((certificate, key))
    }
}

/// The subject of a certificate that has already been verified.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let common_name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = certificate
        .subject()
        .iter_organization()
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    Some(Subject { common_name, organizations })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file of mode 0600 so that a reader sees the old text or the new one, also after a crash.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let fail = |operation| move |source| PkiError::File { operation, path: path.to_owned(), source };
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail("write"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail("write"))?;
    std::fs::rename(&beside, path).map_err(fail("put in place"))
}

/// Makes a folder of mode 0700 and its parents.
pub fn make_private_folder(path: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| PkiError::File {
        operation: "make the folder",
        path: path.to_owned(),
        source,
    })
}

/// The text of a file; `None` where there is none.
pub fn read_if_there(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { operation: "read", path: path.to_owned(), source }),
    }
}

fn client_params(subject: &Subject) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn distinguished_name(subject: &Subject) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // rcgen keeps one entry per attribute type; none of our identities has two organizations.
    if let Some(organization) = subject.organizations.first() {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, subject.common_name.as_str());
    name
}

fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + lifetime;
}

fn generate(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|source| PkiError::Sign { subject: subject.to_owned(), source })
}

fn pem_subject(certificate_pem: &str) -> Option<Subject> {
    subject_of(&CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?)
}

fn names_of(pair: &Pair) -> Vec<String> {
    let Ok(der) = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()) else { return Vec::new() };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return Vec::new() };
    let Ok(Some(san)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names: Vec<String> = san
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => address_text(bytes),
            _ => None,
        })
        .collect();
    sorted(&names)
}

fn address_text(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::from(v6).to_string())
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    names
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Option<Pair>, PkiError> {
    let pair = (read_if_there(certificate)?, read_if_there(key)?);
    let (Some(certificate_pem), Some(key_pem)) = pair else { return Ok(None) };
    Ok(Some(Pair { certificate_pem, key_pem }))
}

fn write_pair(pair: &Pair, certificate: &Path, key: &Path) -> Result<(), PkiError> {
    write_private(key, &pair.key_pem)?;
    write_private(certificate, &pair.certificate_pem)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_that_has_lost_its_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join("ca.key")).unwrap();
        let error = Authority::load_or_create(folder.path()).err().unwrap().to_string();
        assert!(error.contains("ca.key is missing"), "{error}");
        let certificate = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        assert_eq!(certificate, first.certificate_pem());
        // A first start that was cut short has left the key alone.
        std::fs::remove_file(folder.path().join("ca.crt")).unwrap();
        std::fs::write(folder.path().join("ca.key"), "half").unwrap();
        Authority::load_or_create(folder.path()).unwrap();
    }

    #[test]
    fn a_second_start_keeps_the_authority_and_the_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(folder.path()).unwrap();
        let serving = first.serving(folder.path(), &names(&["localhost", "10.96.0.1"])).unwrap();
        let second = Authority::load_or_create(folder.path()).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        let again = second.serving(folder.path(), &names(&["10.96.0.1", "localhost"])).unwrap();
        assert_eq!(serving.certificate_pem, again.certificate_pem);
    }

    #[test]
    fn a_changed_name_renews_the_serving_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let before = authority.serving(folder.path(), &names(&["localhost"])).unwrap();
        let after = authority.serving(folder.path(), &names(&["localhost", "192.0.2.7"])).unwrap();
        assert_ne!(before.certificate_pem, after.certificate_pem);
        assert_eq!(names_of(&after), names(&["192.0.2.7", "localhost"]));
    }

    #[test]
    fn keys_are_readable_by_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        Authority::load_or_create(folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_request_is_signed_for_the_subject_we_name_not_the_one_it_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&Subject::new("evil", &["system:masters"]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let subject = Subject::new("system:node:a", &["system:nodes"]);
        let signed = authority.sign_request(&request, &subject).unwrap();
        assert_eq!(pem_subject(&signed), Some(subject));
        let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
        assert!(!x509_parser::parse_x509_certificate(&der).unwrap().1.is_ca());
    }
}
