//! Images that the engine holds: reading them out, naming them, pushing them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use bollard::query_parameters as query;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{Docker, engine_said, failed};
use crate::drive::files;
use crate::error::Diagnose;

/// Returns whether the engine keeps an image in containerd's store (the default of Docker 29), compressed as it came.
pub fn in_containerd_store(image: &bollard::models::ImageInspect) -> bool {
    // The engine's own stores are `overlay2` and its like; `GET /info` would say it plainly and takes 30 ms.
    image
        .graph_driver
        .as_ref()
        .is_none_or(|driver| driver.name.is_empty() || driver.name == "overlayfs")
}

impl Docker {
    /// Returns the images that match the filters, such as `label=["labctl.dev/lab"]`.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`].
    pub async fn images(&self, filters: HashMap<String, Vec<String>>) -> Result<Vec<bollard::models::ImageSummary>> {
        let options = query::ListImagesOptionsBuilder::default().filters(&filters).build();
        self.client
            .list_images(Some(options))
            .await
            .diagnose(|| failed("list images"))
    }

    /// Returns the sizes of an image's layers, lowest first, as far as the engine tells: layers without content are
    /// left out.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`].
    pub async fn layer_sizes(&self, image: &str) -> Result<Vec<u64>> {
        let steps = self
            .client
            .image_history(image)
            .await
            .diagnose(|| failed(format!("read the history of `{image}`")))?;
        Ok(steps
            .iter()
            .rev()
            .filter_map(|step| u64::try_from(step.size).ok())
            .filter(|&size| size > 0)
            .collect())
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`].
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let options = query::TagImageOptionsBuilder::default()
            .repo(repository)
            .tag(tag)
            .build();
        self.client
            .tag_image(image, Some(options))
            .await
            .diagnose(|| failed(format!("name the image `{image}` `{repository}:{tag}`")))
    }

    /// Pushes an image to the registry in its name and calls `on_line` with what the engine says.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`].
    pub async fn push(&self, repository: &str, tag: &str, mut on_line: impl FnMut(&str)) -> Result<()> {
        let what = || format!("push `{repository}:{tag}`");
        let options = query::PushImageOptionsBuilder::default().tag(tag).build();
        // The lab's registry asks nobody who they are, and the engine wants the header all the same.
        let nobody = bollard::auth::DockerCredentials::default();
        let mut answers = std::pin::pin!(self.client.push_image(repository, Some(options), Some(nobody)));
        while let Some(answer) = answers.next().await {
            let answer = answer.diagnose(|| failed(what()))?;
            if let Some(detail) = answer.error_detail {
                return Err(engine_said(&what(), &detail.message.unwrap_or_default()));
            }
            if let Some(status) = answer.status {
                on_line(&status);
            }
        }
        Ok(())
    }

    /// Writes an image as a `docker save` archive to a file.
    ///
    /// # Errors
    /// [`crate::error::Code::EngineFailed`], or the file cannot be written.
    pub async fn save(&self, image: &str, to: &Path, mut on_bytes: impl FnMut(u64)) -> Result<()> {
        let fail = |error| files::explain(error, "write", to);
        let file = tokio::fs::File::create(to).await.map_err(fail)?;
        let mut out = tokio::io::BufWriter::with_capacity(1 << 20, file);
        let mut parts = std::pin::pin!(self.client.export_image(image));
        while let Some(part) = parts.next().await {
            let part = part.diagnose(|| failed(format!("save the image `{image}`")))?;
            out.write_all(&part).await.map_err(fail)?;
            on_bytes(part.len() as u64);
        }
        out.flush().await.map_err(fail).context("save the image")
    }
}
