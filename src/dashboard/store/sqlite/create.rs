//! Creates jobs: those that are asked for at the same moment in one transaction.
//!
//! A job that was acknowledged is on the disk. Pushing a commit to the disk takes longer than everything else, so whoever
//! comes while one is pushed waits with the others, and the next commit has them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sqlx::SqliteConnection;
use tokio::sync::oneshot;

use super::write::{Kind, Write, row_of};
use super::{Sqlite, audit, fault};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::store::audit::Act;
use crate::dashboard::store::row::{self, get};
use crate::dashboard::store::{Changed, Created, ID_TRIES, Key, NewJob, StoreError, documents, gram};

/// How many jobs one transaction creates at most, so that others need not wait long for their turn.
const TOGETHER: usize = 256;

/// Jobs that wait to be created, and who is told what became of them.
#[derive(Default)]
pub(super) struct Waiting(Mutex<VecDeque<(Ask, Answer)>>);

type Answer = oneshot::Sender<Result<Created, StoreError>>;

/// A job, and who is written down as having created it.
type Ask = (NewJob, Option<Arc<Act>>);

impl Waiting {
    /// Adds one; says whether it is the first, for which somebody has to be sent.
    fn add(&self, new: Ask, answer: Answer) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back((new, answer));
        waiting.len() == 1
    }

    /// Takes some; says whether others are left.
    fn take(&self) -> (Vec<(Ask, Answer)>, bool) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(TOGETHER);
        (waiting.drain(..count).collect(), !waiting.is_empty())
    }
}

/// Everything that a job is, in one call of the database: a call costs more than a statement. A job whose id is taken
/// leaves nothing, for that is found first. sqlx numbers `?` through all statements, and gaps in `?N` mislead it.
macro_rules! create {
    () => {
        "INSERT INTO jobs (id, name, owner, state, reason, template, labels, parent, created_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);
    INSERT INTO job_specs (id, spec) VALUES (?, ?);
    INSERT INTO job_names (rowid, grams) VALUES (?, ?);
    INSERT INTO job_labels (name, value, id) SELECT key, value, ? FROM json_each(?);
    INSERT INTO job_counts (owner, state, n) VALUES (?, ?, 1) ON CONFLICT (owner, state) DO UPDATE SET n = n + 1;
    INSERT INTO job_totals (state, n) VALUES (?, 1) ON CONFLICT (state) DO UPDATE SET n = n + 1"
    };
}
const CREATE: &str = create!();
const CREATE_BY: &str = concat!(create!(), "; ", audit::entry!());

impl Sqlite {
    pub(super) async fn write_new(&self, new: NewJob) -> Result<Created, StoreError> {
        let (answer, answered) = oneshot::channel();
        if self.inner.waiting.add((new, self.act.clone()), answer) {
            let store = self.clone();
            // Nobody has to wait for it: a request that is given up leaves the others theirs.
            tokio::spawn(async move { while store.write_waiting().await {} });
        }
        answered
            .await
            .context("the server stops")
            .map_err(StoreError::Unavailable)?
    }

    /// Creates those that wait; says whether others are left.
    async fn write_waiting(&self) -> bool {
        let begun = self.begin(Kind::Durable).await;
        // Not before: whoever came while it was somebody else's turn comes with them.
        let (batch, more) = self.inner.waiting.take();
        let (news, answers): (Vec<Ask>, Vec<Answer>) = batch.into_iter().unzip();
        let created = match begun {
            Ok(write) => self.write_together(write, &news).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(created) => {
                for (answer, created) in answers.into_iter().zip(created) {
                    // Who asked may have gone.
                    _ = answer.send(created);
                }
            }
            Err(error) if news.len() == 1 => {
                self.tidy().await;
                if let Some(answer) = answers.into_iter().next() {
                    // Who asked may have gone.
                    _ = answer.send(Err(error));
                }
            }
            Err(_) => {
                // One of them may be to blame (there is no room for it), so each is tried by itself.
                self.tidy().await;
                for (new, answer) in news.into_iter().zip(answers) {
                    let store = self.clone();
                    tokio::spawn(async move { _ = answer.send(store.write_one(new).await) });
                }
            }
        }
        more
    }

    async fn write_one(&self, new: Ask) -> Result<Created, StoreError> {
        let written = async {
            let write = self.begin(Kind::Durable).await?;
            let created = self.write_together(write, std::slice::from_ref(&new)).await?;
            created.into_iter().next().context("one job").map_err(row::broken)?
        };
        let written = written.await;
        if written.is_err() {
            self.tidy().await;
        }
        written
    }

