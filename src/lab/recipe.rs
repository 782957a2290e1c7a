//! Building an image from a recipe: a folder below `assets/images` with a Dockerfile, and files that come from elsewhere.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bollard::query_parameters::BuildImageOptionsBuilder;

use crate::assets;
use crate::config::{INPUTS_LABEL, LABEL, SHARED};
use crate::drive::archive;
use crate::drive::docker::Docker;
use crate::drive::files::Digest;
use crate::lab::plan::Progress;

enum Contents {
    Embedded(&'static [u8]),
    File(PathBuf),
    Written(String),
}

/// Pulls an image that others publish and gives it our name and label, so that teardown finds it.
///
/// # Errors
/// [`crate::error::Code::ImageRegistry`].
///
/// `additions` is a folder such as `assets/images/node/rootfs` and the part of it that is laid over the image.
pub async fn pull(
    docker: &Docker,
    upstream: &str,
    name: &str,
    additions: Option<(&str, &str)>,
    progress: &Progress,
) -> Result<()> {
    let there = docker.image(upstream).await?.is_some();
    if !there {
        progress.doing(format!("pulling {upstream}"));
        let said = progress.clone();
        docker.pull(upstream, move |what| said.doing(what)).await?;
    }
    Recipe::renamed(upstream, name, additions)
        .build(docker, progress)
        .await?;
    if !there {
        // The user did not have it under this name before, and does not need it now.
        docker.untag(upstream).await?;
    }
    Ok(())
}

/// A build: names in its context with their modes and where their contents come from.
pub struct Recipe {
    name: String,
    inputs: Digest,
    arguments: HashMap<String, String>,
    no_cache: bool,
    files: Vec<(String, u32, Contents)>,
}

impl Recipe {
    /// Begins with the files of a folder such as `assets/images/node`; the image gets `name`, and a label with the digest
    /// of everything it is made from.
    pub fn new(folder: &str, name: &str, inputs: Digest) -> Self {
        let files = assets::files(folder)
            .into_iter()
            .map(|(path, contents)| (path.to_string_lossy().into_owned(), 0o644, Contents::Embedded(contents)))
            .collect();
        Self {
            name: name.to_owned(),
            inputs,
            arguments: HashMap::new(),
            no_cache: false,
            files,
        }
    }

    /// Begins with an image that others publish, which gets our name and label and the additions.
    fn renamed(upstream: &str, name: &str, additions: Option<(&str, &str)>) -> Self {
        let mut dockerfile = format!("FROM {upstream}\n");
        let mut files = Vec::new();
        if let Some((folder, part)) = additions {
            _ = writeln!(dockerfile, "COPY {part} /{part}");
            for (path, contents) in assets::files(&format!("{folder}/{part}")) {
                files.push((
                    format!("{part}/{}", path.display()),
                    0o644,
                    Contents::Embedded(contents),
                ));
            }
        }
        files.push(("Dockerfile".to_owned(), 0o644, Contents::Written(dockerfile)));
        Self {
            name: name.to_owned(),
            inputs: Digest::of(upstream.as_bytes()),
            arguments: HashMap::new(),
            no_cache: false,
            files,
        }
    }

    /// Says whether the engine may take what it remembers of earlier builds; it may unless told otherwise.
    pub fn no_cache(&mut self, no_cache: bool) {
        self.no_cache = no_cache;
    }

    /// Adds a build argument.
    pub fn argument(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.insert(name.to_owned(), value.into());
    }

    /// Adds a file from disk, unless the recipe has one of its own in that place.
    pub fn file(&mut self, place: &str, mode: u32, path: PathBuf) {
        if self.files.iter().all(|(known, _, _)| known != place) {
            self.files.push((place.to_owned(), mode, Contents::File(path)));
        }
    }

    /// Builds the image.
    ///
    /// # Errors
    /// The engine could not build it; the message has the end of the build's output.
    pub async fn build(mut self, docker: &Docker, progress: &Progress) -> Result<()> {
        // The same context in the same order is the same to the builder's cache.
        self.files.sort_by(|a, b| a.0.cmp(&b.0));
        let labels = HashMap::from([
            (LABEL.to_owned(), SHARED.to_owned()),
            (INPUTS_LABEL.to_owned(), self.inputs.hex()),
        ]);
        let options = BuildImageOptionsBuilder::default()
            .t(&self.name)
            .buildargs(&self.arguments)
            .labels(&labels)
            .nocache(self.no_cache)
            .rm(true)
            .forcerm(true)
            .build();
        let files = self.files;
        progress.doing("sending the build context");
        let context = archive::stream(move |archive| {
            for (place, mode, contents) in files {
                match contents {
                    Contents::Embedded(bytes) => archive::append(archive, &place, mode, bytes),
                    Contents::Written(text) => archive::append(archive, &place, mode, text.as_bytes()),
                    Contents::File(path) => {
                        archive::append_file(archive, &place, mode, &path).map_err(std::io::Error::other)
                    }
                }
                .with_context(|| format!("pack `{place}`"))?;
            }
            Ok(())
        });
        let said = progress.clone();
        docker.build(options, context, move |line| said.doing(line)).await
    }
}
