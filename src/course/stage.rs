//! Everything that the programs and the checks of one chapter may use: values of the placeholders, tools, folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::catalogue::Entry;
use super::chapter::Chapter;
use super::python;
use super::setup::Step;
use super::workspace::Workspace;
use crate::assets;
use crate::check::ask::{self, Ask};
use crate::check::spec::Check;
use crate::drive::exec::Cmd;
use crate::drive::files;
use crate::error::{Code, Diagnose, Diagnosis};
use crate::lab::record::{Origin, Record};
use crate::lab::step::chart;
use crate::lab::tools::{self, Tool};
use crate::lab::versions;
use crate::world::World;

/// Where a chapter is worked on.
pub struct Stage<'a> {
    world: &'a World,
    workspace: Option<&'a Workspace>,
    facts: BTreeMap<String, String>,
    tools: BTreeMap<&'static str, Result<PathBuf, String>>,
}

impl<'a> Stage<'a> {
    /// Finds what the given texts need: only what a placeholder names is looked for or made.
    ///
    /// # Errors
    /// Something of it cannot be made.
    pub async fn new(
        world: &'a World,
        workspace: Option<&'a Workspace>,
        entry: &Entry,
        chapter: &Chapter,
        wants: &Wants,
    ) -> Result<Self> {
        let mut stage = Self {
            world,
            workspace,
            facts: facts(world, wants)?,
            tools: BTreeMap::new(),
        };
        if let Some(workspace) = workspace {
            stage.fact("workspace", workspace.dir().display().to_string());
            if let Some(folder) = &chapter.chart {
                let own = workspace.dir().join(folder);
                if own.is_dir() {
                    stage.fact("chart", own.display().to_string());
                }
            }
        }
        if wants.has("solutions") {
            let dir = solutions(world, entry)?;
            stage.fact("solutions", dir.display().to_string());
        }
        // A chapter without packages of its own takes the Python that is on PATH.
        if wants.has("python") || (chapter.python.is_some() && wants.runs("python")) {
            let name = chapter.python.as_deref().unwrap_or("requirements.txt");
            let list = entry.text(&format!("start/{name}"))?.unwrap_or_default();
            let python = python::prepare(world, &list).await?;
            if let Some(workspace) = workspace.filter(|workspace| workspace.exists()) {
                python::link(&workspace.dir(), &python)?;
            }
            stage.fact("python", python.display().to_string());
        }
        for tool in Tool::ALL {
            if wants.runs(tool.name()) {
                let found = tools::find(world, tool).await.map_err(|error| format!("{error:#}"));
                stage.tools.insert(tool.name(), found);
            }
        }
        Ok(stage)
    }

    /// Gives a placeholder a value.
    pub fn fact(&mut self, name: &str, value: impl Into<String>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Returns the values of the placeholders.
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }

    /// Finds one of the lab's tools.
    ///
    /// # Errors
    /// It could not be found, or nothing said before that it is needed.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        match self.tools.get(name) {
            Some(Ok(path)) => Ok(path.clone()),
            Some(Err(why)) => Err(anyhow::anyhow!(why.clone())),
            None => Err(anyhow::anyhow!("labctl did not look for it")),
        }
    }

    /// Makes a program of the chapter ready to run: placeholders filled, the lab's tools, the workspace as its folder.
    ///
    /// # Errors
    /// A placeholder has no value here, or a tool cannot be found.
    pub fn command(&self, run: &[String]) -> Result<Cmd> {
        for name in run.iter().flat_map(|text| ask::placeholders(text)) {
            anyhow::ensure!(
                self.facts.contains_key(&name),
                "this lab has no value for `{{{{{name}}}}}`"
            );
        }
        let words: Vec<String> = run.iter().map(|word| ask::fill(word, &self.facts)).collect();
        let (program, args) = words.split_first().context("no program is named")?;
        let cmd = match program.as_str() {
            "kubectl" | "helm" | "kind" => Cmd::new(
                self.tool(program)
                    .with_context(|| format!("could not run `{program}`"))?,
            ),
            "labctl" => Cmd::new(myself()?),
            "python" | "python3" if self.facts.contains_key("python") => Cmd::new(self.facts["python"].clone()),
            _ => Cmd::new(program),
        };
        let mut cmd = cmd
            .args(args)
            .on_cluster(self.world.settings().kubeconfig())
            // For a program that runs labctl in its turn.
            .env("LABCTL_LAB", self.world.settings().lab.as_str())
            .without_env("HELM_NAMESPACE");
        if let Some(workspace) = self.workspace.filter(|workspace| workspace.exists()) {
            cmd = cmd.dir(workspace.dir());
        }
        Ok(cmd)
    }

    /// Runs programs one after the other.
    ///
    /// # Errors
    /// [`Code::ProgramFailed`]: one of them ended with a code that is not well.
    pub async fn run(&self, steps: &[Step], log: &str) -> Result<()> {
        let log = self.world.settings().log_dir().join(log);
        for step in steps {
            let mut cmd = self.command(&step.run)?.log(&log).limit(step.within());
            if let Some(stdin) = &step.stdin {
                cmd = cmd.stdin(ask::fill(stdin, &self.facts));
            }
            match self.world.exec().run(&cmd).await {
                Ok(_) if step.ok.contains(&0) => {}
                Err(error) if error.code().is_some_and(|code| step.ok.contains(&code)) => {}
                Ok(_) => {
                    let text = format!("`{}` ended with 0, and must not", cmd.line());
                    return Err(Diagnosis::new(Code::ProgramFailed, text).error());
                }
                Err(error) => {
                    return Err(error).diagnose(|| {
                        Diagnosis::new(Code::ProgramFailed, format!("`{}` failed", step.run.join(" ")))
                            .hint(format!("its whole output is in {}", log.display()))
                    });
                }
            }
        }
        Ok(())
    }
}

