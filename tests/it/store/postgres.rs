//! What only PostgreSQL does: connections that break, replicas, and who hears what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use labctl::dashboard::job::State;
use labctl::dashboard::store::postgres::Postgres;
use labctl::dashboard::store::{Changed, Filter, JobStore, MinDuration, Page, Scope, StoreError};
use sqlx::{Connection as _, Row as _};
use tokio::sync::broadcast::Receiver;

use super::parameters::{found, made_with};
use super::{Place, bring, chunk, create, new_job, to_state};
use crate::postgres::{Cluster, Setup, shared};

/// How long a store may take to heal after its database is back.
const HEALS: Duration = Duration::from_secs(15);

async fn open(url: &str) -> Postgres {
    Postgres::open(url).await.expect("opened")
}

/// Makes a store in a database of its own; nothing where PostgreSQL is not installed.
pub(super) async fn place() -> Option<Place> {
    let url = shared().await?.database().await;
    Some(Place {
        store: Arc::new(open(&url).await),
        _keep: Box::new(()),
    })
}

async fn raw(url: &str) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(url).await.expect("connected")
}

async fn next(changes: &mut Receiver<Changed>) -> Changed {
    let change = tokio::time::timeout(HEALS, changes.recv()).await.expect("told in time");
    change.expect("no receiver lags here")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_start_at_once_on_a_new_database_and_hear_each_other() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = url.clone();
        starts.spawn(async move { open(&url).await });
    }
    let replicas = starts.join_all().await;
    let mut heard = replicas[1].changes();
    let job = create(&replicas[0], new_job("ada", "shared", 0)).await;
    assert_eq!(next(&mut heard).await, Changed::Job(job.clone()));
    assert_eq!(
        replicas[1].job(job.id, &Scope::All).await.expect("an answer"),
        Some(job)
    );
    assert!(replicas[0].name().starts_with("PostgreSQL 1"), "{}", replicas[0].name());
}

#[tokio::test]
async fn this_labctl_runs_on_the_database_of_a_newer_one() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    drop(open(&url).await);
    let newer = "ALTER TABLE jobs ADD COLUMN priority integer NOT NULL DEFAULT 0; CREATE TABLE later (id bigint);
        INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'later', true, '\\x00', 1)";
    sqlx::raw_sql(newer)
        .execute(&mut raw(&url).await)
        .await
        .expect("a newer schema");
    let store = open(&url).await;
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
    sqlx::raw_sql("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1")
        .execute(&mut raw(&url).await)
        .await
        .expect("edited");
    let error = Postgres::open(&url).await.err().expect("refused");
    let told = format!("{:#}", anyhow::Error::new(error));
    assert!(
        told.contains("migration 1 of this database is not the one of this labctl"),
        "{told}"
    );
}

/// Ends every connection to a database but this one.
async fn cut(url: &str) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let row = sqlx::query(sql).fetch_one(&mut raw(url).await).await.expect("cut");
    assert!(row.get::<i64, _>(0) >= 1, "there was nothing to cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_mended_and_who_listens_is_told() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = open(&url).await;
    store.ping().await.expect("an answer");
    let mut changes = store.changes();
    cut(&url).await;
    assert_eq!(next(&mut changes).await, Changed::Missed);
    let job = create(&store, new_job("ada", "after", 0)).await;
    assert_eq!(next(&mut changes).await, Changed::Job(job));
}

