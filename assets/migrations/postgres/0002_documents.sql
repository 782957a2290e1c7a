-- Templates and schedules: documents under names, with a version that grows with every change.
CREATE TABLE documents (
    kind       smallint NOT NULL,
    name       text     COLLATE "C" NOT NULL,
    owner      text     COLLATE "C" NOT NULL,
    version    bigint   NOT NULL,
    created_ms bigint   NOT NULL,
    changed_ms bigint   NOT NULL,
    document   text     NOT NULL,
    PRIMARY KEY (kind, name)
);

-- What documents were; not tied to them, for a job may have been made by one that is deleted since.
CREATE TABLE document_versions (
    kind       smallint NOT NULL,
    name       text     COLLATE "C" NOT NULL,
    version    bigint   NOT NULL,
    owner      text     COLLATE "C" NOT NULL,
    changed_ms bigint   NOT NULL,
    document   text     NOT NULL,
    PRIMARY KEY (kind, name, version)
);

-- Which version of its template made a job, and with what arguments.
CREATE TABLE job_origins (
    id         bigint PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    version    bigint NOT NULL,
    parameters text   NOT NULL
);

-- How far schedules came.
CREATE TABLE schedule_marks (
    name    text   COLLATE "C" PRIMARY KEY,
    done_ms bigint NOT NULL,
    job     bigint,
    said    text
);
