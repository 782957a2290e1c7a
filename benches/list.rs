//! `cargo bench --bench list`: pages of a list of a million jobs, in SQLite and in PostgreSQL, in one run.
//!
//! Seeds both stores, asks for pages of 50 one after the other (first page, page 1,000, pages of each filter and of filters
//! together, with values that change from request to request), and prints milliseconds at the median and at the 99th
//! percentile. A number as argument is another number of jobs; `--keep` with a directory keeps SQLite's file there.
//! PostgreSQL is measured where it is installed. Run it on a machine that does nothing else.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use labctl::dashboard::job::{JobId, State};
use labctl::dashboard::store::postgres::Postgres;
use labctl::dashboard::store::sqlite::{Settings, Sqlite};
use labctl::dashboard::store::{Filter, JobStore, MinDuration, Page, Scope};
use sqlx::Connection as _;

#[path = "../tests/it/postgres.rs"]
#[expect(dead_code, reason = "tests do more with a cluster")]
mod postgres;

const JOBS: u64 = 1_000_000;
/// How many jobs a page has.
const LIMIT: u32 = 50;
/// How often each page is asked for.
const RUNS: u64 = 300;
/// How many jobs are seeded at once.
const BATCH: u64 = 20_000;
/// When the first job was created, in milliseconds since 1970, and how long after one the next one was.
const BEGIN_MS: i64 = 1_780_000_000_000;
const APART_MS: i64 = 1_500;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` runs it with this word; it takes minutes, so it is for hands.
    if args.iter().any(|arg| arg == "--test") {
        return Ok(());
    }
    let jobs = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(JOBS);
    let kept = args
        .iter()
        .position(|arg| arg == "--keep")
        .and_then(|place| args.get(place + 1));
    let dir = tempfile::tempdir().context("make a temporary directory")?;
    let path = kept.map_or(dir.path(), Path::new).join("jobs.db");
    let start = Instant::now();
    let store = Sqlite::open(&path, Settings::default()).await?;
    if store.newest().await?.is_none() {
        seed_sqlite(&path, jobs).await.context("seed SQLite")?;
    }
    let size = std::fs::metadata(&path)?.len() >> 20;
    say(&format!(
        "SQLite: {jobs} jobs in {:.0} s, {size} MiB",
        start.elapsed().as_secs_f64()
    ));
    measure(&store, jobs).await?;
    store.close().await;
    let setup = postgres::Setup {
        fsync: "on",
        buffers: "1GB",
    };
    let Some(cluster) = postgres::Cluster::start(setup).await else {
        return Ok(());
    };
    let url = cluster.database().await;
    let store = Postgres::open(&url).await?;
    let start = Instant::now();
    seed_postgres(&url, jobs).await.context("seed PostgreSQL")?;
    say(&format!(
        "{}: {jobs} jobs in {:.0} s",
        store.name(),
        start.elapsed().as_secs_f64()
    ));
    measure(&store, jobs).await
}

fn say(text: &str) {
    _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
}

/// Numbers that look random and are the same in every run.
fn mixed(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A job of the seed: everything about it follows from its number.
struct Seed {
    id: i64,
    created_ms: i64,
    name: String,
    owner: String,
    state: State,
    template: Option<String>,
    labels: Vec<(&'static str, String)>,
}

impl Seed {
    fn new(number: u64) -> Self {
        let dice = mixed(number);
        let pick = |shift: u32, of: u64| (dice >> shift) % of;
        let created_ms = BEGIN_MS + i64::try_from(number).unwrap_or_default() * APART_MS;
        let what = [
            "backup",
            "report",
            "etl",
            "train",
            "index",
            "mail",
            "prune",
            "thumbnail",
        ];
        let when = ["nightly", "hourly", "adhoc", "weekly"];
        let word = |words: &[&str], place: u64| words[usize::try_from(place).unwrap_or_default()].to_owned();
        // A third of all jobs are those of one owner, the rest of 60.
        let owner = if pick(0, 3) == 0 { 0 } else { 1 + pick(2, 60) };
        let state = match pick(8, 1000) {
            0..850 => State::Succeeded,
            850..950 => State::Failed,
            950..998 => State::Cancelled,
            998 => State::Running,
            _ => State::Pending,
        };
        let mut labels = vec![
            ("team", format!("t{}", pick(18, 20))),
            ("tier", word(&["web", "db"], pick(23, 2))),
        ];
        if pick(24, 5000) == 0 {
            labels.push(("incident", format!("i{}", pick(40, 10))));
        }
        Self {
            id: JobId::after(None, created_ms, u32::try_from(dice >> 42).unwrap_or_default()).number(),
            created_ms,
            name: format!("{}-{}-{number:07}", word(&when, pick(30, 4)), word(&what, pick(33, 8))),
            owner: format!("user-{owner}"),
            state,
            template: (pick(38, 5) < 2).then(|| format!("template-{}", pick(44, 25))),
            labels,
        }
    }

    /// Nine of ten run for a minute, one for 20 minutes, one of 100 for three hours and one of 1,000 for two days.
    fn finished_ms(&self) -> Option<i64> {
        let ran = match mixed(self.created_ms.unsigned_abs()) % 1000 {
            0 => 172_800_000,
            1..=10 => 10_800_000,
            11..=100 => 1_200_000,
            _ => 60_000,
        };
        self.state.is_final().then_some(self.created_ms + ran)
    }

    /// They begin at once; what waits has not begun.
    fn started_ms(&self) -> Option<i64> {
        (self.state != State::Pending).then_some(self.created_ms)
    }

    fn labels_json(&self) -> String {
        let labels: serde_json::Map<String, serde_json::Value> = self
            .labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        serde_json::Value::Object(labels).to_string()
    }

    /// The parts of its name, as `store::gram` makes them.
    fn grams(&self) -> Vec<[u8; 3]> {
        let bytes = format!("{}!!", self.name).into_bytes();
        let mut grams: Vec<[u8; 3]> = bytes.windows(3).map(|part| [part[0], part[1], part[2]]).collect();
        grams.sort_unstable();
        grams.dedup();
        grams
    }
}

fn batches(jobs: u64) -> impl Iterator<Item = Vec<Seed>> {
    (0..jobs.div_ceil(BATCH)).map(move |batch| {
        (batch * BATCH..((batch + 1) * BATCH).min(jobs))
            .map(Seed::new)
            .collect()
    })
}

async fn seed_sqlite(path: &Path, jobs: u64) -> Result<()> {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(path)
        .synchronous(sqlx::sqlite::SqliteSynchronous::Off)
        .pragma("cache_size", "-400000");
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
    for batch in batches(jobs) {
        let mut transaction = connection.begin().await?;
        let rows: Vec<serde_json::Value> = batch
            .iter()
            .map(|job| {
                let grams: Vec<String> = job
                    .grams()
                    .iter()
                    .map(|gram| String::from_utf8_lossy(gram).into_owned())
                    .collect();
                serde_json::json!([
                    job.id,
                    job.name,
                    job.owner,
                    job.state.number(),
                    job.template,
                    job.labels_json(),
                    job.created_ms,
                    job.finished_ms(),
                    grams.join(" "),
                    job.started_ms(),
                ])
            })
            .collect();
        let rows = serde_json::Value::Array(rows).to_string();
        for sql in [
            "INSERT INTO jobs
                (id, name, owner, state, template, labels, created_ms, finished_ms, started_ms, log_complete, open)
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>9,
                value->>3 >= 4, value->>3 < 4 FROM json_each(?)",
            "INSERT INTO job_names (rowid, grams) SELECT value->>0, value->>8 FROM json_each(?)",
            "INSERT INTO job_specs (id, spec) SELECT value->>0, '{\"name\":\"x\",\"command\":[\"true\"]}' FROM json_each(?)",
            "INSERT INTO job_labels (name, value, id)
             SELECT l.key, l.value, r.value->>0 FROM json_each(?) r, json_each(r.value->>5) l",
        ] {
            sqlx::query(sql).bind(&rows).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }
    for sql in [
        "INSERT INTO job_counts (owner, state, n) SELECT owner, state, count(*) FROM jobs GROUP BY owner, state",
        "INSERT INTO job_totals (state, n) SELECT state, count(*) FROM jobs GROUP BY state",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ] {
        sqlx::query(sql).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

async fn seed_postgres(url: &str, jobs: u64) -> Result<()> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    // Made anew below: building an index over texts at once takes a fraction of the time.
    sqlx::raw_sql("DROP INDEX job_names_grams; SET maintenance_work_mem = '512MB'")
        .execute(&mut connection)
        .await?;
    for batch in batches(jobs) {
        let (mut rows, mut names, mut specs, mut labels) = (String::new(), String::new(), String::new(), String::new());
        for job in &batch {
            let template = job.template.as_deref().unwrap_or("\\N");
            let time = |ms: Option<i64>| ms.map_or("\\N".to_owned(), |ms| ms.to_string());
            let (started, finished) = (time(job.started_ms()), time(job.finished_ms()));
            let ended = job.state.is_final();
            writeln!(
                rows,
                "{}\t{}\t{}\t{}\t{template}\t{}\t{}\t{started}\t{finished}\t{ended}\t{}",
                job.id,
                job.name,
                job.owner,
                job.state.number(),
                job.labels_json(),
                job.created_ms,
                !ended
            )?;
            let grams: Vec<String> = job.grams().into_iter().map(gram_number).collect();
            writeln!(names, "{}\t{{{}}}", job.id, grams.join(","))?;
            writeln!(specs, "{}\t{{\"name\":\"x\",\"command\":[\"true\"]}}", job.id)?;
            for (name, value) in &job.labels {
                writeln!(labels, "{name}\t{value}\t{}", job.id)?;
            }
        }
        for (into, text) in [
            (
                "jobs (id, name, owner, state, template, labels, created_ms, started_ms, finished_ms, log_complete, open)",
                rows,
            ),
            ("job_names (id, grams)", names),
            ("job_specs (id, spec)", specs),
            ("job_labels (name, value, id)", labels),
        ] {
            let mut copy = connection.copy_in_raw(&format!("COPY {into} FROM STDIN")).await?;
            copy.send(text.into_bytes()).await?;
            copy.finish().await?;
        }
    }
    let rest = "CREATE INDEX job_names_grams ON job_names USING gin (grams) WITH (gin_pending_list_limit = 256);
        INSERT INTO job_counts (owner, state, shard, n) SELECT owner, state, id % 4, count(*) FROM jobs GROUP BY 1, 2, 3;
        INSERT INTO job_totals (state, shard, n) SELECT state, id % 16, count(*) FROM jobs GROUP BY 1, 2";
    sqlx::raw_sql(rest).execute(&mut connection).await?;
    // What autovacuum does by itself within minutes.
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

fn gram_number(gram: [u8; 3]) -> String {
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789-_.~!";
    let place = |byte| alphabet.iter().position(|known| *known == byte).unwrap_or_default();
    gram.into_iter()
        .fold(0, |number, byte| number * 41 + place(byte))
        .to_string()
}

/// Makes the filter of one request from dice.
type Make = fn(u64) -> Filter;

fn labels(pairs: &[(&str, String)]) -> std::collections::BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn team(dice: u64) -> (&'static str, String) {
    ("team", format!("t{}", dice % 20))
}

fn owner(dice: u64) -> String {
    format!("user-{}", dice % 61)
}

/// Of the jobs of a filter those that ran so long.
fn ran(ms: i64, filter: Filter) -> Filter {
    let now_ms = BEGIN_MS + 1_000_000 * APART_MS;
    Filter {
        min_duration: Some(MinDuration { ms, now_ms }),
        ..filter
    }
}

fn text(text: impl Into<String>) -> Filter {
    Filter {
        text: Some(text.into()),
        ..Filter::default()
    }
}

const CASES: [(&str, Make); 28] = [
    ("all", |_| Filter::default()),
    ("state failed", |_| Filter {
        states: vec![State::Failed],
        ..Filter::default()
    }),
    ("states pending, running", |_| Filter {
        states: vec![State::Pending, State::Running],
        ..Filter::default()
    }),
    ("four states", |_| Filter {
        states: vec![State::Succeeded, State::Failed, State::Cancelled, State::Running],
        ..Filter::default()
    }),
    ("owner", |dice| Filter {
        owner: Some(owner(dice)),
        ..Filter::default()
    }),
    ("owner, failed", |dice| Filter {
        owner: Some(owner(dice)),
        states: vec![State::Failed],
        ..Filter::default()
    }),
    ("owner, running", |dice| Filter {
        owner: Some(owner(dice)),
        states: vec![State::Running],
        ..Filter::default()
    }),
    ("label", |dice| Filter {
        labels: labels(&[team(dice)]),
        ..Filter::default()
    }),
    ("label, rare", |dice| Filter {
        labels: labels(&[("incident", format!("i{}", dice % 10))]),
        ..Filter::default()
    }),
    ("two labels", |dice| Filter {
        labels: labels(&[team(dice), ("tier", "db".into())]),
        ..Filter::default()
    }),
    ("two labels, one rare", |dice| Filter {
        labels: labels(&[team(dice), ("incident", format!("i{}", dice % 10))]),
        ..Filter::default()
    }),
    ("template", |dice| Filter {
        template: Some(format!("template-{}", dice % 25)),
        ..Filter::default()
    }),
    ("last week's", |_| Filter {
        since_ms: Some(BEGIN_MS + 900_000 * APART_MS - 604_800_000),
        until_ms: Some(BEGIN_MS + 900_000 * APART_MS),
        ..Filter::default()
    }),
    ("ran 15 min", |_| ran(900_000, Filter::default())),
    ("ran 1 day", |_| ran(86_400_000, Filter::default())),
    ("owner, failed, ran 2 h", |dice| {
        ran(
            7_200_000,
            Filter {
                owner: Some(owner(dice)),
                states: vec![State::Failed],
                ..Filter::default()
            },
        )
    }),
    ("text, common", |_| text("report")),
    ("text, one in 32", |_| text("NIGHTLY-BACKUP")),
    ("text, one in 1,000", |dice| text(format!("mail-0{:03}", dice % 1000))),
    ("text, one job", |dice| text(format!("{:07}", dice % 1_000_000))),
    ("text, none", |dice| text(format!("-x{}", dice % 1000))),
    ("text of 1 character", |_| text("h")),
    ("text of 2, none", |_| text("zq")),
    ("owner, text", |dice| Filter {
        owner: Some(owner(dice)),
        ..text(format!("-{:03}", dice % 1000))
    }),
    ("owner, label", |dice| Filter {
        owner: Some(owner(dice)),
        labels: labels(&[team(dice >> 8)]),
        ..Filter::default()
    }),
    ("failed, label, template", |dice| Filter {
        states: vec![State::Failed],
        labels: labels(&[team(dice)]),
        template: Some(format!("template-{}", (dice >> 8) % 25)),
        ..Filter::default()
    }),
    ("owner, failed, label, template", |dice| Filter {
        owner: Some(owner(dice)),
        states: vec![State::Failed],
        labels: labels(&[team(dice >> 8)]),
        template: Some(format!("template-{}", (dice >> 16) % 25)),
        ..Filter::default()
    }),
    ("all of them", |dice| Filter {
        owner: Some(owner(dice)),
        states: vec![State::Failed, State::Cancelled],
        labels: labels(&[team(dice >> 8), ("tier", "web".into())]),
        template: Some(format!("template-{}", (dice >> 16) % 25)),
        ..text("backup")
    }),
];

async fn measure(store: &dyn JobStore, jobs: u64) -> Result<()> {
    say(&format!(
        "{:32} {:>9} {:>9} {:>9} {:>9} {:>6}",
        "ms", "p50", "p99", "deep p50", "deep p99", "ratio"
    ));
    let mut worst = (0.0_f64, "");
    for (name, make) in CASES {
        let first = timed(async |dice| {
            let page = Page {
                after: None,
                limit: LIMIT,
            };
            store.list(&Scope::All, &make(dice), page).await.map(|jobs| jobs.len())
        });
        let first = first.await?;
        // Where page 1,000 of all jobs begins: for a filter it is deeper still.
        let deep = timed(async |dice| {
            let after = JobId::from_number(Seed::new(jobs.saturating_sub(u64::from(LIMIT) * 999 + dice % 100)).id);
            store
                .list(&Scope::All, &make(dice), Page { after, limit: LIMIT })
                .await
                .map(|jobs| jobs.len())
        });
        let deep = deep.await?;
        say(&format!(
            "{name:32} {:9.2} {:9.2} {:9.2} {:9.2} {:6.2}",
            first.0,
            first.1,
            deep.0,
            deep.1,
            deep.0 / first.0
        ));
        for p99 in [first.1, deep.1] {
            if p99 > worst.0 {
                worst = (p99, name);
            }
        }
    }
    let all = timed(async |_| store.counts(&Scope::All).await.map(|counts| counts.len())).await?;
    let own = timed(async |dice| {
        let owner = owner(dice);
        store.counts(&Scope::Owner(owner)).await.map(|counts| counts.len())
    });
    let own = own.await?;
    say(&format!("{:32} {:9.2} {:9.2}", "counters of all", all.0, all.1));
    say(&format!("{:32} {:9.2} {:9.2}", "counters of an owner", own.0, own.1));
    say(&format!("the worst p99 of a page is {:.2} ms: {}\n", worst.0, worst.1));
    Ok(())
}

/// Returns the median and the 99th percentile, in milliseconds.
async fn timed<T>(
    mut ask: impl AsyncFnMut(u64) -> Result<T, labctl::dashboard::store::StoreError>,
) -> Result<(f64, f64)> {
    let mut times = Vec::new();
    for run in 0..RUNS {
        let start = Instant::now();
        ask(mixed(run ^ 0x5eed)).await?;
        // The first few fill caches, and say so little of a server that runs.
        if run >= 10 {
            times.push(start.elapsed());
        }
    }
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0.0, Duration::as_secs_f64) * 1000.0;
    Ok((at(50), at(99)))
}