/// What the texts of a chapter ask for.
#[derive(Debug, Default)]
pub struct Wants {
    placeholders: Vec<String>,
    programs: Vec<String>,
}

impl Wants {
    /// Adds what checks ask for.
    #[must_use]
    pub fn checks<'c>(mut self, checks: impl IntoIterator<Item = &'c Check>) -> Self {
        for check in checks {
            self.placeholders.extend(check.ask.placeholders());
            if let Ask::Exec(exec) = &check.ask {
                self.programs.extend(exec.run.first().cloned());
            }
        }
        self
    }

    /// Adds what programs ask for.
    #[must_use]
    pub fn steps<'s>(mut self, steps: impl IntoIterator<Item = &'s Step>) -> Self {
        for step in steps {
            self.placeholders.extend(step.placeholders());
            self.programs.extend(step.run.first().cloned());
        }
        self
    }

    /// Adds what one program asks for.
    #[must_use]
    pub fn program(mut self, run: &[String]) -> Self {
        self.placeholders
            .extend(run.iter().flat_map(|text| ask::placeholders(text)));
        self.programs.extend(run.first().cloned());
        self
    }

    /// Returns whether a placeholder is used.
    pub fn has(&self, placeholder: &str) -> bool {
        self.placeholders.iter().any(|name| name == placeholder)
    }

    /// Returns whether a program is run; `python3` is `python`.
    pub fn runs(&self, program: &str) -> bool {
        self.programs
            .iter()
            .any(|name| name == program || (program == "python" && (name == "python3" || name == "{{python}}")))
    }
}

/// Returns the values that need nothing but the lab's files; one that this lab cannot give is left out.
fn facts(world: &World, wants: &Wants) -> Result<BTreeMap<String, String>> {
    let settings = world.settings();
    let record = Record::read(settings)?.unwrap_or_default();
    let kubernetes = &versions::pinned().kubernetes;
    let mut facts: BTreeMap<String, String> = [
        ("kubeconfig", settings.kubeconfig().display().to_string()),
        ("kubernetes", kubernetes.to_string()),
        ("kubernetes_minor", format!("{}.{}", kubernetes.major, kubernetes.minor)),
        ("labctl", myself()?.display().to_string()),
        ("namespace", chart::NAME.to_owned()),
        ("run_id", run_id()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    // The nodes of a cluster that is not ours publish no port.
    if record.cluster == Origin::Kind {
        facts.insert("http_url".to_owned(), format!("http://127.0.0.1:{}", record.ports.http));
    }
    if wants.has("chart") && assets::folder(chart::CHART).is_some() {
        let digest = assets::digest(chart::CHART);
        let dir = settings
            .dirs
            .cache()
            .join("charts")
            .join(digest.short())
            .join(chart::NAME);
        assets::unpack(chart::CHART, &dir)?;
        facts.insert("chart".to_owned(), dir.display().to_string());
    }
    Ok(facts)
}

/// Lays the reference solutions of all chapters out in the cache.
fn solutions(world: &World, entry: &Entry) -> Result<PathBuf> {
    let catalogue = entry.catalogue()?;
    let mut hasher = files::Hasher::default();
    let mut all = Vec::new();
    for entry in catalogue.entries() {
        for (name, contents) in entry.files("solution")? {
            let name = Path::new(&entry.slug).join(name);
            hasher.field(name.to_string_lossy().as_bytes()).field(&contents);
            all.push((name, contents));
        }
    }
    let digest = hasher.finish();
    let dir = world.settings().dirs.cache().join("solutions").join(digest.short());
    for (name, contents) in all {
        let path = dir.join(name);
        if std::fs::read(&path).ok().as_deref() != Some(&contents) {
            files::write(&path, contents)?;
        }
    }
    Ok(dir)
}

/// Returns the path of this program.
fn myself() -> Result<PathBuf> {
    std::env::current_exe().context("find labctl's own file")
}

/// Makes a name that no other run on this machine uses, fit for a Kubernetes object.
fn run_id() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("run-{:x}-{:x}", since.as_millis(), std::process::id())
}
