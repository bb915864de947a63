//! The parameters of `pods/NAME/log`, checked before a node is asked: what a node can't read it would leave
//! out, and the client would take the whole log for the part it asked for.

use skerry_schema::FieldError;

use crate::{error::ApiError, request::Query};

/// # Errors
/// 400 for what is no number or time, 422 for a value that makes no sense.
pub fn check(query: &Query, pod: &str) -> Result<(), ApiError> {
    let given = |key: &str| query.get(key).filter(|text| !text.is_empty());
    let number = |key: &str| -> Result<Option<i64>, ApiError> {
        let bad = |text| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"));
        given(key).map(|text| text.parse().map_err(|_| bad(text))).transpose()
    };
    let mut errors = Vec::new();
    let tail = number("tailLines")?;
    if let Some(lines) = tail.filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid("tailLines", &lines.into(), "must be greater than or equal to 0"));
    }
    let since = number("sinceSeconds")?;
    for (key, value) in [("limitBytes", number("limitBytes")?), ("sinceSeconds", since)] {
        if let Some(value) = value.filter(|value| *value < 1) {
            errors.push(FieldError::invalid(key, &value.into(), "must be greater than 0"));
        }
    }
    if let Some(time) = given("sinceTime") {
        time.parse::<jiff::Timestamp>().map_err(|_| {
            ApiError::bad_request(format!(
                "sinceTime: Invalid value: {time:?}: must be a time as in RFC 3339"
            ))
        })?;
        if since.is_some() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("sinceSeconds", detail));
        }
    }
    match given("stream") {
        None | Some("All") => {}
        Some("Stdout" | "Stderr") if tail.is_none() => {}
        Some("Stdout" | "Stderr") => {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.push(FieldError::forbidden("tailLines", detail));
        }
        Some(other) => {
            errors.push(FieldError::unsupported("stream", &other.into(), &["All", "Stderr", "Stdout"]));
        }
    }
    let Some(first) = errors.first() else { return Ok(()) };
    let mut text = first.to_string();
    if errors.len() > 1 {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        text = format!("[{}]", all.join(", "));
    }
    Err(ApiError::new(422, "Invalid", format!("PodLogOptions {pod:?} is invalid: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_or_makes_no_sense_is_refused() {
        let cases = [
            ("", 200),
            ("follow=true&tailLines=0&limitBytes=1&sinceSeconds=5&timestamps=true", 200),
            ("sinceTime=2026-01-01T00:00:00Z&stream=Stdout", 200),
            ("tailLines=abc", 400),
            ("tailLines=1.5", 400),
            ("limitBytes=1k", 400),
            ("sinceSeconds=5m", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=-5", 422),
            ("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=stdout", 422),
            ("stream=Stderr&tailLines=3", 422),
        ];
        for (query, code) in cases {
            let outcome = check(&Query::parse(query), "p");
            assert_eq!(outcome.map_or_else(|error| error.code(), |()| 200), code, "{query}");
        }
        let message = check(&Query::parse("tailLines=-1"), "p").unwrap_err().to_string();
        let expected = "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
        assert_eq!(message, expected);
    }
}
