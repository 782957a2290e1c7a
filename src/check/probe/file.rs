//! Reads a file of the learner's.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Probe};
use crate::check::ask::File;
use crate::check::evidence::{Candidate, Evidence, Seen};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 4 << 20;

#[async_trait]
impl Probe for File {
    async fn observe(&self, _: &Context<'_>) -> Evidence {
        match tokio::fs::metadata(&self.path).await {
            Ok(found) if !found.is_file() => return Evidence::nothing("it is not a file"),
            Ok(found) if found.len() > LARGEST => {
                return Evidence::nothing(format!("it has {} bytes, more than a check reads", found.len()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Evidence::nothing("there is no such file");
            }
            Err(error) => return Evidence::blind(format!("`{}` cannot be read: {error}", self.path)),
        }
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) => return Evidence::blind(format!("`{}` cannot be read: {error}", self.path)),
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut value = json!({"size": bytes.len(), "text": text});
        let mut note = None;
        if self.expect.documents.is_some() {
            match serde_saphyr::from_multiple::<Value>(&text) {
                Ok(documents) => value["documents"] = Value::Array(documents),
                Err(error) => {
                    let text = error.to_string();
                    note = Some(format!("it is not YAML: {}", text.lines().next().unwrap_or_default()));
                }
            }
        }
        Evidence::Seen(Seen {
            candidates: vec![Candidate {
                name: String::new(),
                value,
            }],
            note,
        })
    }
}
