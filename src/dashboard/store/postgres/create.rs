//! Creates jobs: the first ones that are asked for at once each in a statement of its own, and those that come meanwhile
//! together in the next one.
//!
//! Pushing a commit to the disk takes longer than everything else, and the database pushes one at a time that tells of
//! something (`NOTIFY`). So whoever comes while two are on their way waits with the others, and one commit has them all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use sqlx::Row as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::write::is;
use super::{Postgres, audit, fault};
use crate::dashboard::job::{Job, JobId};
use crate::dashboard::store::audit::Act;
use crate::dashboard::store::list::columns;
use crate::dashboard::store::row::{self, get};
use crate::dashboard::store::{Created, ID_TRIES, Key, NewJob, StoreError, gram};

/// How many statements that create jobs a server has under way.
const AT_ONCE: usize = 2;
/// How many jobs one statement creates at most, so that nobody waits long for the rows of the counters.
const TOGETHER: usize = 64;
/// How often a request with a key is tried again that met another one which then came to nothing.
const KEY_TRIES: u32 = 8;

/// Creates a job with all that belongs to it, unless its key is known. Whoever is written down waits for his turn first
/// ([`audit::lock`]), and the rows of counters are written in one order, so that nobody waits in a circle.
const CREATE: &str = concat!(
    "WITH turn AS MATERIALIZED (
        SELECT ",
    audit::lock!("pg_advisory_xact_lock_shared"),
    " WHERE $19::text IS NOT NULL
    ), key AS (
        INSERT INTO job_keys (owner, key, body, id)
        SELECT $3, $9, $10, $1 FROM (SELECT count(*) FROM turn) waited WHERE $9 IS NOT NULL
        ON CONFLICT (owner, key) DO NOTHING RETURNING id
    ), job AS (
        INSERT INTO jobs (id, name, owner, state, template, labels, parent, created_ms, reason)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $17 FROM (SELECT count(*) FROM turn) waited
        WHERE $9 IS NULL OR EXISTS (SELECT FROM key)
        RETURNING id, owner, state
    ), spec AS (
        INSERT INTO job_specs (id, spec) SELECT id, $11 FROM job
    ), origin AS (
        INSERT INTO job_origins (id, version, parameters) SELECT id, $15, $16 FROM job WHERE $15 IS NOT NULL
    ), names AS (
        INSERT INTO job_names (id, grams) SELECT id, $12 FROM job
    ), labels AS (
        INSERT INTO job_labels (name, value, id)
        SELECT l.name, l.value, job.id FROM job, unnest($13::text[], $14::text[]) l (name, value)
    ), counts AS (
        INSERT INTO job_counts (owner, state, shard, n) SELECT owner, state, id % 4, 1 FROM job
        ON CONFLICT (owner, state, shard) DO UPDATE SET n = job_counts.n + excluded.n
    ), totals AS (
        INSERT INTO job_totals (state, shard, n) SELECT state, id % 16, 1 FROM job
        ON CONFLICT (state, shard) DO UPDATE SET n = job_totals.n + excluded.n
    ), act AS (
        INSERT INTO audit (at_ms, actor, verb, object, owner, was, became, request_id, ip)
        SELECT $18::bigint, $19, $20, $21, job.owner, $22, $23, $24, $25 FROM job WHERE $19 IS NOT NULL
    )
    SELECT id, pg_notify('labctl_jobs', 'c' || id) FROM job"
);