/// Asks until there is an answer, and returns the errors before it.
async fn healed(store: &Postgres, since: Instant) -> Vec<StoreError> {
    let mut errors = Vec::new();
    loop {
        match store.counts(&Scope::All).await {
            Ok(_) => return errors,
            Err(error) => errors.push(error),
        }
        assert!(since.elapsed() < HEALS, "not healed: {errors:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_restarted_under_an_open_store() {
    let setup = Setup {
        fsync: "on",
        buffers: "16MB",
    };
    let Some(cluster) = Cluster::start(setup).await else {
        return;
    };
    let url = cluster.database().await;
    let store = open(&url).await;
    let mut changes = store.changes();
    let job = create(&store, new_job("ada", "survives", 0)).await;
    assert_eq!(next(&mut changes).await, Changed::Job(job.clone()));
    // INT ends it in order, QUIT as a crash would: it recovers from its log.
    for (round, signal) in ["INT", "QUIT"].into_iter().enumerate() {
        cluster.tell(signal);
        let start = Instant::now();
        let down = store.ping().await.expect_err("it is down");
        assert!(matches!(down, StoreError::Unavailable(_)), "{down:?}");
        let down = store
            .create(new_job("ada", "refused", 1))
            .await
            .expect_err("it is down");
        assert!(matches!(down, StoreError::Unavailable(_)), "{down:?}");
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "it took {:?} to say so",
            start.elapsed()
        );
        cluster.tell("start");
        let start = Instant::now();
        let errors = healed(&store, start).await;
        assert!(
            errors.iter().all(|error| matches!(error, StoreError::Unavailable(_))),
            "{errors:?}"
        );
        assert_eq!(next(&mut changes).await, Changed::Missed);
        let ms = i64::try_from(round).expect("small") + 2;
        let again = create(&store, new_job("ada", "again", ms)).await;
        assert_eq!(next(&mut changes).await, Changed::Job(again));
        assert!(start.elapsed() < HEALS);
    }
    assert_eq!(store.job(job.id, &Scope::All).await.expect("an answer"), Some(job));
    assert_eq!(store.counts(&Scope::All).await.expect("an answer")[&State::Pending], 3);
}

#[tokio::test]
async fn what_the_database_refuses_is_told_for_what_it_is() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = open(&url).await;
    let job = create(&store, new_job("ada", "held", 0)).await;
    let mut other = raw(&url).await;
    let mut holding = other.begin().await.expect("begun");
    let hold = sqlx::query("SELECT 1 FROM jobs WHERE id = $1 FOR UPDATE").bind(job.id.number());
    hold.execute(&mut *holding).await.expect("held");
    let late = store
        .change(job.id, 1, &to_state(State::Running))
        .await
        .expect_err("the row is held");
    assert!(matches!(late, StoreError::Timeout(_)), "{late:?}");
    holding.rollback().await.expect("let go");
    bring(&store, &job, State::Running).await;

    // A database that its keeper has closed for writing: a standby, or a disk that is full.
    sqlx::raw_sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$")
        .execute(&mut other)
        .await
        .expect("closed for writing");
    cut(&url).await;
    healed(&store, Instant::now()).await;
    let full = store.create(new_job("ada", "refused", 1)).await.expect_err("read-only");
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    let full = store
        .append_log(job.id, &chunk(1, 1, "x"))
        .await
        .expect_err("read-only");
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    store
        .job(job.id, &Scope::All)
        .await
        .expect("reading goes on")
        .expect("there");
}

#[tokio::test]
async fn an_unknown_database_and_a_wrong_address_are_told_without_the_address() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.url("absent").replace("labctl@", "labctl:s3cret@");
    let error = Postgres::open(&url).await.err().expect("refused");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let debug = format!("{error:?}");
    let told = format!("{debug} {:#}", anyhow::Error::new(error));
    assert!(told.contains("`absent`") && !told.contains("s3cret"), "{told}");
}

/// How often tables were read from end to end, and how many entries of indexes were read.
async fn read(url: &str, store: &Postgres) -> (i64, i64) {
    // Sessions tell what they did when they end; else at some time.
    cut(url).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    healed(store, Instant::now()).await;
    let mut connection = raw(url).await;
    let sql = "SELECT coalesce(sum(seq_scan), 0)::bigint,
            (SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes)
        FROM pg_stat_user_tables WHERE relname IN ('jobs', 'job_labels', 'job_names', 'job_counts', 'job_keys')";
    let row = sqlx::query(sql).fetch_one(&mut connection).await.expect("statistics");
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_list_reads_a_table_from_end_to_end() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = Arc::new(open(&url).await);
    let mut work = tokio::task::JoinSet::new();
    for part in 0..8_i64 {
        let store = Arc::clone(&store);
        work.spawn(async move {
            for number in (0..6000).filter(|number| number % 8 == part) {
                let mut new = new_job(
                    ["ada", "bob"][usize::try_from(number / 3 % 2).expect("small")],
                    "nightly-build",
                    number,
                );
                new.template = (number % 2 == 0).then(|| "etl".into());
                new.spec.labels.insert(
                    "tier".into(),
                    ["web", "db", "x"][usize::try_from(number % 3).expect("small")].into(),
                );
                new.spec.name = format!("nightly-{number}");
                create(&*store, new).await;
            }
        });
    }
    work.join_all().await;
    for analysed in [false, true] {
        if analysed {
            sqlx::raw_sql("VACUUM ANALYZE")
                .execute(&mut raw(&url).await)
                .await
                .expect("analysed");
        }
        let (scans, _) = read(&url, &store).await;
        let page = Page { after: None, limit: 50 };
        let label = [("tier".to_owned(), "web".to_owned())];
        for bits in 0..32_u32 {
            let filter = Filter {
                states: if bits & 1 > 0 {
                    vec![State::Pending, State::Running]
                } else {
                    vec![]
                },
                owner: (bits & 2 > 0).then(|| "ada".to_owned()),
                labels: if bits & 4 > 0 { label.clone().into() } else { [].into() },
                text: (bits & 8 > 0).then(|| "ly-4".to_owned()),
                template: (bits & 16 > 0).then(|| "etl".into()),
                ..Filter::default()
            };
            assert_eq!(
                store.list(&Scope::All, &filter, page).await.expect("a page").len(),
                50,
                "{filter:?}"
            );
        }
        store.unfinished(None, 10).await.expect("jobs");
        store.expired(0, None, 10).await.expect("jobs");
        store.newest().await.expect("an id");
        store.counts(&Scope::Owner("ada".into())).await.expect("counters");
        let (after, _) = read(&url, &store).await;
        assert_eq!(after, scans, "a table was read from end to end (analysed: {analysed})");
        // A database that knows nothing of a table yet is the one that gathers a whole index and sorts it.
        let one = |filter: Filter| (filter, 10 * 50..10 * 200);
        let asks = [
            one(Filter::default()),
            one(Filter {
                owner: Some("ada".into()),
                ..Filter::default()
            }),
            one(Filter {
                states: vec![State::Pending],
                ..Filter::default()
            }),
            one(Filter {
                template: Some("etl".into()),
                ..Filter::default()
            }),
            // An entry of the label's index, and the job's.
            (
                Filter {
                    labels: label.clone().into(),
                    ..Filter::default()
                },
                10 * 50..10 * 400,
            ),
        ];
        for (filter, entries) in asks {
            let (_, before) = read(&url, &store).await;
            for _ in 0..10 {
                store.list(&Scope::All, &filter, page).await.expect("a page");
            }
            let (_, after) = read(&url, &store).await;
            assert!(
                entries.contains(&(after - before)),
                "{} entries of indexes for ten pages of 50 (analysed: {analysed}): {filter:?}",
                after - before
            );
        }
    }
}

