//! Outputs of kubectl with stand-ins for what is another each time, so that a page made of them changes only
//! when the product does.

use std::net::Ipv4Addr;

use crate::table::{columns, split};

/// Names that Kubernetes makes at random end in five of these.
const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";
/// How a time looks, and its stand-in: `d` is a digit, `a` a letter. A fraction of its seconds goes with it.
const TIMES: &[(&str, &str)] = &[
    ("dddd-dd-ddTdd:dd:dd", "2026-01-01T00:00:00"),
    ("dd/aaa/dddd:dd:dd:dd", "01/Jan/2026:00:00:00"),
    ("aaa, dd aaa dddd dd:dd:dd", "Thu, 01 Jan 2026 00:00:00"),
];
/// Columns with a time that has passed.
const AGES: &[&str] = &["AGE", "LAST SEEN", "DURATION", "LAST SCHEDULE"];

/// The text, with stand-ins; tables are laid out anew.
pub fn stable(text: &str) -> String {
    let mut lines = text.lines().peekable();
    let mut out = String::new();
    while let Some(line) = lines.next() {
        if !is_header(line) {
            out += &words(line);
            out.push('\n');
            continue;
        }
        let mut block = vec![line];
        while let Some(line) = lines.next_if(|line| !line.trim().is_empty()) {
            block.push(line);
        }
        out += &table(&block);
    }
    out
}

/// A line of kubectl's tables' names: in capitals, two of them at least.
fn is_header(line: &str) -> bool {
    let is_capital = |char: char| char.is_ascii_uppercase() || " ()%-".contains(char);
    columns(line).len() > 1
        && !line.starts_with(' ')
        && line.replace("cores", "").replace("bytes", "").chars().all(is_capital)
}

fn table(block: &[&str]) -> String {
    let columns = columns(block.first().copied().unwrap_or_default());
    let cell = |(name, text): (&String, String)| match text
        .rsplit_once('(')
        .and_then(|(count, age)| Some((count, age.strip_suffix(" ago)")?)))
    {
        Some((count, age)) if is_age(age) => format!("{count}(5s ago)"),
        _ if AGES.contains(&name.as_str()) && is_age(&text) => "5s".to_owned(),
        _ => words(&text),
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(columns.iter().map(|(name, _)| name.clone()).collect())
            .chain(block.iter().skip(1).map(|line| {
                columns.iter().map(|(name, _)| name).zip(split(&columns, line)).map(cell).collect()
            }))
            .collect();
    let width = |at: usize| {
        let widths = rows.iter().map(|row| row.get(at).map_or(0, |cell| cell.chars().count()));
        widths.max().unwrap_or(0)
    };
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("{cell:<0$}", width(at)));
        out += cells.collect::<Vec<_>>().join("   ").trim_end();
        out.push('\n');
    }
    out
}

/// As kubectl tells a time that has passed: `5s`, `2m10s`, `3d`.
fn is_age(text: &str) -> bool {
    !text.is_empty()
        && text.starts_with(|char: char| char.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text.chars().all(|char| char.is_ascii_digit() || "smhd".contains(char))
}

fn words(line: &str) -> String {
    let mut line = times(line);
    // `describe` tells of events: type, reason, age …
    let age = line.split_whitespace().nth(2).filter(|age| is_age(age)).map(str::to_owned);
    if let Some(age) = age.filter(|_| line.starts_with("  Normal ") || line.starts_with("  Warning ")) {
        line = line.replacen(&age, "5s", 1);
    }
    let (mut out, mut word) = (String::new(), String::new());
    for char in line.chars().chain(['\n']) {
        if char.is_ascii_alphanumeric() || char == '.' || char == '-' {
            word.push(char);
            continue;
        }
        out += &stand_in(&word);
        out.push(char);
        word.clear();
    }
    out.trim_end().to_owned()
}

fn stand_in(word: &str) -> String {
    let is_hex = |text: &str| text.chars().all(|char| char.is_ascii_hexdigit() || char == '-');
    if let Ok(ip) = word.parse::<Ipv4Addr>() {
        let [a, b, c, d] = ip.octets();
        return match (a, b) {
            (10, 244) if d != 0 => format!("10.244.{c}.x"),
            (10, 96..=111) => "10.96.x.x".to_owned(),
            (172, _) => "172.30.0.x".to_owned(),
            _ => word.to_owned(),
        };
    }
    if word.len() >= 32 && is_hex(word) {
        return "…".to_owned();
    }
    match word.parse::<u16>() {
        Ok(30_000..=32_767) => return "3xxxx".to_owned(),
        // Those that the kernel gives.
        Ok(32_768..=60_999) => return "4xxxx".to_owned(),
        _ => {}
    }
    match word.rsplit_once('-') {
        Some((name, end)) if end.len() == 5 && end.chars().all(|char| ALPHABET.contains(char)) => {
            format!("{name}-xxxxx")
        }
        _ => word.to_owned(),
    }
}

fn times(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    'next: while let Some(first) = rest.chars().next() {
        for (pattern, stand_in) in TIMES {
            if fits(rest, pattern) {
                out += stand_in;
                rest = rest.get(pattern.len()..).unwrap_or_default();
                if let Some(fraction) = rest.strip_prefix('.') {
                    rest = fraction.trim_start_matches(|char: char| char.is_ascii_digit());
                }
                continue 'next;
            }
        }
        out.push(first);
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
    out
}

fn fits(text: &str, pattern: &str) -> bool {
    let mut chars = text.chars();
    pattern.chars().all(|wanted| {
        chars.next().is_some_and(|char| match wanted {
            'd' => char.is_ascii_digit(),
            'a' => char.is_ascii_alphabetic(),
            _ => char == wanted,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::stable;

    #[test]
    fn tables_are_laid_out_anew() {
        let text = "NAME                       READY   AGE    IP            NODE\n\
                    k8s-nginx-5d9f8b7c6d-x2bqk   1/1     2m10s   10.244.2.17   node1\n";
        let expected = "NAME                         READY   AGE   IP           NODE\n\
                        k8s-nginx-5d9f8b7c6d-xxxxx   1/1     5s    10.244.2.x   node1\n";
        // The name is longer than its column's head in this text: cells begin where the columns do.
        let text = text.replace("NAME                       READY", "NAME                         READY");
        let text = text.replace("AGE    IP ", "AGE     IP ");
        assert_eq!(stable(&text), expected);
    }

    #[test]
    fn what_is_another_each_time_has_a_stand_in() {
        for (text, expected) in [
            ("10.244.1.0/24 10.244.1.9:80 10.100.3.4", "10.244.1.0/24 10.244.1.x:80 10.96.x.x"),
            ("8080:30123/TCP back-off 10s", "8080:3xxxx/TCP back-off 10s"),
            (
                "at 2026-12-01T17:39:25Z, Tue, 01 Dec 2026 17:39:25 +0000",
                "at 2026-01-01T00:00:00Z, Thu, 01 Jan 2026 00:00:00 +0000",
            ),
            ("  Normal  Pulled  12s  kubelet  waits 12s", "  Normal  Pulled  5s  kubelet  waits 12s"),
            ("uid: 01234567-89ab-cdef-0123-456789abcdef", "uid: …"),
        ] {
            assert_eq!(stable(text).trim_end(), expected);
        }
    }
}
