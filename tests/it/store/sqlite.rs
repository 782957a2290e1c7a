//! What only SQLite does: files, their limits, and what is left of a process that was killed.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use labctl::dashboard::job::{JobId, State};
use labctl::dashboard::store::sqlite::{Settings, Sqlite};
use labctl::dashboard::store::{Filter, JobStore as _, Page, Scope, StoreError};
use sqlx::{Connection as _, Row as _};

use super::parameters::{found, made_with};
use super::{BEGIN_MS, bring, chunk, create, new_job};

pub(super) async fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, Settings::default()).await.expect("opened")
}

async fn raw(path: &Path) -> sqlx::SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    sqlx::SqliteConnection::connect_with(&options).await.expect("connected")
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let store = open(&path).await;
    let job = create(&store, new_job("ada", "kept", 0)).await;
    let job = bring(&store, &job, State::Running).await;
    store.append_log(job.id, &chunk(1, 3, "a")).await.expect("stored");
    store.close().await;
    assert!(
        matches!(store.ping().await, Err(StoreError::Unavailable(_))),
        "it is closed"
    );
    let store = open(&path).await;
    assert_eq!(
        store.job(job.id, &Scope::All).await.expect("an answer"),
        Some(job.clone())
    );
    assert_eq!(store.log(job.id, 1, 9).await.expect("an answer"), [chunk(1, 3, "a")]);
    assert_eq!(store.newest().await.expect("an answer"), Some(job.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_start_at_once_on_a_new_file_all_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let mut starts = tokio::task::JoinSet::new();
    for ms in 0..8 {
        let path = path.clone();
        starts.spawn(async move {
            let store = open(&path).await;
            create(&store, new_job("ada", "started", ms)).await;
        });
    }
    starts.join_all().await;
    let counts = open(&path).await.counts(&Scope::All).await.expect("an answer");
    assert_eq!(counts[&State::Pending], 8);
}

#[tokio::test]
async fn this_labctl_runs_on_the_database_of_a_newer_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    open(&path).await.close().await;
    let mut connection = raw(&path).await;
    let newer = "ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
        CREATE TABLE later (id INTEGER PRIMARY KEY);
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'later', true, x'00', 1);";
    sqlx::raw_sql(newer)
        .execute(&mut connection)
        .await
        .expect("a newer schema");
    connection.close().await.expect("closed");
    let store = open(&path).await;
    let job = create(&store, new_job("ada", "old-labctl", 0)).await;
    bring(&store, &job, State::Failed).await;
    let page = Page { after: None, limit: 5 };
    assert_eq!(
        store
            .list(&Scope::All, &Filter::default(), page)
            .await
            .expect("a page")
            .len(),
        1
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_of_labctl_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notes.txt");
    let text = "these are notes, long enough to be looked at as a header of a database file, and none\n".repeat(50);
    labctl::drive::files::write(&path, &text).expect("written");
    let error = Sqlite::open(&path, Settings::default()).await.err().expect("refused");
    let told = format!("{:#}", anyhow::Error::new(error));
    assert!(told.contains("notes.txt` is no database of labctl"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), text);

    let absent = dir.path().join("not/there/jobs.db");
    let error = Sqlite::open(&absent, Settings::default()).await.err().expect("refused");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");

    let changed = dir.path().join("changed.db");
    open(&changed).await.close().await;
    let mut connection = raw(&changed).await;
    let edit = sqlx::query("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1");
    edit.execute(&mut connection).await.expect("edited");
    connection.close().await.expect("closed");
    let error = Sqlite::open(&changed, Settings::default())
        .await
        .err()
        .expect("refused");
    let told = format!("{:#}", anyhow::Error::new(error));
    assert!(
        told.contains("migration 1 of this database is not the one of this labctl"),
        "{told}"
    );
}

/// Returns lines that do not compress: numbers of a generator.
fn noise(first: u64, bytes: usize) -> labctl::dashboard::log::Chunk {
    let mut state = first | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + u8::try_from(state % 95).expect("small"))
    };
    let text: String = (0..bytes).map(|_| next()).collect();
    chunk(first, 1, &text)
}

