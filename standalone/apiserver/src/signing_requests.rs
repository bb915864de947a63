//! CertificateSigningRequests: who asks is what the server knows of the client, and what is asked for is a
//! request.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
use serde_json::Value;
use skerry_schema::FieldError;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    api::Call,
    error::ApiError,
    object::{self, text},
    reviews::groups,
};

/// Puts the client's name and groups into a new request, in place of what it says of itself: whoever approves
/// or signs it goes by them. Objects of other kinds are left alone.
///
/// # Errors
/// 422 where `spec.request` is no PEM block of a request that its own key has signed.
pub fn identify(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    if call.kind.kind != "CertificateSigningRequest" {
        return Ok(());
    }
    let request = text(object, "/spec/request");
    if let Some(complaint) = complaint(request) {
        let error = FieldError::invalid("spec.request", &request.into(), complaint);
        return Err(ApiError::invalid(call.kind, object::name(object), &[error]));
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        // Certificates carry neither a uid nor anything extra.
        spec.shift_remove("uid");
        spec.shift_remove("extra");
        spec.insert("username".into(), call.subject.common_name.as_str().into());
        spec.insert("groups".into(), groups(&call.subject).into());
    }
    Ok(())
}

/// What is wrong with a request, in base64 as JSON has it.
fn complaint(request: &str) -> Option<&'static str> {
    let Ok(pem) = STANDARD.decode(request) else { return Some("must be base64") };
    let Ok(der) = CertificateSigningRequestDer::from_pem_slice(&pem) else {
        return Some("PEM block type must be CERTIFICATE REQUEST");
    };
    let Ok((rest, parsed)) = X509CertificationRequest::from_der(&der) else {
        return Some("must be a PKCS#10 certificate request");
    };
    if !rest.is_empty() {
        return Some("must be one PKCS#10 certificate request and nothing else");
    }
    parsed.verify_signature().is_err().then_some("must be signed by the key that it is for")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_request_is_a_signed_pem_block() {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let pem = request.pem().unwrap();
        assert_eq!(complaint(&STANDARD.encode(&pem)), None);
        let mut forged = request.der().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let body = STANDARD.encode(&forged);
        let forged =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        for (what, bad) in [
            ("no base64", "***".to_owned()),
            ("nothing", String::new()),
            ("no PEM", STANDARD.encode("hello")),
            ("a key", STANDARD.encode(key.serialize_pem())),
            ("another block", STANDARD.encode(pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"))),
            ("a wrong signature", STANDARD.encode(forged)),
        ] {
            assert!(complaint(&bad).is_some(), "{what}");
        }
    }
}
