//! Templates and schedules: what can be asked of them.
//!
//! A template is for everybody who may use the dashboard, and is changed by its owner; a schedule is its owner's alone,
//! and nobody else's exist. Names of either are unique in the dashboard. A new dashboard has one template, `hello`, to be
//! tried and copied.

use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Caller, Result, Service, ServiceError, checked_key};
use crate::dashboard::control::{fire, now_ms};
use crate::dashboard::job::JobId;
use crate::dashboard::job::schedule::{Concurrency, Schedule};
use crate::dashboard::job::spec::Fault;
use crate::dashboard::job::template::{Origin, Template};
use crate::dashboard::store::audit::Verb;
use crate::dashboard::store::documents::{Document, Kind, Mark, NewDocument};
use crate::dashboard::store::{Created, Scope, StoreError};

/// How many templates, and how many schedules, a dashboard may have.
pub const MOST: usize = 1000;
/// A document that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept<T> {
    /// The document.
    pub document: T,
    /// Whose it is.
    pub owner: String,
    /// How often it changed, from 1.
    pub version: i64,
    /// When it was made, in milliseconds since 1970; of an old version, when that was.
    pub created_ms: i64,
    /// When it last changed.
    pub changed_ms: i64,
}

fn kept<T: DeserializeOwned>(document: Document) -> Result<Kept<T>> {
    let read = serde_json::from_str(&document.text).map_err(|error| {
        let error = anyhow::Error::from(error).context(format!("read `{}`, as it is stored", document.name));
        ServiceError::Store(StoreError::Broken(error))
    });
    Ok(Kept {
        document: read?,
        owner: document.owner,
        version: document.version,
        created_ms: document.created_ms,
        changed_ms: document.changed_ms,
    })
}

fn text<T: Serialize>(document: &T) -> Result<String> {
    serde_json::to_string(document).map_err(|error| ServiceError::Store(StoreError::Broken(error.into())))
}

fn renamed(kind: Kind) -> ServiceError {
    let fault = Fault {
        pointer: "/name".to_owned(),
        detail: format!("the name of a {kind} does not change; it is the one of the address"),
    };
    ServiceError::Faulty(kind, vec![fault])
}

impl Service {
    async fn add<T: Serialize + DeserializeOwned>(
        &self,
        caller: &Caller,
        kind: Kind,
        name: &str,
        document: &T,
    ) -> Result<Kept<T>> {
        if self.0.store.documents(kind, &Scope::All).await?.len() >= MOST {
            return Err(ServiceError::TooMany(kind));
        }
        let new = NewDocument {
            name: name.to_owned(),
            owner: caller.name.clone(),
            now_ms: now_ms(),
            text: text(document)?,
        };
        let store = self.store_for(caller, Verb::Create, None);
        let added = store.add_document(kind, &new).await?;
        kept(added.ok_or(ServiceError::Taken(kind))?)
    }

    /// Returns a document that the caller may change.
    async fn own(&self, caller: &Caller, kind: Kind, name: &str) -> Result<Document> {
        let found = self.0.store.document(kind, name, None).await?;
        let found = found.ok_or(ServiceError::Missing(kind))?;
        if caller.admin || caller.name == found.owner {
            return Ok(found);
        }
        Err(match kind {
            Kind::Template => ServiceError::NotYours(kind),
            Kind::Schedule => ServiceError::Missing(kind),
        })
    }

    /// Changes a document to what `make` returns of it. `version` is the one that the caller looked at, where it says so.
    async fn change<T: Serialize + DeserializeOwned>(
        &self,
        caller: &Caller,
        kind: Kind,
        name: &str,
        version: Option<i64>,
        verb: Verb,
        make: impl Fn(T) -> T,
    ) -> Result<Kept<T>> {
        let store = self.store_for(caller, verb, None);
        loop {
            let now = self.own(caller, kind, name).await?;
            if version.is_some_and(|version| version != now.version) {
                return Err(ServiceError::Stale(kind));
            }
            let number = now.version;
            let before: Kept<T> = kept(now)?;
            let text = text(&make(before.document))?;
            let changed = store.change_document(kind, name, number, &text, now_ms()).await?;
            if let Some(changed) = changed {
                return kept(changed);
            }
        }
    }