#[tokio::test]
async fn a_full_database_refuses_and_works_again_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let store = Sqlite::open(
        &path,
        Settings {
            quota_bytes: Some(4 << 20),
        },
    )
    .await
    .expect("opened");
    let job = create(&store, new_job("ada", "writes", 0)).await;
    let job = bring(&store, &job, State::Failed).await;
    let mut parts = 0;
    let full = loop {
        match store.append_log(job.id, &noise(parts + 1, 64 << 10)).await {
            Ok(()) => parts += 1,
            Err(error) => break error,
        }
        assert!(parts < 200, "there is no end of room");
    };
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    assert!(parts > 20, "only {parts} parts went in");
    let refused = loop {
        // Small rows still find room for a while.
        if let Err(error) = store
            .create(new_job("ada", "more", i64::try_from(parts).expect("small")))
            .await
        {
            break error;
        }
        parts += 1;
        assert!(parts < 20_000, "there is no end of room");
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    let before = store.counts(&Scope::All).await.expect("reading goes on");
    assert!(store.delete(job.id, &Scope::All).await.expect("deleting goes on"));
    create(&store, new_job("ada", "again", 100_000)).await;
    let after = store.counts(&Scope::All).await.expect("an answer");
    assert_eq!(
        after[&State::Pending],
        before[&State::Pending] + 1,
        "what was refused was not counted"
    );
    assert_eq!(store.log_bytes().await.expect("an answer"), 0);
}

#[tokio::test]
async fn deleted_logs_give_their_room_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let store = open(&path).await;
    let job = create(&store, new_job("ada", "writes", 0)).await;
    for part in 0..80 {
        store
            .append_log(job.id, &noise(part + 1, 256 << 10))
            .await
            .expect("stored");
    }
    let job = bring(&store, &job, State::Failed).await;
    let size = || -> u64 {
        let sizes = ["", "-wal"].map(|end| std::fs::metadata(format!("{}{end}", path.display())));
        sizes.into_iter().map(|file| file.map_or(0, |file| file.len())).sum()
    };
    let before = size();
    assert!(before > 15 << 20, "{before} bytes");
    assert!(store.delete(job.id, &Scope::All).await.expect("deleted"));
    let start = Instant::now();
    loop {
        // Pages are given back behind the answer, and the file becomes smaller at the next checkpoint.
        create(
            &store,
            new_job(
                "ada",
                "next",
                i64::try_from(start.elapsed().as_millis()).expect("small"),
            ),
        )
        .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let database = std::fs::metadata(&path).expect("there").len();
        if database < 6 << 20 {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the database still has {database} of {before} bytes"
        );
    }
    store.close().await;
    assert!(size() < 6 << 20);
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open(&dir.path().join("jobs.db")).await;
    let mut changes = store.changes();
    for ms in 0..200 {
        let patience = Duration::from_micros(u64::try_from(ms).expect("small") * 10);
        _ = tokio::time::timeout(patience, store.create(new_job("ada", "dropped", ms))).await;
    }
    // Whatever was created was told, and nothing else.
    let last = create(&store, new_job("ada", "last", 1000)).await;
    let mut told = 0;
    loop {
        match changes.recv().await.expect("nothing was missed") {
            labctl::dashboard::store::Changed::Job(job) if job.id == last.id => break,
            _ => told += 1,
        }
    }
    let counts = store.counts(&Scope::All).await.expect("an answer");
    assert_eq!(counts[&State::Pending], told + 1);
}

/// The variable that makes [`writer_for_the_test_that_kills_it`] write, to the file that it names.
const WRITER: &str = "LABCTL_TEST_SQLITE_WRITER";