/// Makes an authority, and a server's certificate for `localhost` by it: the authority, the certificate, its key.
fn certificates() -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signing = KeyPair::generate().expect("a key");
    let root = authority.self_signed(&signing).expect("signed").pem();
    let issuer = Issuer::new(authority, signing);
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let key = KeyPair::generate().expect("a key");
    let certificate = server.signed_by(&key, &issuer).expect("signed").pem();
    (root, certificate, key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_to_the_server_that_is_meant() {
    let setup = Setup {
        fsync: "off",
        buffers: "16MB",
    };
    let Some(cluster) = Cluster::start(setup).await else {
        return;
    };
    let (root, certificate, key) = certificates();
    let certificate = cluster.file("server.crt", &certificate);
    let key = cluster.file("server.key", &key);
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut connection = raw(&cluster.url("postgres")).await;
    for setting in [
        "listen_addresses = '127.0.0.1'".to_owned(),
        format!("port = {port}"),
        format!("ssl_cert_file = '{}'", certificate.display()),
        format!("ssl_key_file = '{}'", key.display()),
        "ssl = on".to_owned(),
    ] {
        let sql = sqlx::AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"));
        sqlx::query(sql).execute(&mut connection).await.expect("set");
    }
    connection.close().await.expect("closed");
    cluster.tell("INT");
    cluster.tell("start");
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, pem: &str| {
        let path = dir.path().join(name);
        labctl::drive::files::write(&path, pem).expect("written");
        path.display().to_string()
    };
    let (root, other) = (write("root.pem", &root), write("other.pem", &certificates().0));
    let url = |host: &str, more: &str| format!("postgres://labctl:s3cret@{host}:{port}/postgres?{more}");
    let start = Instant::now();
    while let Err(error) = sqlx::PgConnection::connect(&url("localhost", "sslmode=require")).await {
        assert!(start.elapsed() < HEALS, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for right in [
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca&sslrootcert={root}"),
        format!("sslmode=verify-full&sslrootcert={root}"),
    ] {
        let url = url("localhost", &right);
        let mut connection = raw(&url).await;
        let encrypted: bool = sqlx::query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .expect("an answer")
            .get(0);
        assert!(encrypted, "{right}");
        let store = open(&url).await;
        let mut changes = store.changes();
        let job = create(&store, new_job("ada", "secret", 0)).await;
        assert_eq!(
            next(&mut changes).await,
            Changed::Job(job),
            "who listens is encrypted too: {right}"
        );
    }
    for (host, wrong) in [
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        (
            "localhost",
            "sslmode=verify-full&sslrootcert=/nowhere/root.pem".to_owned(),
        ),
        // Its certificate is for a name.
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root}")),
    ] {
        let error = Postgres::open(&url(host, &wrong))
            .await
            .err()
            .expect("it is not trusted");
        let told = format!("{error:?}");
        assert!(!told.contains("s3cret"), "{told}");
        assert!(!matches!(error, StoreError::Full(_) | StoreError::KeyReused), "{told}");
    }
}

#[tokio::test]
async fn an_index_that_was_left_half_made_is_made_again() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    drop(open(&url).await);
    // As a server leaves it that ends while it makes the index beside those who write.
    let half = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_template_state'::regclass;
        DELETE FROM _sqlx_migrations WHERE version = 3";
    let mut connection = raw(&url).await;
    sqlx::raw_sql(half).execute(&mut connection).await.expect("half made");
    let store = open(&url).await;
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'jobs_template_state'::regclass";
    let row = sqlx::query(sql).fetch_one(&mut connection).await.expect("it is there");
    assert!(row.get::<bool, _>(0), "it can be used");
    create(&store, new_job("ada", "after", 0)).await;
}

/// Every filter that a list may have, by kind.
fn filters() -> impl Iterator<Item = Filter> {
    (0..128_u32).map(|bits| Filter {
        states: match bits & 3 {
            0 => vec![],
            1 => vec![State::Succeeded],
            _ => vec![State::Failed, State::Running, State::Pending],
        },
        owner: (bits & 4 > 0).then(|| "ada".to_owned()),
        labels: if bits & 8 > 0 {
            [("team".into(), "t1".into())].into()
        } else {
            [].into()
        },
        text: (bits & 16 > 0).then(|| "night".to_owned()),
        template: (bits & 32 > 0).then(|| "etl".to_owned()),
        min_duration: (bits & 64 > 0).then_some(MinDuration { ms: 60_000, now_ms: 9 }),
        ..Filter::default()
    })
}

/// Returns the index that a statement which is planned once has to be run along.
fn index_of(sql: &str) -> &'static str {
    let walks = [
        ("(owner, state, id) <", "using jobs_owner_state on jobs"),
        ("(owner, id) <", "using jobs_owner on jobs"),
        ("(template, state, id) <", "using jobs_template_state on jobs"),
        ("(template, id) <", "using jobs_template on jobs"),
        ("(state, id) <", "using jobs_state on jobs"),
        ("FROM job_labels WHERE id <", "using job_labels_pkey on job_labels"),
    ];
    let found = walks.into_iter().find(|(walk, _)| sql.contains(walk));
    found.map_or("using jobs_pkey on jobs", |(_, index)| index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_planned_alike_whatever_the_database_knows_of_its_tables() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = open(&url).await;
    let mut planned = Vec::new();
    // A table of which nothing is known; then one in which every job is of one owner, in one state and of one template,
    // so that an index over those says nothing and another one might as well be walked.
    for round in ["new", "one of each"] {
        if round == "one of each" {
            let seed = "INSERT INTO jobs (id, name, owner, state, template, created_ms, open)
                SELECT n, 'nightly-' || n, 'ada', 4, 'etl', n, false FROM generate_series(1, 20000) n;
                INSERT INTO job_labels (name, value, id) SELECT 'team', 't1', n FROM generate_series(1, 20000) n;
                ANALYZE";
            let mut connection = raw(&url).await;
            sqlx::raw_sql(seed).execute(&mut connection).await.expect("seeded");
        }
        // Connections that were open before have their plans already.
        let store = open(&url).await;
        let mut once = 0;
        for filter in filters() {
            for (sql, plan) in store.plans(&filter).await.expect("plans") {
                assert!(!plan.contains("Seq Scan on jobs"), "{round}: {sql}\n{plan}");
                assert!(!plan.contains("Incremental Sort"), "{round}: {sql}\n{plan}");
                // Rows are looked up for the walk's ids, and no walk is looked through for each row.
                assert!(!plan.contains("Join Filter"), "{round}: {sql}\n{plan}");
                if sql.contains("UNION ALL") || sql.contains("grams") {
                    continue;
                }
                assert!(plan.contains(index_of(&sql)), "{round}: {sql}\n{plan}");
                // The walk ends where it may, so nothing within it is put in order first.
                let walk = plan
                    .find("Limit")
                    .and_then(|start| plan[start..].rfind("Limit").map(|last| start + last));
                let walk = &plan[walk.unwrap_or_default()..];
                assert!(
                    !walk.contains("Sort") && walk.contains("Index"),
                    "{round}: {sql}\n{plan}"
                );
                once += 1;
            }
        }
        planned.push(once);
    }
    assert!(planned[0] > 100 && planned[0] == planned[1], "{planned:?}");
    drop(store);
}

#[tokio::test]
async fn counters_that_are_off_are_put_right() {
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = open(&url).await;
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
    let mut other = raw(&url).await;
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
    let Some(cluster) = shared().await else { return };
    let url = cluster.database().await;
    let store = open(&url).await;
    let mut other = raw(&url).await;
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
    let store = open(&url).await;
    for asked in [("env", "prod \"a\" ü"), ("count", "3"), ("dry", "false")] {
        assert_eq!(found(&store, &[asked]).await, [0], "{asked:?}");
    }
    for asked in [("list", "[1]"), ("none", "null"), ("long", &long)] {
        assert_eq!(found(&store, &[asked]).await, Vec::<i64>::new(), "{asked:?}");
    }
}
