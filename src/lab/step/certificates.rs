//! The files of the lab's certificates, below `certificates/` in the lab's state.
//!
//! `ca.crt` and `ca.key`, `server.*`, `learner.*`; keys are for their owner alone. What is there and sound is kept. Each
//! file is written whole; a run that is killed between the two files of a pair leaves a key that does not fit, which the
//! next run sees and replaces.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use async_trait::async_trait;

use crate::config::{LabName, Settings};
use crate::drive::files;
use crate::lab::certificate::{self, Pair, Profile};
use crate::lab::plan::{Progress, State, Step, StepId};

/// The step.
pub struct Certificates {
    lab: LabName,
    dir: PathBuf,
}

/// Returns the directory of a lab's certificates.
pub fn directory(settings: &Settings) -> PathBuf {
    settings.lab_dir().join("certificates")
}

impl Certificates {
    /// Makes the step for the lab of some settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            lab: settings.lab.clone(),
            dir: directory(settings),
        }
    }

    fn path(&self, profile: &Profile, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", profile.file))
    }

    /// Reads a pair back and says what is wrong with it, naming the file; `authority` as in [`certificate::examine`],
    /// `None` for the authority itself.
    fn look(&self, profile: &Profile, authority: Option<&Pair>, now: i64) -> Result<Pair, String> {
        let (certificate, key) = (self.path(profile, "crt"), self.path(profile, "key"));
        let pair = Pair {
            certificate: read(&certificate)?,
            key: read(&key)?,
        };
        let mode = std::fs::metadata(&key).map_or(0, |data| data.permissions().mode() & 0o777);
        if mode & 0o077 != 0 {
            return Err(format!("{} can be read by others (mode {mode:03o})", name(&key)));
        }
        let signer = authority.unwrap_or(&pair).certificate.clone();
        certificate::examine(profile, &pair, &signer, now)
            .map_err(|defect| format!("{} {defect}", name(&certificate)))?;
        Ok(pair)
    }

    /// Makes a pair and writes it, the key first: a certificate without its key is of no use to anybody.
    fn renew(&self, profile: &Profile, authority: Option<&Pair>, now: i64) -> Result<Pair> {
        let pair = certificate::make(profile, authority, now)?;
        files::write_secret(&self.path(profile, "key"), &pair.key)?;
        files::write(&self.path(profile, "crt"), &pair.certificate)?;
        Ok(pair)
    }

    fn observe_at(&self, now: i64) -> State {
        let authority = match self.look(&certificate::authority(&self.lab), None, now) {
            Ok(authority) => authority,
            Err(why) => return State::wanting(why),
        };
        for profile in certificate::leaves() {
            if let Err(why) = self.look(&profile, Some(&authority), now) {
                return State::wanting(why);
            }
        }
        State::holds(self.dir.display().to_string())
    }

    fn apply_at(&self, now: i64) -> Result<()> {
        let profile = certificate::authority(&self.lab);
        let authority = match self.look(&profile, None, now) {
            Ok(authority) => authority,
            Err(_) => self.renew(&profile, None, now)?,
        };
        for profile in certificate::leaves() {
            if self.look(&profile, Some(&authority), now).is_err() {
                self.renew(&profile, Some(&authority), now)?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{} is missing", name(path)),
        _ => format!("{} cannot be read: {error}", name(path)),
    })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the time in seconds since 1970; a clock before that counts as 1970, when nothing of ours is valid yet.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| i64::try_from(time.as_secs()).ok())
        .unwrap_or(0)
}

#[async_trait]
impl Step for Certificates {
    fn id(&self) -> StepId {
        "certificates"
    }

    fn title(&self) -> String {
        "certificates".into()
    }

