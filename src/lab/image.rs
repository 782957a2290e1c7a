//! Images as content: what labctl makes itself, what the engine holds, and how both get into the cluster.

pub mod archive;
pub mod closure;
pub mod dashboard;
pub mod job_base;
pub mod layer;
pub mod load;
pub mod shelf;
pub mod store;
pub mod wiring;

#[cfg(test)]
mod tests {
    //! With a real engine, where one answers.

    use std::path::Path;

    use super::archive::{Archive, Image};
    use super::closure::Closure;
    use super::layer::Tree;
    use super::store::Store;
    use super::{dashboard, load};
    use crate::config::{self, Dirs, LabName, Settings};
    use crate::drive::docker::Docker;
    use crate::drive::exec::{Cmd, Exec, System, find_on_path};
    use crate::drive::files::Digest;

    async fn engine() -> Option<Docker> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let settings = Settings {
            lab: LabName::parse("labctl").expect("a name"),
            dirs: Dirs::from_environment().unwrap_or_else(|_| Dirs::new(dir.path(), dir.path())),
            yes: false,
            ask: false,
            json: false,
        };
        let found = Docker::find(&settings).await.ok();
        if found.is_none() || find_on_path("docker").is_none() {
            assert!(
                config::variable("LABCTL_REQUIRE_LAB").is_none(),
                "no engine, and LABCTL_REQUIRE_LAB is set"
            );
            return None;
        }
        found
    }

    async fn docker(engine: &Docker, args: &[&str]) -> Result<String, String> {
        let cmd = Cmd::new("docker")
            .args(args.iter().copied())
            .env("DOCKER_HOST", engine.host());
        let output = System.run(&cmd).await.map_err(|error| error.to_string())?;
        Ok(output.stdout.trim().to_owned())
    }

    #[tokio::test]
    async fn a_real_engine_takes_the_archive_and_runs_the_image() {
        let Some(engine) = engine().await else { return };
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let closure = Closure::of(Path::new("/"), &[Path::new("/bin/cat")]).expect("a closure");
        let mut files = Tree::new();
        let salt = Digest::of(dir.path().as_os_str().as_encoded_bytes()).short();
        files
            .bytes("/etc/salt", 0o640, salt.clone())
            .own("/etc/salt", 65532, 65532);
        let shared = store.layer(&closure.tree()).expect("a layer");
        let top = store.layer(&files).expect("a layer");
        let names = [
            format!("labctl-test/one:{salt}"),
            format!("registry.example/labctl-test/two:{salt}"),
        ];
        let mut one = Image::new(&names[0], vec![shared.clone(), top]);
        one.config.entrypoint = vec!["/bin/cat".into()];
        one.config.cmd = vec!["/etc/salt".into()];
        one.config.user = "65532:65532".into();
        one.config.labels = [("labctl.dev/test".to_owned(), "x".to_owned())].into();
        let two = Image::new(&names[1], vec![shared]);
        let archive = Archive::of(&[one.clone(), two]);
        engine.load(archive.stream()).await.expect("loaded");
        let id = engine.image(&names[0]).await.expect("an answer").expect("there").id;
        assert_eq!(
            id,
            Some(one.id().oci()),
            "the engine sees the image that labctl promised"
        );
        assert!(engine.image(&names[1]).await.expect("an answer").is_some());
        // Its user may read a file that only that user may read: owners and modes are right.
        let said = docker(&engine, &["run", "--rm", "--network", "none", "--read-only", &names[0]]).await;
        // What the engine saves is an archive that labctl reads, with the same configuration.
        let saved = dir.path().join("saved.tar");
        let written = engine.save(&names[0], &saved, |_| {}).await;
        for name in &names {
            engine.untag(name).await.expect("removed");
        }
        assert_eq!(said.as_deref(), Ok(salt.as_str()));
        written.expect("saved");
        let (registry, held) = crate::drive::registry::tests::stub(crate::drive::registry::tests::Fault::None).await;
        let loaded = load::from_archive(&registry, &saved).await.expect("loaded");
        assert_eq!(
            loaded[0].digest,
            one.digest(),
            "layers are the same bytes after a round through the engine"
        );
        assert_eq!(held.lock().expect("not poisoned").puts, 3);
    }

    #[test]
    fn a_release_makes_a_small_image() {
        let executable = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/labctl");
        if !executable.exists() {
            // `.ci/run` builds the release before it runs the tests.
            assert!(
                config::variable("LABCTL_REQUIRE_LAB").is_none(),
                "there is no release build"
            );
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let image = dashboard::Recipe::of(&executable, &store)
            .expect("a recipe")
            .build("localhost:5001", &store)
            .expect("an image");
        assert!(
            image.size() < 60_000_000,
            "the dashboard's image has {} bytes",
            image.size()
        );
    }
}
