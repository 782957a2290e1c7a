//! The dashboard's image, which is this executable, and its way into the lab's registry.

use anyhow::{Context, Result};
use async_trait::async_trait;

use super::Site;
use crate::drive::registry::Registry;
use crate::error::{Code, Diagnosis};
use crate::lab::image::archive::Image;
use crate::lab::image::dashboard::{self, Recipe};
use crate::lab::image::load;
use crate::lab::image::store::Store;
use crate::lab::plan::{Progress, State, Step, StepId};
use crate::lab::record::Origin;

/// The image's layers, in the cache and in the registry.
pub struct Push(pub Site);

async fn recipe(site: &Site) -> Result<Recipe> {
    let store = store(site);
    tokio::task::spawn_blocking(move || Recipe::of(&dashboard::executable()?, &store))
        .await
        .context("look at the executable")?
}

fn store(site: &Site) -> Store {
    Store::of(site.world().settings(), site.world().reporter())
}

fn registry(site: &Site) -> String {
    format!("localhost:{}", site.record().ports.registry)
}

/// Returns the repository and the tag of the dashboard's image, as Helm's values want them.
///
/// # Errors
/// The executable cannot be read.
pub async fn reference(site: &Site) -> Result<(String, String)> {
    if let Origin::Existing { image: Some(image), .. } = &site.record().cluster {
        return split(image);
    }
    let recipe = recipe(site).await?;
    Ok((
        format!("{}/{}", registry(site), dashboard::REPOSITORY),
        recipe.tag().to_owned(),
    ))
}

fn split(image: &str) -> Result<(String, String)> {
    // A colon before the last slash belongs to the registry's port.
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && !repository.is_empty() && !tag.is_empty() => {
            Ok((repository.to_owned(), tag.to_owned()))
        }
        _ => Err(
            Diagnosis::new(Code::Setting, format!("`{image}` is not an image with a tag"))
                .hint("write it as REPOSITORY:TAG, such as registry.example/job-dashboard:1")
                .error(),
        ),
    }
}

/// Makes the image in the cache.
///
/// # Errors
/// The executable cannot be read or the cache cannot be written.
pub async fn build(site: &Site) -> Result<Image> {
    let recipe = recipe(site).await?;
    let store = store(site);
    let name = registry(site);
    tokio::task::spawn_blocking(move || recipe.build(&name, &store))
        .await
        .context("write layers")?
}

#[async_trait]
impl Step for Push {
    fn id(&self) -> StepId {
        "dashboard-push"
    }

    fn title(&self) -> String {
        "dashboard image".into()
    }

    fn needs(&self) -> Vec<StepId> {
        vec!["registry"]
    }

    async fn observe(&self) -> Result<State> {
        let recipe = recipe(&self.0).await?;
        let found = Registry::at(registry(&self.0))?
            .manifest_digest(dashboard::REPOSITORY, recipe.tag())
            .await?;
        Ok(match found {
            Some(_) => State::holds(recipe.name(&registry(&self.0))),
            None => State::wanting("the registry does not have it"),
        })
    }

    async fn apply(&self, progress: &Progress) -> Result<()> {
        progress.doing("writing layers");
        let image = build(&self.0).await?;
        progress.doing("sending layers");
        let registry = Registry::at(registry(&self.0))?;
        load::push(&registry, &image, None).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_at_its_tag() {
        let split_to = |image| split(image).ok();
        assert_eq!(split_to("r:5000/a/b:1"), Some(("r:5000/a/b".into(), "1".into())));
        assert_eq!(split_to("r:5000/a/b"), None);
        assert_eq!(split_to("a"), None);
        assert_eq!(split_to("a:"), None);
    }
}
