//! Whether an image's name is one at all, by the grammar of the distribution project's references.

/// Longest `DOMAIN/PATH`.
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    #[error("couldn't parse image name {0:?}: invalid reference format")]
    Format(String),
    #[error(
        "couldn't parse image name {image:?}: invalid reference format: repository name ({path}) must be lowercase"
    )]
    Case { image: String, path: String },
    #[error("couldn't parse image name {0:?}: repository name must not be more than {NAME_LIMIT} characters")]
    Long(String),
    #[error(
        "couldn't parse image name {0:?}: invalid repository name ({0}), cannot specify 64-byte hexadecimal strings"
    )]
    Identifier(String),
}

/// `[DOMAIN[:PORT]/]PATH[:TAG][@ALGORITHM:HEX]`.
pub fn check(image: &str) -> Result<(), ImageNameError> {
    let malformed = || ImageNameError::Format(image.to_owned());
    if image.len() == 64 && image.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(ImageNameError::Identifier(image.to_owned()));
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err(malformed());
    }
    // A colon before a slash is a port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(malformed());
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain_like(first) => (Some(first), path),
        _ => (None, name),
    };
    if domain.is_some_and(|domain| !is_domain(domain)) {
        return Err(malformed());
    }
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        let library = if domain.is_none() && !path.contains('/') { "library/" } else { "" };
        return Err(ImageNameError::Case { image: image.to_owned(), path: format!("{library}{path}") });
    }
    if !path.split('/').all(is_component) {
        return Err(malformed());
    }
    if name.len() > NAME_LIMIT {
        return Err(ImageNameError::Long(image.to_owned()));
    }
    Ok(())
}

/// What tells a registry from the first part of a path on the default one.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((address, port)) = domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let plain =
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        return plain && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

/// Small letters and digits, parted by one dot, one or two underscores, or any number of dashes.
fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [component.bytes().next(), component.bytes().next_back()];
    if !edges.into_iter().all(|edge| edge.is_some_and(alphanumeric)) {
        return false;
    }
    let separators = component.split(|sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit());
    separators
        .filter(|part| !part.is_empty())
        .all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_LIMIT
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let part = |part: &str| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['+', '.', '-', '_']).all(part)
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_registries_know_pass() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        let names = [
            "busybox",
            "nginx:1.27",
            "library/a__b/c--d.e",
            "localhost/x",
            "localhost:5000/x:1",
            "REG.example/x",
            "[2001:db8::1]:5000/x",
            "registry.k8s.io/pause:3.9",
            digest.as_str(),
        ];
        for name in names {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_upstreams_words() {
        let malformed = [
            "",
            ":1",
            "a b",
            "x:",
            "x:-1",
            "x@sha256:12",
            "a..b",
            "-a",
            "a/",
            "/a",
            "http://x/y",
            "r.io:p/x",
        ];
        for name in malformed {
            assert_eq!(check(name), Err(ImageNameError::Format(name.to_owned())), "{name}");
        }
        let text = check("Busybox").unwrap_err().to_string();
        assert!(
            text.ends_with("invalid reference format: repository name (library/Busybox) must be lowercase")
        );
        assert_eq!(check(&"a".repeat(64)), Err(ImageNameError::Identifier("a".repeat(64))));
        assert!(matches!(check(&"g".repeat(256)), Err(ImageNameError::Long(_))));
    }
}