    /// Creates jobs in one transaction. A key that was used for another job spoils nothing for the others.
    async fn write_together(
        &self,
        mut write: Write<'_>,
        news: &[Ask],
    ) -> Result<Vec<Result<Created, StoreError>>, StoreError> {
        let mut all = Vec::with_capacity(news.len());
        for (new, act) in news {
            all.push(match create(&mut write.connection, new, act.as_deref()).await {
                Err(StoreError::KeyReused) => Err(StoreError::KeyReused),
                created => Ok(created?),
            });
        }
        let fresh = all.iter().filter_map(|created| match created {
            Ok(Created::New(job)) => Some(Changed::Job(job.clone())),
            _ => None,
        });
        let fresh: Vec<Changed> = fresh.collect();
        if fresh.is_empty() {
            write.end().await;
        } else {
            self.commit(write, fresh).await?;
        }
        Ok(all)
    }
}

async fn create(connection: &mut SqliteConnection, new: &NewJob, act: Option<&Act>) -> Result<Created, StoreError> {
    if let Some(key) = &new.key
        && let Some(job) = replayed(connection, &new.owner, key).await?
    {
        return Ok(Created::Replayed(job));
    }
    let spec = row::spec_text(&new.spec)?;
    let mut id = new.id;
    let mut tries = 0;
    let job = loop {
        let job = row::fresh(new, id);
        let grams: Vec<String> = gram::of_name(&job.name).into_iter().map(gram::Gram::text).collect();
        let (number, state, labels) = (id.number(), job.state.number(), row::labels_text(&job.labels)?);
        let tags = row::labels_text(&row::tags(&job.labels, new.template.as_ref()))?;
        let query = sqlx::query(if act.is_some() { CREATE_BY } else { CREATE })
            .bind(number)
            .bind(&job.name)
            .bind(&job.owner)
            .bind(state)
            .bind(job.reason.as_deref())
            .bind(job.template.as_deref())
            .bind(&labels)
            .bind(job.parent.map(JobId::number))
            .bind(job.created_ms)
            .bind(number)
            .bind(&spec)
            .bind(number)
            .bind(grams.join(" "))
            .bind(number)
            .bind(&tags)
            .bind(&job.owner)
            .bind(state)
            .bind(state);
        let query = match act {
            Some(act) => {
                let after = Some(job.state.name().to_owned());
                audit::bound(query, act, format!("job/{id}"), &job.owner, None, after)
            }
            None => query,
        };
        match query.execute(&mut *connection).await {
            Ok(_) => break job,
            // Another server made the same id in the same millisecond.
            Err(sqlx::Error::Database(error)) if tries < ID_TRIES && error.code().as_deref() == Some(ID_TAKEN) => {
                tries += 1;
                id = JobId::after(Some(id), new.created_ms, 0);
            }
            Err(error) => return Err(fault::sqlite(error)),
        }
    };
    if let Some(origin) = &new.template {
        let query = sqlx::query(documents::ADD_ORIGIN)
            .bind(job.id.number())
            .bind(origin.version)
            .bind(row::parameters_text(origin)?);
        query.execute(&mut *connection).await.map_err(fault::sqlite)?;
    }
    if let Some(key) = &new.key {
        let sql = "INSERT INTO job_keys (owner, key, body, id) VALUES (?, ?, ?, ?)";
        let query = sqlx::query(sql)
            .bind(&job.owner)
            .bind(&key.key)
            .bind(key.body.as_slice())
            .bind(job.id.number());
        query.execute(connection).await.map_err(fault::sqlite)?;
    }
    Ok(Created::New(job))
}

/// SQLITE_CONSTRAINT_PRIMARYKEY: of all that is written here only the first table's can be taken.
const ID_TAKEN: &str = "1555";

/// Returns the job that a key was used for.
async fn replayed(connection: &mut SqliteConnection, owner: &str, key: &Key) -> Result<Option<Job>, StoreError> {
    let query = sqlx::query("SELECT id, body FROM job_keys WHERE owner = ? AND key = ?")
        .bind(owner)
        .bind(&key.key);
    let Some(known) = query.fetch_optional(&mut *connection).await.map_err(fault::sqlite)? else {
        return Ok(None);
    };
    if get::<_, Vec<u8>>(&known, 1)? != key.body {
        return Err(StoreError::KeyReused);
    }
    row_of(connection, row::id(get(&known, 0)?)?).await
}