    async fn remove(&self, caller: &Caller, kind: Kind, name: &str, version: Option<i64>) -> Result<()> {
        let store = self.store_for(caller, Verb::Delete, None);
        loop {
            let now = self.own(caller, kind, name).await?;
            if version.is_some_and(|version| version != now.version) {
                return Err(ServiceError::Stale(kind));
            }
            if store.remove_document(kind, name, now.version).await? {
                return Ok(());
            }
        }
    }

    /// Returns all templates, by their names.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn templates(&self) -> Result<Vec<Kept<Template>>> {
        let found = self.0.store.documents(Kind::Template, &Scope::All).await?;
        found.into_iter().map(kept).collect()
    }

    /// Returns a template as it is now, or a version of it.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Store`].
    pub async fn template(&self, name: &str, version: Option<i64>) -> Result<Kept<Template>> {
        let found = self.0.store.document(Kind::Template, name, version).await?;
        kept(found.ok_or(ServiceError::Missing(Kind::Template))?)
    }

    /// Keeps a new template.
    ///
    /// # Errors
    /// [`ServiceError::Faulty`], [`ServiceError::Taken`], [`ServiceError::TooMany`], [`ServiceError::Store`].
    pub async fn add_template(&self, caller: &Caller, template: &Template) -> Result<Kept<Template>> {
        let faults = template.faults();
        if !faults.is_empty() {
            return Err(ServiceError::Faulty(Kind::Template, faults));
        }
        self.add(caller, Kind::Template, &template.name, template).await
    }

    /// Changes a template; its old versions are kept.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::NotYours`], [`ServiceError::Stale`], [`ServiceError::Faulty`],
    /// [`ServiceError::Store`].
    pub async fn change_template(
        &self,
        caller: &Caller,
        name: &str,
        version: Option<i64>,
        template: &Template,
    ) -> Result<Kept<Template>> {
        // Who may not change it is told so first.
        self.own(caller, Kind::Template, name).await?;
        if template.name != name {
            return Err(renamed(Kind::Template));
        }
        let faults = template.faults();
        if !faults.is_empty() {
            return Err(ServiceError::Faulty(Kind::Template, faults));
        }
        let make = |_: Template| template.clone();
        self.change(caller, Kind::Template, name, version, Verb::Change, make)
            .await
    }

    /// Deletes a template. Its versions are kept for the jobs that were made from them.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::NotYours`], [`ServiceError::Stale`], [`ServiceError::Store`].
    pub async fn remove_template(&self, caller: &Caller, name: &str, version: Option<i64>) -> Result<()> {
        self.remove(caller, Kind::Template, name, version).await
    }

    /// Creates a job from a template. With a key, asking again with the same parameters returns the job of the first
    /// time.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Arguments`], and those of [`Service::create`].
    pub async fn create_from_template(
        &self,
        caller: &Caller,
        name: &str,
        parameters: &Map<String, Value>,
        key: Option<String>,
    ) -> Result<Created> {
        let template = self.template(name, None).await?;
        let spec = template.document.expand(parameters).map_err(ServiceError::Arguments)?;
        let asked = text(&(name, parameters))?;
        let key = key.map(|key| checked_key(key, asked.as_bytes(), None)).transpose()?;
        let origin = Origin {
            template: name.to_owned(),
            version: template.version,
            parameters: template.document.shown(parameters),
        };
        let act = caller.act(Verb::Create, None);
        self.create_from(&caller.name, act, spec, key, Some(origin), None).await
    }

    /// Returns how a job was made from a template, where it was.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::Store`].
    pub async fn origin(&self, caller: &Caller, id: JobId) -> Result<Option<Origin>> {
        self.job(caller, id).await?;
        Ok(self.0.store.origin(id).await?)
    }

    /// Puts a first template into a store in which there is and was nothing yet.
    ///
    /// # Errors
    /// The store failed.
    pub async fn seed(&self) -> std::result::Result<(), StoreError> {
        let store = &self.0.store;
        let first = first_template();
        let used = store.newest().await?.is_some()
            || !store.documents(Kind::Template, &Scope::All).await?.is_empty()
            // Whoever deleted it does not want it back.
            || store.document(Kind::Template, &first.name, Some(1)).await?.is_some();
        if used {
            return Ok(());
        }
        let new = NewDocument {
            name: first.name.clone(),
            owner: "labctl".to_owned(),
            now_ms: now_ms(),
            text: serde_json::to_string(&first).map_err(|error| StoreError::Broken(error.into()))?,
        };
        // Another server may have been first.
        store.add_document(Kind::Template, &new).await?;
        Ok(())
    }

    /// Returns the caller's schedules by their names.
    ///
    /// # Errors
    /// [`ServiceError::Store`].
    pub async fn schedules(&self, caller: &Caller) -> Result<Vec<(Kept<Schedule>, Option<Mark>)>> {
        let found = self.0.store.documents(Kind::Schedule, &caller.scope()).await?;
        let mut marks = self.0.store.marks().await?;
        let found = found.into_iter().map(|document| {
            let mark = marks.remove(&document.name);
            Ok::<_, ServiceError>((kept(document)?, mark))
        });
        found.collect()
    }

    /// Returns a schedule, and how far it came.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Store`].
    pub async fn schedule(&self, caller: &Caller, name: &str) -> Result<(Kept<Schedule>, Option<Mark>)> {
        let found = kept(self.own(caller, Kind::Schedule, name).await?)?;
        let mark = self.0.store.marks().await?.remove(name);
        Ok((found, mark))
    }

    async fn check(&self, schedule: &Schedule) -> Result<()> {
        let mut faults = schedule.faults(now_ms());
        if schedule.job.is_none()
            && schedule.template.is_some()
            && let Err(found) = fire::prepared(&*self.0.store, schedule, None).await?
        {
            faults.extend(found);
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(ServiceError::Faulty(Kind::Schedule, faults))
    }

    /// Keeps a new schedule.
    ///
    /// # Errors
    /// [`ServiceError::Faulty`], [`ServiceError::Taken`], [`ServiceError::TooMany`], [`ServiceError::Store`].
    pub async fn add_schedule(&self, caller: &Caller, schedule: &Schedule) -> Result<Kept<Schedule>> {
        self.check(schedule).await?;
        let added = self.add(caller, Kind::Schedule, &schedule.name, schedule).await?;
        self.0.control.plan();
        Ok(added)
    }

    /// Changes a schedule. What it was to do until now and did not is not made up for.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Stale`], [`ServiceError::Faulty`], [`ServiceError::Store`].
    pub async fn change_schedule(
        &self,
        caller: &Caller,
        name: &str,
        version: Option<i64>,
        schedule: &Schedule,
    ) -> Result<Kept<Schedule>> {
        self.own(caller, Kind::Schedule, name).await?;
        if schedule.name != name {
            return Err(renamed(Kind::Schedule));
        }
        self.check(schedule).await?;
        let make = |_: Schedule| schedule.clone();
        let changed = self
            .change(caller, Kind::Schedule, name, version, Verb::Change, make)
            .await?;
        self.0.control.plan();
        Ok(changed)
    }

    /// Holds a schedule back, or lets it go on. Asking again is no error and changes nothing.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Stale`], [`ServiceError::Store`].
    pub async fn suspend_schedule(
        &self,
        caller: &Caller,
        name: &str,
        suspend: bool,
        version: Option<i64>,
    ) -> Result<Kept<Schedule>> {
        let now: Kept<Schedule> = kept(self.own(caller, Kind::Schedule, name).await?)?;
        if now.document.suspend == suspend && version.is_none_or(|version| version == now.version) {
            return Ok(now);
        }
        let make = |schedule| Schedule { suspend, ..schedule };
        let verb = if suspend { Verb::Suspend } else { Verb::Resume };
        let changed = self.change(caller, Kind::Schedule, name, version, verb, make).await?;
        self.0.control.plan();
        Ok(changed)
    }

    /// Makes a job of a schedule now, whatever time it is and whether or not others of it run.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Faulty`], and those of [`Service::create`].
    pub async fn run_schedule(&self, caller: &Caller, name: &str, key: Option<String>) -> Result<Created> {
        let schedule: Kept<Schedule> = kept(self.own(caller, Kind::Schedule, name).await?)?;
        let prepared = fire::prepared(&*self.0.store, &schedule.document, None).await?;
        let (spec, origin) = prepared.map_err(|faults| ServiceError::Faulty(Kind::Schedule, faults))?;
        let asked = text(&("schedule", name))?;
        let key = key.map(|key| checked_key(key, asked.as_bytes(), None)).transpose()?;
        // The jobs of a schedule are its owner's, whoever has it make one.
        let act = caller.act(Verb::Create, Some(format!("schedule/{name}")));
        self.create_from(&schedule.owner, act, spec, key, origin, None).await
    }

    /// Returns the occurrences of a schedule from a time on until another one, both in milliseconds since 1970, with how its
    /// time zone writes them; so many at most.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::State`] where it cannot be understood, [`ServiceError::Store`].
    pub async fn occurrences(
        &self,
        caller: &Caller,
        name: &str,
        times: RangeInclusive<i64>,
        count: usize,
    ) -> Result<Vec<(i64, String)>> {
        let schedule: Kept<Schedule> = kept(self.own(caller, Kind::Schedule, name).await?)?;
        let timing = schedule.document.timing().map_err(ServiceError::State)?;
        let found = timing.between(*times.start(), *times.end(), count).into_iter();
        Ok(found.map(|at| (at, timing.local(at))).collect())
    }

    /// Makes the job of an occurrence that is over, such as one that came before the schedule was there. There is one job
    /// of each, whoever asked for it first. Where the schedule has one job run at a time, none is made beside another.
    ///
    /// # Errors
    /// [`ServiceError::Parameter`] where the schedule is not due at that time or it has not come,
    /// [`ServiceError::State`] where another job of it has not ended, and those of [`Service::run_schedule`].
    pub async fn run_occurrence(&self, caller: &Caller, name: &str, at_ms: i64) -> Result<Created> {
        let schedule: Kept<Schedule> = kept(self.own(caller, Kind::Schedule, name).await?)?;
        let timing = schedule.document.timing().map_err(ServiceError::State)?;
        if timing.between(at_ms, at_ms, 1).is_empty() {
            return Err(ServiceError::Parameter(
                "`at` is no time at which the schedule is due".to_owned(),
            ));
        }
        if at_ms > now_ms() {
            return Err(ServiceError::Parameter("`at` has not come yet".to_owned()));
        }
        let key = fire::key(name, at_ms);
        if let Some(job) = self.0.store.keyed(&schedule.owner, &key).await? {
            return Ok(Created::Replayed(job));
        }
        let prepared = fire::prepared(&*self.0.store, &schedule.document, Some(at_ms)).await?;
        let (spec, origin) = prepared.map_err(|faults| ServiceError::Faulty(Kind::Schedule, faults))?;
        // Two that ask at once would both find that none runs.
        let _alone = self.0.one_at_a_time.lock().await;
        if schedule.document.concurrency != Concurrency::Allow
            && let Some(job) = self
                .0
                .control
                .unended(&schedule.document, &schedule.owner)
                .await?
                .first()
        {
            return Err(ServiceError::State(format!(
                "one job of the schedule runs at a time, and job {} has not ended",
                job.id
            )));
        }
        let act = caller.act(Verb::Create, Some(format!("schedule/{name}")));
        self.create_from(&schedule.owner, act, spec, Some(key), origin, None)
            .await
    }

    /// Deletes a schedule. Its jobs stay.
    ///
    /// # Errors
    /// [`ServiceError::Missing`], [`ServiceError::Stale`], [`ServiceError::Store`].
    pub async fn remove_schedule(&self, caller: &Caller, name: &str, version: Option<i64>) -> Result<()> {
        self.remove(caller, Kind::Schedule, name, version).await
    }
}

