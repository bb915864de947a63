use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    ProtoError,
    op::{Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::upstream::{Upstream, UpstreamError};

#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    #[error("{name} is no name")]
    Name { name: String, source: ProtoError },
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("{server} answers for {name}: {code}")]
    Refused { server: SocketAddr, name: String, code: ResponseCode },
    #[error("{server} knows no address of {name}")]
    None { server: SocketAddr, name: String },
}

/// The first address that a server answers for a whole name, of the server's own family.
///
/// # Errors
/// When it does not answer within `patience`, or names none.
pub async fn address_of(server: SocketAddr, name: &str, patience: Duration) -> Result<IpAddr, AskedError> {
    let whole = Name::from_ascii(name);
    let mut whole = whole.map_err(|source| AskedError::Name { name: name.to_owned(), source })?;
    whole.set_fqdn(true);
    let kind = if server.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    let answer = Upstream::new(server).ask(&Query::query(whole, kind), false, false, patience).await?;
    if answer.metadata.response_code != ResponseCode::NoError {
        let code = answer.metadata.response_code;
        return Err(AskedError::Refused { server, name: name.to_owned(), code });
    }
    let address = answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::from(address.0)),
        RData::AAAA(address) => Some(IpAddr::from(address.0)),
        _ => None,
    });
    address.ok_or_else(|| AskedError::None { server, name: name.to_owned() })
}
