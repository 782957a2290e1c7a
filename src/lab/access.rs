//! How people come into the lab's dashboard: where it answers, and the token that `labctl up` made for whoever runs it.
//!
//! The token is in two places: in a file of the lab's state that only its owner can read, and in a Secret of the
//! dashboard's namespace ([`super::step::token`]). It is not among Helm's values, which `helm get values` prints, and no log
//! and no message has it.

use std::path::PathBuf;

use anyhow::Result;

use super::record::{Origin, Record};
use crate::config::Settings;
use crate::drive::files::{self, Digest};
use crate::error::{Code, Diagnosis};

/// The name under which the dashboard knows whoever has the lab.
pub const USER: &str = "learner";
/// How many random bytes a token has.
const BYTES: usize = 32;

/// The tokens of the lab's dashboard: one line, in the form that `labctl serve --token-file` reads.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens(String);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

impl Tokens {
    /// Makes a token that nobody can guess. Its owner is an administrator: the lab is theirs.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn make() -> Result<Self> {
        let mut bytes = [0; BYTES];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the operating system gives no random bytes for a token"))?;
        Ok(Self(format!("{USER}:{}:admin\n", Digest::from_bytes(bytes).hex())))
    }

    /// Takes the text of a file or a Secret; nothing where it is not what [`Tokens::make`] made.
    pub fn parse(text: &str) -> Option<Self> {
        let token = text
            .trim()
            .strip_prefix(USER)?
            .strip_prefix(':')?
            .strip_suffix(":admin")?;
        Digest::parse(token)?;
        Some(Self(format!("{}\n", text.trim())))
    }

    /// Reads the lab's file; nothing where there is none, or none that can be used.
    pub fn read(settings: &Settings) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(path(settings)).ok()?)
    }

    /// Writes the lab's file, for its owner alone.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn write(&self, settings: &Settings) -> Result<()> {
        files::write_secret(&path(settings), &self.0)
    }

    /// Returns the text, with the token in it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns the token.
    pub fn token(&self) -> &str {
        self.0.split(':').nth(1).unwrap_or_default()
    }

    /// Returns what tells these tokens from others and says nothing of them: a digest of 256 random bits.
    pub fn mark(&self) -> String {
        Digest::of(self.0.as_bytes()).short()
    }
}

/// Returns the file with the tokens of the lab's dashboard.
pub fn path(settings: &Settings) -> PathBuf {
    settings.lab_dir().join("dashboard-tokens")
}

/// The lab's dashboard, as programs of this machine reach it.
#[derive(Debug)]
pub struct Access {
    /// Where it answers; nothing where it is in a cluster whose nodes publish no port of ours.
    pub url: Option<String>,
    /// Who may come in.
    pub tokens: Option<Tokens>,
}

impl Access {
    /// Returns how the lab's dashboard is reached; nothing where the lab was never made.
    ///
    /// # Errors
    /// The lab's record cannot be used.
    pub fn of(settings: &Settings) -> Result<Option<Self>> {
        let Some(record) = Record::read(settings)? else {
            return Ok(None);
        };
        let own = record.cluster == Origin::Kind;
        Ok(Some(Self {
            url: own.then(|| format!("http://127.0.0.1:{}", record.ports.http)),
            tokens: Tokens::read(settings),
        }))
    }

    /// Returns how the lab's dashboard is reached.
    ///
    /// # Errors
    /// [`Code::ClusterMissing`]: there is no lab; or its record cannot be used.
    pub fn known(settings: &Settings) -> Result<Self> {
        Self::of(settings)?.ok_or_else(|| {
            Diagnosis::new(
                Code::ClusterMissing,
                format!("the lab `{}` has no dashboard", settings.lab),
            )
            .hint("labctl up makes it")
            .error()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Dirs, LabName};

    fn settings(dir: &std::path::Path) -> Settings {
        Settings {
            lab: LabName::parse("demo").expect("a name"),
            dirs: Dirs::new(dir.join("state"), dir.join("cache")),
            yes: false,
            ask: false,
            json: false,
        }
    }

    #[test]
    fn tokens_are_kept_for_their_owner_alone_and_are_never_shown() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = settings(dir.path());
        assert_eq!(Tokens::read(&settings), None);
        let tokens = Tokens::make().expect("random bytes");
        assert_ne!(tokens, Tokens::make().expect("random bytes"));
        tokens.write(&settings).expect("written");
        assert_eq!(Tokens::read(&settings).as_ref(), Some(&tokens));
        let mode = std::fs::metadata(path(&settings)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(tokens.token().len(), 64);
        assert_eq!(tokens.text(), format!("learner:{}:admin\n", tokens.token()));
        for shown in [format!("{tokens:?}"), tokens.mark()] {
            assert!(!shown.contains(&tokens.token()[..12]), "{shown}");
        }
    }

    #[test]
    fn what_somebody_else_wrote_is_not_taken() {
        let good = format!("learner:{}:admin", "0".repeat(64));
        assert!(Tokens::parse(&good).is_some());
        for wrong in [
            "",
            "learner",
            "learner::admin",
            "learner:short:admin",
            &good.replace(":admin", ""),
            &good.replace("learner", "other"),
            &format!("{good}\n{good}"),
        ] {
            assert_eq!(Tokens::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_dashboard_is_where_the_lab_publishes_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = settings(dir.path());
        assert!(Access::of(&settings).expect("readable").is_none());
        let error = Access::known(&settings).expect_err("there is no lab");
        assert!(crate::error::render(&error).contains("hint: labctl up"), "{error:#}");
        let mut record = Record::default();
        record.ports.http = 9000;
        record.write(&settings).expect("written");
        let access = Access::known(&settings).expect("a lab");
        assert_eq!(
            (access.url.as_deref(), &access.tokens),
            (Some("http://127.0.0.1:9000"), &None)
        );
        record.cluster = Origin::Existing {
            context: "theirs".into(),
            image: None,
        };
        record.write(&settings).expect("written");
        assert_eq!(Access::known(&settings).expect("a lab").url, None);
    }
}
