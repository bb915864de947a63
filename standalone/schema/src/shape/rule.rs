//! What a field's value must be like, and what it is when nobody says.

/// One field's rule; the table is `rules.txt`.
#[derive(Debug)]
pub struct Rule {
    /// May not be absent where its object is there, nor an empty text, list or map.
    pub required: bool,
    /// May not change once set.
    pub immutable: bool,
    /// An empty string or a zero counts as absent when the default is set.
    pub zero_is_absent: bool,
    /// JSON.
    pub default: Option<&'static str>,
    /// The values that are allowed; empty: any.
    pub values: &'static [&'static str],
    /// The least that a number may be. `None`: whatever its type holds.
    pub min: Option<i64>,
    /// The most; see `min`.
    pub max: Option<i64>,
    /// How many entries a list or map may have, where that is less than for all.
    pub items: Option<usize>,
    /// `None`: any that its type allows.
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
    /// What a label may hold: at most 63 characters, or none.
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
    /// An IPv4 or IPv6 address, without a prefix.
    Ip,
    /// Address and prefix length, `10.0.0.0/8`.
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
    /// Five fields, a macro (`@daily`) or `@every` with a duration; never a time zone.
    Cron,
    /// A name of the IANA time zone database, upper and lower case as there.
    TimeZone,
    /// A label selector.
    Selector,
}