    async fn observe(&self) -> Result<State> {
        Ok(self.observe_at(now()))
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        progress.doing("making keys and certificates");
        self.apply_at(now())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    fn step(dir: &Path) -> Certificates {
        Certificates {
            lab: LabName::parse("demo").expect("a lab's name"),
            dir: dir.join("certificates"),
        }
    }

    fn why(step: &Certificates, now: i64) -> String {
        match step.observe_at(now) {
            State::Wanting(why) => why,
            State::Holds(what) => panic!("it holds: {what}"),
        }
    }

    fn contents(step: &Certificates) -> BTreeMap<String, String> {
        files::walk(&step.dir)
            .expect("readable")
            .iter()
            .map(|path| (name(path), fs::read_to_string(path).expect("text")))
            .collect()
    }

    #[test]
    fn made_once_they_are_kept_and_keys_are_secret() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let step = step(dir.path());
        assert_eq!(why(&step, now()), "ca.crt is missing");
        step.apply_at(now()).expect("made");
        assert!(matches!(step.observe_at(now()), State::Holds(_)));
        let made = contents(&step);
        let names: Vec<_> = made.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "ca.crt",
                "ca.key",
                "learner.crt",
                "learner.key",
                "server.crt",
                "server.key"
            ]
        );
        for key in ["ca.key", "learner.key", "server.key"] {
            let mode = fs::metadata(step.dir.join(key)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        step.apply_at(now()).expect("nothing to do");
        assert_eq!(contents(&step), made);
    }

    #[test]
    fn any_file_lost_or_broken_is_seen_and_only_what_depends_on_it_is_made_again() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let step = step(dir.path());
        step.apply_at(now()).expect("made");
        for lost in [
            "ca.crt",
            "ca.key",
            "server.crt",
            "server.key",
            "learner.crt",
            "learner.key",
        ] {
            for damage in ["gone", "empty", "junk"] {
                let before = contents(&step);
                let path = step.dir.join(lost);
                match damage {
                    "gone" => fs::remove_file(&path).expect("removed"),
                    "empty" => files::write_secret(&path, "").expect("written"),
                    _ => files::write_secret(&path, "\u{0}junk").expect("written"),
                }
                assert!(
                    why(&step, now()).starts_with(&lost[..lost.len() - 3]),
                    "{lost} {damage}"
                );
                step.apply_at(now()).expect("made again");
                assert!(matches!(step.observe_at(now()), State::Holds(_)), "{lost} {damage}");
                let after = contents(&step);
                let kept = before
                    .iter()
                    .filter(|(name, text)| after.get(*name) == Some(text))
                    .count();
                let expected = if lost.starts_with("ca") { 0 } else { 4 };
                assert_eq!(kept, expected, "{lost} {damage}");
            }
        }
    }

    #[test]
    fn a_crash_between_any_two_files_is_finished_by_the_next_run() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let old = step(dir.path());
        old.apply_at(now()).expect("made");
        let stale = contents(&old);
        let order = [
            "ca.key",
            "ca.crt",
            "server.key",
            "server.crt",
            "learner.key",
            "learner.crt",
        ];
        for written in 0..order.len() {
            // The first files of a new set over the old ones: what a run leaves that is killed while it renews all.
            let fresh_dir = tempfile::tempdir().expect("temporary directory");
            let fresh = step(fresh_dir.path());
            fresh.apply_at(now()).expect("made");
            for name in &order[written..] {
                files::write_secret(&fresh.dir.join(name), &stale[*name]).expect("written");
            }
            if written > 0 {
                why(&fresh, now());
            }
            fresh.apply_at(now()).expect("finished");
            assert!(
                matches!(fresh.observe_at(now()), State::Holds(_)),
                "after {written} files"
            );
        }
    }

    #[test]
    fn what_expires_soon_is_renewed_and_the_authority_only_when_it_does() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let step = step(dir.path());
        let start = now();
        step.apply_at(start).expect("made");
        let made = contents(&step);
        let later = start + 340 * DAY;
        assert_eq!(why(&step, later), "server.crt expires in 25 days");
        step.apply_at(later).expect("renewed");
        assert!(matches!(step.observe_at(later), State::Holds(_)));
        let renewed = contents(&step);
        assert_eq!(renewed["ca.crt"], made["ca.crt"]);
        assert_ne!(renewed["server.crt"], made["server.crt"]);
        let much_later = start + 3 * 365 * DAY;
        assert_eq!(why(&step, much_later), "ca.crt has expired");
        step.apply_at(much_later).expect("renewed");
        assert!(matches!(step.observe_at(much_later), State::Holds(_)));
    }

    #[test]
    fn a_key_that_others_can_read_is_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let step = step(dir.path());
        step.apply_at(now()).expect("made");
        let key = step.dir.join("server.key");
        let before = fs::read_to_string(&key).expect("text");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("set");
        assert_eq!(why(&step, now()), "server.key can be read by others (mode 644)");
        step.apply_at(now()).expect("made again");
        assert_ne!(fs::read_to_string(&key).expect("text"), before);
    }

    #[test]
    fn a_lab_that_was_given_another_name_gets_its_own() {
        let dir = tempfile::tempdir().expect("temporary directory");
        step(dir.path()).apply_at(now()).expect("made");
        let other = Certificates {
            lab: LabName::parse("other").expect("a lab's name"),
            ..step(dir.path())
        };
        assert_eq!(why(&other, now()), "ca.crt is that of `labctl demo CA`");
    }
}
