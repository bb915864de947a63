//! What a child process is told, as one document: the very values that the flags of `skerry server`, `skerry
//! node` and `skerry dns` make. So there is one list of options, and what `up` was told can't get lost on its
//! way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Args, FromArgMatches, value_parser};
use serde::{Deserialize, Serialize};

use crate::{
    args::{NodeArgs, ServerArgs},
    dns::ServeArgs,
    paths::write_private,
};

/// Of the documents' form. A child is started from the same file as its parent, but that may be replaced
/// meanwhile.
const VERSION: u32 = 1;

/// One child's document. What is in it may be secret: it is written for root alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    version: u32,
    #[serde(rename = "for")]
    role: Role,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Server(ServerArgs),
    Node(Box<NodeArgs>),
    Dns(ServeArgs),
}

impl From<ServerArgs> for Document {
    fn from(args: ServerArgs) -> Document {
        Document { version: VERSION, role: Role::Server(args) }
    }
}

impl From<NodeArgs> for Document {
    fn from(args: NodeArgs) -> Document {
        Document { version: VERSION, role: Role::Node(Box::new(args)) }
    }
}

impl From<ServeArgs> for Document {
    fn from(args: ServeArgs) -> Document {
        Document { version: VERSION, role: Role::Dns(args) }
    }
}

impl Document {
    /// Of the subcommand that takes it.
    fn name(&self) -> &'static str {
        match self.role {
            Role::Server(_) => "server",
            Role::Node(_) => "node",
            Role::Dns(_) => "dns",
        }
    }

    /// Writes it for the child, and returns what the child is started with.
    pub fn hand_over(&self, run_dir: &Path) -> anyhow::Result<Vec<String>> {
        let path = run_dir.join(format!("{}.options", self.name()));
        let text = serde_json::to_vec_pretty(self).context("write down a child's options")?;
        write_private(&path, &text)?;
        Ok(vec![self.name().to_owned(), format!("--{FLAG}"), path.display().to_string()])
    }

    fn read(path: &Path) -> anyhow::Result<Document> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Document::parse(&text).with_context(|| {
            format!(
                "{} is no document of options that this version knows: restart `skerry up`",
                path.display()
            )
        })
    }

    fn parse(text: &str) -> anyhow::Result<Document> {
        // First the version: of another one's fields nothing is known.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text)?;
        if version != VERSION {
            bail!("its version is {version}, not {VERSION}");
        }
        Ok(serde_json::from_str(text)?)
    }
}

/// Options of a subcommand that has documents.
pub trait Told: Sized {
    fn from_document(document: Document) -> Option<Self>;
}

impl Told for ServerArgs {
    fn from_document(document: Document) -> Option<ServerArgs> {
        match document.role {
            Role::Server(args) => Some(args),
            Role::Node(_) | Role::Dns(_) => None,
        }
    }
}

impl Told for NodeArgs {
    fn from_document(document: Document) -> Option<NodeArgs> {
        match document.role {
            Role::Node(args) => Some(*args),
            Role::Server(_) | Role::Dns(_) => None,
        }
    }
}

impl Told for ServeArgs {
    fn from_document(document: Document) -> Option<ServeArgs> {
        match document.role {
            Role::Dns(args) => Some(args),
            Role::Server(_) | Role::Node(_) => None,
        }
    }
}

/// The flag that takes the place of all others.
const FLAG: &str = "options";

/// Options as a person types them, or all of them by a document.
#[derive(Clone, Debug)]
pub enum Given<T> {
    Typed(T),
    Document(PathBuf),
}

impl<T: Told> Given<T> {
    pub fn read(self) -> anyhow::Result<T> {
        match self {
            Given::Typed(args) => Ok(args),
            Given::Document(path) => {
                let document = Document::read(&path)?;
                let name = document.name();
                T::from_document(document)
                    .with_context(|| format!("{} is for `skerry {name}`", path.display()))
            }
        }
    }
}

impl<T: Args> Args for Given<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flag = Arg::new(FLAG)
            .long(FLAG)
            .value_name("FILE")
            .help("All options as they are written down for a child, instead of flags")
            .exclusive(true)
            .value_parser(value_parser!(PathBuf));
        T::augment_args(command).arg(flag)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Given<T>, clap::Error> {
        match matches.get_one::<PathBuf>(FLAG) {
            Some(path) => Ok(Given::Document(path.clone())),
            None => T::from_arg_matches(matches).map(Given::Typed),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Given::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Values that are read as they are printed, such as ranges of addresses: as text.
pub mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Lists of such values.
pub mod texts {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let values = Vec::<String>::deserialize(from)?;
        values.into_iter().map(|value| value.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests;