/// Creates several jobs like [`CREATE`]: one whose key is known is left out, and those that are not are returned. Their
/// counters are all in one shard, so that two statements seldom wait for each other.
const CREATE_ALL: &str = concat!(
    "WITH turn AS MATERIALIZED (
        SELECT ",
    audit::lock!("pg_advisory_xact_lock_shared"),
    "
    ), new AS MATERIALIZED (
        SELECT t.* FROM (SELECT count(*) FROM turn) waited, unnest($1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[], $7::bigint[],
            $8::bigint[], $9::text[], $10::text[], $11::bytea[], $12::text[], $13::text[], $14::bigint[], $15::text[],
            $16::bigint[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[],
            $24::text[])
        AS t (id, name, owner, state, template, labels, parent, created_ms, reason, key, body, spec, grams, version,
            parameters, at_ms, actor, verb, object, was, became, request_id, ip, tags)
    ), keys AS (
        INSERT INTO job_keys (owner, key, body, id) SELECT owner, key, body, id FROM new WHERE key IS NOT NULL
        ORDER BY owner, key
        ON CONFLICT (owner, key) DO NOTHING RETURNING id
    ), fresh AS MATERIALIZED (
        SELECT * FROM new WHERE key IS NULL OR id IN (SELECT id FROM keys)
    ), jobs AS (
        INSERT INTO jobs (id, name, owner, state, template, labels, parent, created_ms, reason)
        SELECT id, name, owner, state, template, labels, parent, created_ms, reason FROM fresh
    ), specs AS (
        INSERT INTO job_specs (id, spec) SELECT id, spec FROM fresh
    ), origins AS (
        INSERT INTO job_origins (id, version, parameters)
        SELECT id, version, parameters FROM fresh WHERE version IS NOT NULL
    ), names AS (
        INSERT INTO job_names (id, grams) SELECT id, grams::integer[] FROM fresh
    ), labels AS (
        INSERT INTO job_labels (name, value, id)
        SELECT l.key, l.value, fresh.id FROM fresh CROSS JOIN LATERAL json_each_text(fresh.tags::json) l
        WHERE fresh.tags IS NOT NULL
    ), counts AS (
        INSERT INTO job_counts (owner, state, shard, n)
        SELECT owner, state, $1[1] % 4, count(*) FROM fresh GROUP BY owner, state ORDER BY owner, state
        ON CONFLICT (owner, state, shard) DO UPDATE SET n = job_counts.n + excluded.n
    ), totals AS (
        INSERT INTO job_totals (state, shard, n)
        SELECT state, $1[1] % 16, count(*) FROM fresh GROUP BY state ORDER BY state
        ON CONFLICT (state, shard) DO UPDATE SET n = job_totals.n + excluded.n
    ), acts AS (
        INSERT INTO audit (at_ms, actor, verb, object, owner, was, became, request_id, ip)
        SELECT at_ms, actor, verb, object, owner, was, became, request_id, ip FROM fresh
        WHERE actor IS NOT NULL ORDER BY id
    )
    SELECT id, pg_notify('labctl_jobs', 'c' || id) FROM fresh"
);

type Answer = oneshot::Sender<Result<Created, StoreError>>;

/// A job, who is written down as having created it, and who is told what became of it.
struct Ask {
    new: NewJob,
    act: Option<Arc<Act>>,
    answer: Answer,
}

/// Jobs that wait to be created, and who is told what became of them.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Line>);

#[derive(Default)]
struct Line {
    /// How many statements are under way.
    running: usize,
    waiting: VecDeque<Ask>,
}

/// One of the statements that may be under way. Whoever has it no more leaves it to those who wait.
struct Turn(Postgres);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut line = self.0.inner.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has given up is not created for.
        line.waiting.retain(|ask| !ask.answer.is_closed());
        let count = line.waiting.len().min(TOGETHER);
        let batch: Vec<_> = line.waiting.drain(..count).collect();
        // Where the server ends, those who wait are told so by the loss of their answers.
        let runtime = Handle::try_current().ok().filter(|_| !batch.is_empty());
        let Some(runtime) = runtime else {
            line.running -= 1;
            return;
        };
        drop(line);
        let turn = Self(self.0.clone());
        runtime.spawn(async move {
            turn.0.write_together(batch).await;
            drop(turn);
        });
    }
}

impl Postgres {
    pub(super) async fn write_new(&self, new: NewJob) -> Result<Created, StoreError> {
        let waits = {
            let mut line = self.inner.waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
            if line.running < AT_ONCE {
                line.running += 1;
                Err(new)
            } else {
                let (answer, answered) = oneshot::channel();
                let act = self.act.clone();
                line.waiting.push_back(Ask { new, act, answer });
                Ok(answered)
            }
        };
        match waits {
            Err(new) => {
                let _turn = Turn(self.clone());
                self.write_one(&new, self.act.as_deref()).await
            }
            Ok(answered) => answered
                .await
                .context("the server stops")
                .map_err(StoreError::Unavailable)?,
        }
    }

