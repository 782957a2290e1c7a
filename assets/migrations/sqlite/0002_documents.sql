-- Templates and schedules: documents under names, with a version that grows with every change.
CREATE TABLE documents (
    kind       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    owner      TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    document   TEXT    NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- What documents were; not tied to them, for a job may have been made by one that is deleted since.
CREATE TABLE document_versions (
    kind       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    owner      TEXT    NOT NULL,
    changed_ms INTEGER NOT NULL,
    document   TEXT    NOT NULL,
    PRIMARY KEY (kind, name, version)
) STRICT, WITHOUT ROWID;

-- Which version of its template made a job, and with what arguments.
CREATE TABLE job_origins (
    id         INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    version    INTEGER NOT NULL,
    parameters TEXT    NOT NULL
) STRICT;

-- How far schedules came.
CREATE TABLE schedule_marks (
    name    TEXT    PRIMARY KEY,
    done_ms INTEGER NOT NULL,
    job     INTEGER,
    said    TEXT
) STRICT, WITHOUT ROWID;
