//! Fields whose text is read at once.

use std::{fmt, net::IpAddr};

use proxy_abi::{Addr, proto};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use crate::ip::{parse_ip, unfit};

/// `Cluster` unless it says `Local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Policy {
    /// Only endpoints on the node that was asked.
    Local,
    /// Every endpoint; also what an API server that is newer than this code may call something else.
    #[default]
    #[serde(other)]
    Cluster,
}

/// The IP protocol's number; what we don't know (a future protocol) is 0 and matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Default for Protocol {
    fn default() -> Protocol {
        Protocol(proto::TCP)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
        Ok(Protocol(match std::borrow::Cow::<str>::deserialize(from)?.as_ref() {
            "TCP" | "" => proto::TCP,
            "UDP" => proto::UDP,
            "SCTP" => proto::SCTP,
            _ => 0,
        }))
    }
}

/// The first of an endpoint's addresses ("consumers must handle only the first", the API says).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstAddress {
    /// Or an FQDN.
    #[default]
    None,
    /// One that a packet can be sent to.
    Usable(Addr),
    /// One that may not be a backend.
    Unfit(IpAddr),
}

impl FirstAddress {
    /// The address of this family, if it may be used.
    pub fn usable(self, is_v4: bool) -> Option<Addr> {
        match self {
            FirstAddress::Usable(addr) if addr.is_v4() == is_v4 => Some(addr),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for FirstAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FirstAddress, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = FirstAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of addresses")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FirstAddress, A::Error> {
                let first = list.next_element::<std::borrow::Cow<'de, str>>()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(match first.and_then(|text| parse_ip(&text)) {
                    None => FirstAddress::None,
                    Some(ip) if unfit(ip).is_some() => FirstAddress::Unfit(ip),
                    Some(ip) => FirstAddress::Usable(ip.into()),
                })
            }
        }
        from.deserialize_seq(First)
    }
}
