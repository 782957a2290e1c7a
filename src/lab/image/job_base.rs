//! The image of jobs that name none: this machine's shell and the programs that go with it, on an empty base.
//!
//! The dashboard's own image has no shell, and a lab without the network has no other. Made like the dashboard's image:
//! nothing is fetched, and the tag is a digest of everything that is in it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::archive::{Config, Image};
use super::closure::Closure;
use super::layer::Tree;
use super::store::Store;
use crate::config;
use crate::drive::files::Hasher;

/// The repository of the image in the lab's registry.
pub const REPOSITORY: &str = "labctl/job-base";
/// The programs, as far as this machine has them.
const PROGRAMS: [&str; 41] = [
    "awk",
    "base64",
    "basename",
    "cat",
    "cp",
    "cut",
    "date",
    "dd",
    "dirname",
    "echo",
    "env",
    "expr",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "nproc",
    "printf",
    "pwd",
    "rm",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tee",
    "timeout",
    "touch",
    "tr",
    "true",
    "uname",
    "wc",
    "yes",
];
/// Without these it is of no use.
const NEEDED: [&str; 2] = ["sh", "sleep"];
/// Where Linux distributions have them; `/bin` first, where scripts look for a shell.
const FOLDERS: [&str; 2] = ["/bin", "/usr/bin"];

/// What the image will be made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    tree: Tree,
    config: Config,
    tag: String,
}

impl Recipe {
    /// Reads this machine's programs and works out the tag; writes nothing but notes of digests.
    ///
    /// # Errors
    /// There is no shell, or a library that a program needs cannot be found.
    pub fn of_this_machine(store: &Store) -> Result<Self> {
        let folder = |name: &str| {
            FOLDERS
                .into_iter()
                .map(|folder| Path::new(folder).join(name))
                .find(|path| path.is_file())
        };
        let found: Vec<_> = PROGRAMS.iter().filter_map(|name| folder(name)).collect();
        for needed in NEEDED {
            ensure!(
                found.iter().any(|path| path.ends_with(needed)),
                "this machine has no `{needed}` in {}",
                FOLDERS.join(" or ")
            );
        }
        let wanted: Vec<&Path> = found.iter().map(std::path::PathBuf::as_path).collect();
        let mut tree = Closure::of(Path::new("/"), &wanted)
            .context("find what the programs of the image need")?
            .tree();
        tree.dir("/tmp", 0o1777)
            .bytes(
                "/etc/passwd",
                0o644,
                "root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/job:/bin/sh\n",
            )
            .bytes("/etc/group", 0o644, "root:x:0:\nnonroot:x:65532:\n");
        let config = Config {
            cmd: vec!["/bin/sh".to_owned()],
            env: [("PATH".to_owned(), FOLDERS.join(":"))].into(),
            user: "65532:65532".to_owned(),
            labels: [(config::LABEL.into(), config::SHARED.into())].into(),
            ..Config::default()
        };
        let mut hasher = Hasher::default();
        hasher.field(tree.inputs(&store.known_files())?.hex());
        hasher.field(format!("{config:?}"));
        let tag = hasher.finish().short();
        Ok(Self { tree, config, tag })
    }

    /// Returns the image's name in a registry, such as `localhost:5001/labctl/job-base:0123456789ab`.
    pub fn name(&self, registry: &str) -> String {
        format!("{registry}/{REPOSITORY}:{}", self.tag)
    }

    /// Writes the layer if the cache lacks it, and returns the image.
    ///
    /// # Errors
    /// A file changed since [`Recipe::of_this_machine`], or the cache cannot be written.
    pub fn build(&self, registry: &str, store: &Store) -> Result<Image> {
        let mut image = Image::new(self.name(registry), vec![store.layer(&self.tree)?]);
        image.config = self.config.clone();
        image
            .config
            .labels
            .insert(config::INPUTS_LABEL.into(), self.tag.clone());
        store.record(&image)?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_a_shell_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::at(dir.path());
        let recipe = Recipe::of_this_machine(&store).expect("a recipe");
        assert!(
            recipe.tree.has("bin/sh") && recipe.tree.has("bin/sleep"),
            "{:?}",
            recipe.tree.paths().collect::<Vec<_>>()
        );
        let image = recipe.build("localhost:5001", &store).expect("an image");
        let again = Recipe::of_this_machine(&store).expect("a recipe");
        assert_eq!(again.name("localhost:5001"), image.name);
        assert!(image.size() < 64 << 20, "{} bytes", image.size());
    }
}
