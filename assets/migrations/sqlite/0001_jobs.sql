-- The row of a job is all that a list reads; what is large or rarely read lies in tables of its own. The id is the
-- rowid, so every index on `jobs` is ordered by id within equal values, and a page of a list is one walk along an index.
CREATE TABLE jobs (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL,
    owner        TEXT    NOT NULL,
    state        INTEGER NOT NULL,
    reason       TEXT,
    message      TEXT,
    template     TEXT,
    labels       TEXT,
    parent       INTEGER,
    created_ms   INTEGER NOT NULL,
    started_ms   INTEGER,
    finished_ms  INTEGER,
    exit_code    INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    cancelling   INTEGER NOT NULL DEFAULT 0,
    log_complete INTEGER NOT NULL DEFAULT 0,
    -- Whether it needs work: it has not ended, or its log is not stored whole.
    open         INTEGER NOT NULL DEFAULT 1,
    version      INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX jobs_owner ON jobs (owner);
CREATE INDEX jobs_state ON jobs (state);
CREATE INDEX jobs_owner_state ON jobs (owner, state);
CREATE INDEX jobs_template ON jobs (template) WHERE template IS NOT NULL;
CREATE INDEX jobs_open ON jobs (open) WHERE open = 1;
CREATE INDEX jobs_finished ON jobs (finished_ms) WHERE finished_ms IS NOT NULL;

CREATE TABLE job_specs (
    id   INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    spec TEXT NOT NULL
) STRICT;

CREATE TABLE job_labels (
    name  TEXT    NOT NULL,
    value TEXT    NOT NULL,
    id    INTEGER NOT NULL,
    PRIMARY KEY (name, value, id)
) STRICT, WITHOUT ROWID;

-- Finds jobs by a part of their name. The tokens are the three-character parts that `store::gram` makes.
CREATE VIRTUAL TABLE job_names USING fts5(
    grams, content = '', contentless_delete = 1, detail = none, tokenize = "ascii tokenchars '-_.~!'"
);

CREATE TABLE job_keys (
    owner TEXT    NOT NULL,
    key   TEXT    NOT NULL,
    body  BLOB    NOT NULL,
    id    INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (owner, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_keys_id ON job_keys (id);

-- How many jobs there are, so that nobody counts them.
CREATE TABLE job_counts (
    owner TEXT    NOT NULL,
    state INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (owner, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_totals (
    state INTEGER PRIMARY KEY,
    n     INTEGER NOT NULL
) STRICT;

CREATE TABLE log_parts (
    job      INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    first    INTEGER NOT NULL,
    lines    INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    position TEXT    NOT NULL,
    data     BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_parts_first ON log_parts (job, first);
-- How many bytes `data` has in all parts.
CREATE TABLE log_total (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    bytes INTEGER NOT NULL
) STRICT;
INSERT INTO log_total (one, bytes) VALUES (1, 0);

CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    holder   TEXT    NOT NULL,
    ttl_ms   INTEGER NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