/// Returns the template that a new dashboard has, to be tried and copied.
fn first_template() -> Template {
    let script = "i=0; while [ $i -lt \"$2\" ]; do i=$((i + 1)); echo \"$i: hello, $1\"; sleep 1; done";
    Template {
        name: "hello".to_owned(),
        description: "Greets somebody, once a second. Try it, then copy it for jobs of your own.".to_owned(),
        parameters: serde_json::json!({
            "type": "object",
            "properties": {
                "name": {
                    "type": "string", "title": "Name", "description": "Who is greeted",
                    "default": "world", "minLength": 1, "maxLength": 60,
                },
                "count": {
                    "type": "integer", "title": "Times", "description": "How often",
                    "default": 3, "minimum": 1, "maximum": 60,
                },
            },
            "additionalProperties": false,
        }),
        allow_rerun: true,
        job: serde_json::json!({
            "name": "hello",
            "command": ["/bin/sh", "-c", script, "hello", "${{ name }}", "${{ count }}"],
            "limits": {"seconds": 120},
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_template_is_a_good_one() {
        let template = first_template();
        assert_eq!(template.faults(), []);
        let spec = template.expand(&Map::new()).expect("its defaults make a job");
        assert_eq!(spec.command[4..], ["world", "3"]);
    }
}
