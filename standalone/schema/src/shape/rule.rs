//! What a field's value must be like, and what it is when nobody says.

/// One field's rule; the table is `rules.txt`.
#[derive(Debug)]
pub struct Rule {
    pub required: bool,
    /// May not change once set.
    pub immutable: bool,
    /// An empty string or a zero counts as absent when the default is set.
    pub zero_is_absent: bool,
    /// JSON.
    pub default: Option<&'static str>,
    /// The values that are allowed; empty: any.
    pub values: &'static [&'static str],
    pub min: Option<i64>,
    pub max: Option<i64>,
    /// How many entries a list or map may have, where that is less than for all.
    pub items: Option<usize>,
    pub form: Option<Form>,
}

/// The syntax of a string (or of the keys or values of a map).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 1123 label, at most 63.
    Label,
    /// RFC 1123 subdomain, at most 253.
    Subdomain,
    /// RFC 1035 label.
    Label1035,
    /// `[prefix/]name`, as label keys are.
    QualifiedName,
    LabelValue,
    /// A map of labels.
    Labels,
    /// IANA service name: at most 15, a letter in it.
    PortName,
    /// A port number, or a port's name.
    PortOrName,
    /// 1 to 65535; 0 is how an absent number looks.
    Port,
    /// 1 to 65535, and nothing else.
    PortNumber,
    Ip,
    Cidr,
    /// An absolute path.
    AbsolutePath,
    /// A path without `..`.
    LocalPath,
    /// An environment variable's name.
    EnvName,
    /// A key of a ConfigMap or Secret.
    ConfigKey,
    /// A quantity that is not negative.
    NotNegative,
    /// A map of resource name to quantity that is not negative.
    Resources,
    /// A count or a percentage, not negative.
    CountOrPercent,
    Cron,
    TimeZone,
    /// A label selector.
    Selector,
}
