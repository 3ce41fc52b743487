CREATE TABLE IF NOT EXISTS log (
    position INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    commits  TEXT    NOT NULL   -- JSON: [{commandId, actor, events: [{type, v, subject, data}]}]
) STRICT;

CREATE TABLE IF NOT EXISTS command (
    id       BLOB    PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS snapshot_head (
    fold     INTEGER PRIMARY KEY,
    id       BLOB    NOT NULL,
    position INTEGER NOT NULL,
    pieces   INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS snapshot_piece (
    id       BLOB    NOT NULL,
    n        INTEGER NOT NULL,
    fold     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    bytes    BLOB    NOT NULL,
    PRIMARY KEY (id, n)
) STRICT;
-- Earlier versions stored a snapshot in one piece.
DROP TABLE IF EXISTS snapshot;

CREATE TABLE IF NOT EXISTS vault (
    id     BLOB    PRIMARY KEY,
    put_at INTEGER NOT NULL,
    sealed BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS key_record (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    salt  BLOB NOT NULL,
    "check" BLOB NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS fencing (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    token INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO fencing VALUES (1, 0);