    /// Creates jobs in one statement, and tells those who asked for them.
    async fn write_together(&self, batch: Vec<Ask>) {
        let done = if batch.len() > 1 {
            self.insert_all(&batch).await
        } else {
            Ok(Vec::new())
        };
        // What one of them is to blame for spoils nothing for the others: each is then tried by itself.
        let done = done.unwrap_or_else(|error| {
            tracing::debug!(error = ?error, jobs = batch.len(), "jobs cannot be created together");
            Vec::new()
        });
        let alone = batch.into_iter().filter_map(|Ask { new, act, answer }| {
            if done.contains(&new.id.number()) {
                let job = row::fresh(&new, new.id);
                // Who asked may have gone.
                _ = answer.send(Ok(Created::New(job)));
                return None;
            }
            Some(async move { _ = answer.send(self.write_one(&new, act.as_deref()).await) })
        });
        futures_util::future::join_all(alone).await;
    }

    /// Returns the ids of the jobs that were created; the others' keys are known.
    async fn insert_all(&self, batch: &[Ask]) -> Result<Vec<i64>, StoreError> {
        let news = || batch.iter().map(|ask| &ask.new);
        let acts = || batch.iter().map(|ask| ask.act.as_deref());
        let jobs: Vec<Job> = news().map(|new| row::fresh(new, new.id)).collect();
        let labels = jobs.iter().map(|job| row::labels_text(&job.labels));
        let tags = news().map(|new| row::labels_text(&row::tags(&new.spec.labels, new.template.as_ref())));
        let specs = news().map(|new| row::spec_text(&new.spec));
        let parameters = news().map(|new| new.template.as_ref().map(row::parameters_text).transpose());
        let grams = jobs.iter().map(|job| {
            let numbers = gram::of_name(&job.name)
                .into_iter()
                .map(|gram| gram.number().to_string());
            format!("{{{}}}", numbers.collect::<Vec<_>>().join(","))
        });
        let query = sqlx::query(CREATE_ALL)
            .bind(jobs.iter().map(|job| job.id.number()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.owner.as_str()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.state.number()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.template.as_deref()).collect::<Vec<_>>())
            .bind(labels.collect::<Result<Vec<_>, _>>()?)
            .bind(jobs.iter().map(|job| job.parent.map(JobId::number)).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.created_ms).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.reason.as_deref()).collect::<Vec<_>>())
            .bind(
                news()
                    .map(|new| new.key.as_ref().map(|key| key.key.as_str()))
                    .collect::<Vec<_>>(),
            )
            .bind(
                news()
                    .map(|new| new.key.as_ref().map(|key| key.body.as_slice()))
                    .collect::<Vec<_>>(),
            )
            .bind(specs.collect::<Result<Vec<_>, _>>()?)
            .bind(grams.collect::<Vec<_>>())
            .bind(
                news()
                    .map(|new| new.template.as_ref().map(|origin| origin.version))
                    .collect::<Vec<_>>(),
            )
            .bind(parameters.collect::<Result<Vec<_>, _>>()?)
            .bind(acts().map(|act| Some(act?.at_ms)).collect::<Vec<_>>())
            .bind(acts().map(|act| Some(act?.actor.as_str())).collect::<Vec<_>>())
            .bind(acts().map(|act| Some(act?.verb.name())).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| format!("job/{}", job.id)).collect::<Vec<_>>())
            .bind(acts().map(|act| act?.before.as_deref()).collect::<Vec<_>>())
            .bind(jobs.iter().map(|job| job.state.name()).collect::<Vec<_>>())
            .bind(acts().map(|act| act?.request_id.as_deref()).collect::<Vec<_>>())
            .bind(acts().map(|act| act?.ip.as_deref()).collect::<Vec<_>>())
            .bind(tags.collect::<Result<Vec<_>, _>>()?);
        let mut connection = self.connection().await?;
        let rows = query.fetch_all(&mut *connection).await.map_err(fault::postgres)?;
        rows.iter().map(|row| row.try_get(0).map_err(row::broken)).collect()
    }

    async fn write_one(&self, new: &NewJob, act: Option<&Act>) -> Result<Created, StoreError> {
        let mut id = new.id;
        let (mut taken, mut met) = (0, 0);
        loop {
            match self.insert(new, id, act).await {
                Ok(true) => return Ok(Created::New(row::fresh(new, id))),
                // Another server made the same id in the same millisecond.
                Err(error) if taken < ID_TRIES && is(&error, "23505") => {
                    taken += 1;
                    id = JobId::after(Some(id), new.created_ms, 0);
                }
                Err(error) => return Err(fault::postgres(error)),
                Ok(false) => {
                    if let Some(key) = &new.key
                        && let Some(job) = self.replayed(&new.owner, key).await?
                    {
                        return Ok(Created::Replayed(job));
                    }
                    // The job of the key was deleted just now, or is not to be seen yet.
                    met += 1;
                    if met > KEY_TRIES {
                        return Err(StoreError::Timeout(anyhow!(
                            "the idempotency key is taken by a job that is not there"
                        )));
                    }
                }
            }
        }
    }

    /// Says whether the job was created; it was not where its key is known.
    async fn insert(&self, new: &NewJob, id: JobId, act: Option<&Act>) -> Result<bool, sqlx::Error> {
        let job = row::fresh(new, id);
        let encode = |error: StoreError| sqlx::Error::Encode(error.into());
        let grams: Vec<i32> = gram::of_name(&job.name).into_iter().map(gram::Gram::number).collect();
        let (names, values): (Vec<String>, Vec<String>) =
            row::tags(&job.labels, new.template.as_ref()).into_iter().unzip();
        let query = sqlx::query(CREATE)
            .bind(id.number())
            .bind(&job.name)
            .bind(&job.owner)
            .bind(job.state.number())
            .bind(job.template.as_deref())
            .bind(row::labels_text(&job.labels).map_err(encode)?)
            .bind(job.parent.map(JobId::number))
            .bind(job.created_ms)
            .bind(new.key.as_ref().map(|key| key.key.as_str()))
            .bind(new.key.as_ref().map(|key| key.body.as_slice()))
            .bind(row::spec_text(&new.spec).map_err(encode)?)
            .bind(grams)
            .bind(names)
            .bind(values)
            .bind(new.template.as_ref().map(|origin| origin.version))
            .bind(
                new.template
                    .as_ref()
                    .map(row::parameters_text)
                    .transpose()
                    .map_err(encode)?,
            )
            .bind(job.reason.as_deref())
            .bind(act.map(|act| act.at_ms))
            .bind(act.map(|act| act.actor.as_str()))
            .bind(act.map(|act| act.verb.name()))
            .bind(format!("job/{id}"))
            .bind(act.and_then(|act| act.before.as_deref()))
            .bind(job.state.name())
            .bind(act.and_then(|act| act.request_id.as_deref()))
            .bind(act.and_then(|act| act.ip.as_deref()));
        let mut connection = self.inner.pool.acquire().await?;
        Ok(query.fetch_optional(&mut *connection).await?.is_some())
    }

    /// Returns the job that a key was used for.
    pub(super) async fn replayed(&self, owner: &str, key: &Key) -> Result<Option<Job>, StoreError> {
        let mut connection = self.connection().await?;
        let sql = concat!(
            "SELECT ",
            columns!("jobs"),
            ", k.body FROM job_keys k JOIN jobs ON jobs.id = k.id WHERE k.owner = $1 AND k.key = $2"
        );
        let query = sqlx::query(sql).bind(owner).bind(&key.key);
        let Some(row) = query.fetch_optional(&mut *connection).await.map_err(fault::postgres)? else {
            return Ok(None);
        };
        if get::<_, Vec<u8>>(&row, 17)? != key.body {
            return Err(StoreError::KeyReused);
        }
        row::job(&row).map(Some)
    }
}
