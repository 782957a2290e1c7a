-- The row of a job is all that a list reads; what is large or rarely read lies in tables of its own. Every index on
-- `jobs` that lists use ends with the id, so a page of a list is one walk along an index. Texts that are compared are
-- compared by their bytes, whatever the database's locale is.
CREATE TABLE jobs (
    id           bigint   PRIMARY KEY,
    name         text     COLLATE "C" NOT NULL,
    owner        text     COLLATE "C" NOT NULL,
    state        smallint NOT NULL,
    reason       text,
    message      text,
    template     text     COLLATE "C",
    labels       text,
    parent       bigint,
    created_ms   bigint   NOT NULL,
    started_ms   bigint,
    finished_ms  bigint,
    exit_code    integer,
    attempts     integer  NOT NULL DEFAULT 0,
    cancelling   boolean  NOT NULL DEFAULT false,
    log_complete boolean  NOT NULL DEFAULT false,
    -- Whether it needs work: it has not ended, or its log is not stored whole.
    open         boolean  NOT NULL DEFAULT true,
    version      bigint   NOT NULL DEFAULT 1
);
CREATE INDEX jobs_owner ON jobs (owner, id);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_owner_state ON jobs (owner, state, id);
CREATE INDEX jobs_template ON jobs (template, id) WHERE template IS NOT NULL;
CREATE INDEX jobs_open ON jobs (id) WHERE open;
CREATE INDEX jobs_finished ON jobs (finished_ms, id) WHERE finished_ms IS NOT NULL;

CREATE TABLE job_specs (
    id   bigint PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    spec text   NOT NULL
);

CREATE TABLE job_labels (
    name  text   COLLATE "C" NOT NULL,
    value text   COLLATE "C" NOT NULL,
    id    bigint NOT NULL,
    PRIMARY KEY (name, value, id)
);

-- Finds jobs by a part of their name: numbers of the three-character parts that `store::gram` makes. Built in, unlike
-- pg_trgm, which not every database may install and which does not find one or two characters. The list of what is not
-- yet merged into the index is kept short, because every search reads it.
CREATE TABLE job_names (
    id    bigint    PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    grams integer[] NOT NULL
);
CREATE INDEX job_names_grams ON job_names USING gin (grams) WITH (gin_pending_list_limit = 256);

CREATE TABLE job_keys (
    owner text   COLLATE "C" NOT NULL,
    key   text   COLLATE "C" NOT NULL,
    body  bytea  NOT NULL,
    id    bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (owner, key)
);
CREATE INDEX job_keys_id ON job_keys (id);

-- How many jobs there are, so that nobody counts them; the sum over the shards. Those who create jobs at the same time
-- wait for each other's row, so there are a few rows of each.
CREATE TABLE job_counts (
    owner text     COLLATE "C" NOT NULL,
    state smallint NOT NULL,
    shard smallint NOT NULL,
    n     bigint   NOT NULL,
    PRIMARY KEY (owner, state, shard)
) WITH (fillfactor = 50);
CREATE TABLE job_totals (
    state smallint NOT NULL,
    shard smallint NOT NULL,
    n     bigint   NOT NULL,
    PRIMARY KEY (state, shard)
) WITH (fillfactor = 20);

CREATE TABLE log_parts (
    job      bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    first    bigint NOT NULL,
    lines    bigint NOT NULL,
    bytes    bigint NOT NULL,
    position text   NOT NULL,
    data     bytea  NOT NULL,
    PRIMARY KEY (job, first)
);
-- It is compressed already.
ALTER TABLE log_parts ALTER COLUMN data SET STORAGE EXTERNAL;
-- How many bytes `data` has in all parts; the sum over the shards.
CREATE TABLE log_totals (
    shard smallint PRIMARY KEY,
    bytes bigint   NOT NULL
) WITH (fillfactor = 20);

CREATE TABLE leases (
    name     text   PRIMARY KEY,
    holder   text   NOT NULL,
    ttl_ms   bigint NOT NULL,
    until_ms bigint NOT NULL
);
