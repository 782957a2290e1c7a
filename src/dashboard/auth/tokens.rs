//! Bearer tokens and whose they are: a small file, one `name:token[:admin]` a line.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::dashboard::service::Caller;
use crate::error::{Code, Diagnosis};

/// A shorter token could be guessed over the network.
const LEAST_BYTES: usize = 16;
const MOST_BYTES: usize = 512;
/// How long the name of a caller may be.
const NAME_BYTES: usize = 64;

/// The tokens that a server knows. Only their digests are kept.
#[derive(Clone)]
pub struct Tokens(Vec<([u8; 32], Caller)>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, caller)| caller)).finish()
    }
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Code::Setting`]: it cannot be read, others may read it, or it is not what it must be.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| Diagnosis::new(Code::Setting, format!("the token file `{}` {what}", path.display()));
        let mode = std::fs::metadata(path)
            .with_context(|| wrong("cannot be read".into()).hint("one `name:token` or `name:token:admin` a line"))?
            .mode();
        // A group may read it: that is how Kubernetes hands a secret to a container that is not root.
        if mode & 0o027 != 0 {
            let what = format!(
                "has mode {:o}: others than its owner can get at the tokens",
                mode & 0o777
            );
            return Err(wrong(what).hint(format!("chmod 600 {}", path.display())).error());
        }
        let text = std::fs::read_to_string(path).with_context(|| wrong("cannot be read".into()))?;
        Self::parse(&text).map_err(|(line, what)| {
            wrong(format!("is wrong in line {line}: {what}"))
                .hint("one `name:token` or `name:token:admin` a line, the token of 16 to 512 characters; `openssl rand -hex 32` makes one")
                .error()
        })
    }

    /// Takes the text of such a file. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// The number of the line that is wrong, and why. The token is not in the text.
    pub fn parse(text: &str) -> std::result::Result<Self, (usize, &'static str)> {
        let mut known: Vec<([u8; 32], Caller)> = Vec::new();
        let mut last = 0;
        for (number, line) in (1..).zip(text.lines()) {
            last = number;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields: Vec<&str> = line.split(':').collect();
            let (name, token, admin) = match fields[..] {
                [name, token] => (name, token, false),
                [name, token, "admin"] => (name, token, true),
                _ => return Err((number, "it is neither `name:token` nor `name:token:admin`")),
            };
            if !is_caller(name) {
                return Err((
                    number,
                    "the name must have 1 to 64 letters, digits, `-`, `_`, `.` and `@`",
                ));
            }
            if !(LEAST_BYTES..=MOST_BYTES).contains(&token.len()) {
                return Err((number, "the token must have 16 to 512 characters"));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err((number, "the token must have printable ASCII characters without spaces"));
            }
            let digest = Sha256::digest(token).into();
            if known.iter().any(|(other, _)| *other == digest) {
                return Err((number, "this token is in the file already"));
            }
            let caller = Caller::new(name, admin);
            known.push((digest, caller));
        }
        if known.is_empty() {
            return Err((last, "there is no token in the file"));
        }
        Ok(Self(known))
    }

    /// Returns whose token it is, in a time that tells nothing of the tokens that are known.
    pub fn find(&self, token: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = u64::MAX;
        for (place, (known, _)) in (0u64..).zip(&self.0) {
            let same: Choice = known.ct_eq(&digest);
            found.conditional_assign(&place, same);
        }
        let (_, caller) = self.0.get(usize::try_from(found).ok()?)?;
        Some(caller.clone())
    }
}

/// Returns whether a text can be the name of a caller.
pub(super) fn is_caller(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# who\n\nana:0123456789abcdef\r\n root@x:fedcba9876543210:admin";

    #[test]
    fn a_token_finds_its_caller_and_nothing_else_does() {
        let tokens = Tokens::parse(GOOD).expect("good");
        let ana = tokens.find(b"0123456789abcdef").expect("known");
        assert_eq!((ana.name.as_str(), ana.admin), ("ana", false));
        let root = tokens.find(b"fedcba9876543210").expect("known");
        assert_eq!((root.name.as_str(), root.admin), ("root@x", true));
        for wrong in [&b""[..], b"0123456789abcdeF", b"0123456789abcdef ", b"\xff"] {
            assert_eq!(tokens.find(wrong), None);
        }
        let shown = format!("{tokens:?}");
        assert!(shown.contains("ana") && !shown.contains("0123"), "{shown}");
    }

    #[test]
    fn a_wrong_line_is_named_and_the_token_is_not_told() {
        for (text, line) in [
            ("", 0),
            ("# nothing\n", 1),
            ("a:0123456789abcdef\nb", 2),
            ("a:short", 1),
            ("a b:0123456789abcdef", 1),
            (":0123456789abcdef", 1),
            ("a:0123456789abcdef:root", 1),
            ("a:0123456789 abcdef", 1),
            ("a:0123456789abcdef\nb:0123456789abcdef", 2),
            ("ä:0123456789abcdef", 1),
        ] {
            let (found, why) = Tokens::parse(text).expect_err(text);
            assert_eq!(found, line, "{text:?}: {why}");
            assert!(!why.contains("0123"));
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tokens");
        crate::drive::files::write(&path, GOOD).expect("written");
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o440, true),
            (0o644, false),
            (0o660, false),
            (0o604, false),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            let read = Tokens::read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(error) = read {
                let text = crate::error::render(&error);
                assert!(
                    text.contains("LAB-USE-003") && text.contains("hint: chmod 600"),
                    "{text}"
                );
            }
        }
        let error = Tokens::read(&dir.path().join("none")).expect_err("nothing there");
        assert!(crate::error::render(&error).contains("LAB-USE-003"));
    }
}
