//! What selectors ask of labels and fields,
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>.

/// How one requirement of a selector compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// The value is one of `values`.
    In,
    /// The value is none of `values`, or is not there.
    NotIn,
    /// There is a value, whichever; `values` is not looked at.
    Exists,
    /// There is no value; `values` is not looked at.
    DoesNotExist,
    /// Of nodes and of `labelSelector` texts only; both sides are integers.
    Gt,
    /// As `Gt`.
    Lt,
}

impl Operator {
    /// `None` for one that the API does not know.
    pub fn parse(text: &str) -> Option<Operator> {
        Some(match text {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => return None,
        })
    }

    /// Whether the requirement holds of `value`, the label's or field's (`None`: it is not there). `Gt` and
    /// `Lt` hold of no more and no less than one value that is an integer.
    pub fn holds<'a>(self, value: Option<&str>, values: impl IntoIterator<Item = &'a str>) -> bool {
        let mut values = values.into_iter();
        match self {
            Operator::In => value.is_some_and(|value| values.any(|one| one == value)),
            Operator::NotIn => value.is_none_or(|value| values.all(|one| one != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => {
                let (Some(value), Some(bound), None) = (value, values.next(), values.next()) else {
                    return false;
                };
                let (Ok(value), Ok(bound)) = (value.parse::<i64>(), bound.parse::<i64>()) else {
                    return false;
                };
                if self == Operator::Gt { value > bound } else { value < bound }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_hold_as_documented() {
        let cases: [(&str, Option<&str>, &[&str], bool); 17] = [
            ("In", Some("web"), &["web", "db"], true),
            ("In", Some("x"), &["web", "db"], false),
            ("In", None, &["web"], false),
            ("NotIn", None, &["web"], true),
            ("NotIn", Some("web"), &["web"], false),
            ("NotIn", Some("db"), &["web"], true),
            ("Exists", Some(""), &[], true),
            ("Exists", None, &[], false),
            ("DoesNotExist", None, &[], true),
            ("DoesNotExist", Some(""), &[], false),
            ("Gt", Some("5"), &["4"], true),
            ("Gt", Some("5"), &["5"], false),
            ("Gt", Some("5"), &["4", "3"], false),
            ("Gt", Some("five"), &["4"], false),
            ("Gt", None, &["4"], false),
            ("Lt", Some("-5"), &["4"], true),
            ("Lt", Some("4"), &["4"], false),
        ];
        for (operator, value, values, expected) in cases {
            let held = Operator::parse(operator).unwrap().holds(value, values.iter().copied());
            assert_eq!(held, expected, "{operator} {value:?} {values:?}");
        }
        assert_eq!(Operator::parse("Bogus"), None);
    }
}