/// Writes until it is killed, and says what was committed. Does nothing on its own.
#[tokio::test]
async fn writer_for_the_test_that_kills_it() {
    let Some(path) = labctl::config::variable(WRITER) else {
        return;
    };
    let store = open(Path::new(&path)).await;
    let mut out = std::io::stdout();
    for ms in 0.. {
        let mut new = new_job("ada", "written", ms);
        new.spec.labels.insert("n".into(), "1".into());
        let job = create(&store, new).await;
        store.append_log(job.id, &noise(1, 20 << 10)).await.expect("stored");
        let job = bring(&store, &job, State::Failed).await;
        if ms % 3 == 0 {
            assert!(store.delete(job.id, &Scope::All).await.expect("deleted"));
        } else {
            writeln!(out, "committed {}", job.id).expect("the test listens");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_killed_leaves_a_whole_database() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let mut committed: Vec<JobId> = Vec::new();
    for round in 1..=5 {
        #[expect(
            clippy::disallowed_methods,
            reason = "this test program is started again, to be killed"
        )]
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "store::sqlite::writer_for_the_test_that_kills_it",
                "--nocapture",
            ])
            .env(WRITER, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = std::io::BufReader::new(writer.stdout.take().expect("piped")).lines();
        let mut heard = 0;
        let start = Instant::now();
        while heard < 20 || start.elapsed() < Duration::from_millis(50 * round) {
            let line = lines.next().expect("it writes on").expect("readable");
            if let Some(id) = line.strip_prefix("committed ") {
                committed.push(id.parse().expect("an id"));
                heard += 1;
            }
        }
        writer.kill().expect("killed");
        let left = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("committed ").map(str::to_owned));
        // The last line may be cut.
        committed.extend(left.filter_map(|id| id.parse::<JobId>().ok()));
        writer.wait().expect("it ended");

        let store = open(&path).await;
        let mut listed = 0;
        let mut after = None;
        loop {
            let page = Page { after, limit: 500 };
            let jobs = store.list(&Scope::All, &Filter::default(), page).await.expect("a page");
            let Some(last) = jobs.last() else { break };
            after = Some(last.id);
            listed += jobs.len();
        }
        let counts = store.counts(&Scope::All).await.expect("an answer");
        assert_eq!(
            counts.values().sum::<i64>(),
            i64::try_from(listed).expect("few"),
            "counters and rows"
        );
        for id in &committed {
            let job = store
                .job(*id, &Scope::All)
                .await
                .expect("an answer")
                .expect("what was committed is there");
            assert_eq!(job.state, State::Failed);
            assert_eq!(store.log(*id, 1, 9).await.expect("an answer").len(), 1);
        }
        store.close().await;
        let mut connection = raw(&path).await;
        let check = sqlx::query("PRAGMA integrity_check")
            .fetch_one(&mut connection)
            .await
            .expect("checked");
        assert_eq!(check.get::<String, _>(0), "ok");
        let sum = "SELECT (SELECT bytes FROM log_total), (SELECT coalesce(sum(length(data)), 0) FROM log_parts),
            (SELECT count(*) FROM job_labels), (SELECT count(*) FROM jobs)";
        let sum = sqlx::query(sum).fetch_one(&mut connection).await.expect("summed");
        assert_eq!(sum.get::<i64, _>(0), sum.get::<i64, _>(1));
        assert_eq!(sum.get::<i64, _>(2), sum.get::<i64, _>(3));
        connection.close().await.expect("closed");
    }
    assert!(committed.len() >= 100);
    assert!(committed.iter().all(|id| *id >= JobId::at(BEGIN_MS)));
}

#[tokio::test]
async fn counters_that_are_off_are_put_right() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let store = open(&path).await;
    let mut jobs = Vec::new();
    for ms in 0..9 {
        jobs.push(create(&store, new_job(["ada", "bob"][usize::from(ms % 3 == 0)], "counted", ms)).await);
    }
    bring(&store, &jobs[0], State::Running).await;
    assert_eq!(store.recount().await.expect("an answer"), 0);
    let scopes = [
        Scope::All,
        Scope::Owner("ada".into()),
        Scope::Owner("bob".into()),
        Scope::Owner("eve".into()),
    ];
    let mut right = Vec::new();
    for scope in &scopes {
        right.push(store.counts(scope).await.expect("an answer"));
    }
    let url = format!("sqlite:{}", path.display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.expect("opened");
    // One is gone, one is of nobody, and everybody's are off by more than there are.
    let wrong = "DELETE FROM job_counts WHERE owner = 'ada'; UPDATE job_totals SET n = n - 100 WHERE n > 0;";
    sqlx::raw_sql(wrong).execute(&mut other).await.expect("changed");
    assert!(store.recount().await.expect("an answer") > 100);
    for (scope, right) in scopes.iter().zip(right) {
        assert_eq!(store.counts(scope).await.expect("an answer"), right, "{scope:?}");
    }
    assert_eq!(store.recount().await.expect("an answer"), 0);
}

#[tokio::test]
async fn jobs_of_an_older_labctl_are_found_by_their_parameters() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("jobs.db");
    let store = open(&path).await;
    let url = format!("sqlite:{}", path.display());
    let mut other = sqlx::SqliteConnection::connect(&url).await.expect("opened");
    let long = "x".repeat(256);
    let parameters = serde_json::json!({
        "env": "prod \"a\" ü", "count": 3, "dry": false, "list": [1], "none": null, "long": long,
    });
    create(&store, made_with(0, &parameters)).await;
    create(&store, made_with(1, &serde_json::json!({"nul": "a\u{0}b", "env": "x"}))).await;
    // As it was before they were kept.
    let before =
        "DELETE FROM job_labels WHERE name LIKE 'parameter %'; DELETE FROM _sqlx_migrations WHERE version = 7;";
    sqlx::raw_sql(before).execute(&mut other).await.expect("changed");
    assert_eq!(found(&store, &[("count", "3")]).await, Vec::<i64>::new());
    drop(store);
    let store = open(&path).await;
    for asked in [("env", "prod \"a\" ü"), ("count", "3"), ("dry", "false")] {
        assert_eq!(found(&store, &[asked]).await, [0], "{asked:?}");
    }
    for asked in [("list", "[1]"), ("none", "null"), ("long", &long)] {
        assert_eq!(found(&store, &[asked]).await, Vec::<i64>::new(), "{asked:?}");
    }
}
