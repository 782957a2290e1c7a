-- Who did what. Entries are never changed; see `store::audit`. The newest one never leaves, so no number is given twice.
CREATE TABLE audit (
    number     INTEGER PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    verb       TEXT    NOT NULL,
    object     TEXT    NOT NULL,
    owner      TEXT    NOT NULL,
    was        TEXT,
    became     TEXT,
    request_id TEXT,
    ip         TEXT
) STRICT;
CREATE INDEX audit_object ON audit (object);
CREATE INDEX audit_owner ON audit (owner);

CREATE TABLE audit_seals (
    place    INTEGER PRIMARY KEY,
    first    INTEGER NOT NULL,
    last     INTEGER NOT NULL,
    entries  INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    previous BLOB    NOT NULL,
    digest   BLOB    NOT NULL
) STRICT;
