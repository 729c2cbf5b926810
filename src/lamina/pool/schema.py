"""The tables of the catalogue that are the pool's: names, trees, figures, images. Those of the store come first."""

SCHEMA_VERSION = 3

POOL_SCHEMA = f"""
PRAGMA user_version = {SCHEMA_VERSION};
CREATE TABLE meta(name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE tree(
    root INTEGER PRIMARY KEY REFERENCES object(id),
    inodes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    directories INTEGER NOT NULL,
    data_bytes INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    decoded INTEGER NOT NULL,
    stamp INTEGER NOT NULL DEFAULT (random()),
    objects BLOB NOT NULL
) STRICT;
CREATE TABLE image(
    root INTEGER PRIMARY KEY REFERENCES tree(root) ON DELETE CASCADE,
    config TEXT,
    manifest TEXT,
    os TEXT,
    architecture TEXT,
    created TEXT
) STRICT;
CREATE TABLE image_layer(
    root INTEGER NOT NULL REFERENCES image(root) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    diff_id TEXT NOT NULL,
    digest TEXT,
    media_type TEXT,
    size INTEGER,
    tar_size INTEGER NOT NULL,
    PRIMARY KEY (root, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layer_diff_id ON image_layer(diff_id);
CREATE INDEX image_layer_digest ON image_layer(digest) WHERE digest IS NOT NULL;
CREATE TABLE blob(
    digest TEXT PRIMARY KEY,
    diff_id TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_diff_id ON blob(diff_id);
CREATE TABLE dataset(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    guid INTEGER NOT NULL,
    creation INTEGER NOT NULL,
    txg INTEGER NOT NULL,
    head INTEGER REFERENCES tree(root),
    follows INTEGER REFERENCES snapshot(id) ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    taken INTEGER NOT NULL DEFAULT 0,
    origin INTEGER REFERENCES snapshot(id) DEFERRABLE INITIALLY DEFERRED
) STRICT;
CREATE TABLE snapshot(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset INTEGER NOT NULL REFERENCES dataset(id),
    name TEXT NOT NULL,
    guid INTEGER NOT NULL,
    creation INTEGER NOT NULL,
    txg INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('snapshot', 'image')),
    root INTEGER REFERENCES tree(root),
    taken INTEGER NOT NULL,
    defer INTEGER NOT NULL DEFAULT 0,
    UNIQUE (dataset, name)
) STRICT;
CREATE INDEX dataset_origin ON dataset(origin) WHERE origin IS NOT NULL;
CREATE INDEX dataset_follows ON dataset(follows) WHERE follows IS NOT NULL;
CREATE TABLE hold(
    snapshot INTEGER NOT NULL REFERENCES snapshot(id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    creation INTEGER NOT NULL,
    PRIMARY KEY (snapshot, tag)
) STRICT, WITHOUT ROWID;
CREATE TABLE bookmark(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    guid INTEGER NOT NULL,
    creation INTEGER NOT NULL,
    txg INTEGER NOT NULL,
    UNIQUE (dataset, name)
) STRICT;
CREATE TABLE bookmark_objects(
    bookmark INTEGER PRIMARY KEY REFERENCES bookmark(id) ON DELETE CASCADE,
    objects BLOB NOT NULL
) STRICT;
CREATE TABLE partial(
    dataset INTEGER PRIMARY KEY REFERENCES dataset(id) ON DELETE CASCADE,
    guid INTEGER NOT NULL,
    source INTEGER,
    root BLOB,
    after BLOB NOT NULL,
    made INTEGER NOT NULL,
    token TEXT NOT NULL,
    objects BLOB NOT NULL
) STRICT;
CREATE TABLE received_property(
    dataset INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (dataset, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE received_snapshot(
    snapshot INTEGER PRIMARY KEY REFERENCES snapshot(id) ON DELETE CASCADE,
    source INTEGER NOT NULL
) STRICT;
CREATE TABLE pin(
    lease TEXT NOT NULL REFERENCES lease(name) ON DELETE CASCADE,
    root INTEGER NOT NULL REFERENCES tree(root),
    PRIMARY KEY (lease, root)
) STRICT, WITHOUT ROWID;
CREATE TABLE history(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    txg INTEGER NOT NULL,
    user TEXT NOT NULL,
    host TEXT NOT NULL,
    command TEXT NOT NULL
) STRICT;
CREATE TABLE scan(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL CHECK (state IN ('scanning', 'paused', 'finished', 'canceled')),
    started INTEGER NOT NULL,
    ended INTEGER,
    lease TEXT,
    rate INTEGER NOT NULL DEFAULT 0,
    pack INTEGER NOT NULL DEFAULT 0,
    offset INTEGER NOT NULL DEFAULT 0,
    examined INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    repaired INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    seconds INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE dataset_property(
    dataset INTEGER NOT NULL REFERENCES dataset(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (dataset, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshot_property(
    snapshot INTEGER NOT NULL REFERENCES snapshot(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (snapshot, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_roots ON snapshot(dataset, root, taken);
CREATE INDEX tree_totals ON tree(root, stamp, stored, decoded, data_bytes, files);
CREATE TABLE reach(
    dataset INTEGER PRIMARY KEY,
    own BLOB NOT NULL,
    whole BLOB NOT NULL,
    logical INTEGER NOT NULL,
    objects BLOB,
    once BLOB,
    below BLOB
) STRICT;
CREATE TABLE figure(
    dataset INTEGER NOT NULL,
    part TEXT NOT NULL,
    generation INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    decoded INTEGER NOT NULL,
    objects BLOB,
    PRIMARY KEY (dataset, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE share(
    dataset INTEGER NOT NULL,
    root INTEGER NOT NULL,
    part TEXT NOT NULL,
    generation INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    decoded INTEGER NOT NULL,
    objects BLOB,
    PRIMARY KEY (dataset, root, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE resized(object INTEGER PRIMARY KEY, stored INTEGER NOT NULL) STRICT;
CREATE TRIGGER object_resized AFTER UPDATE OF stored ON object WHEN old.stored <> new.stored BEGIN
    INSERT INTO resized(object, stored) VALUES (new.id, new.stored)
        ON CONFLICT(object) DO UPDATE SET stored = excluded.stored;
END;
"""
"""``tree``: every root that a name may refer to, with its totals and the row numbers of all objects it reaches (a
serialised 64-bit Roaring bitmap); one that no name refers to any more stays until gc has freed what it alone
reached. ``image``, ``image_layer``: what the image areas of trees say (``pool/importing/imageindex.py``), without a
config where the tree is a plain root file system; ``blob``: compressed forms of layers that were seen, so that they
need not come again. ``pin``: a process that reads a root keeps it, named or not. ``bookmark_objects``: what the
snapshot of a bookmark held, so that a stream can start there. ``partial``: what a receive that was cut has brought
(``pool/partials.py``). ``received_property``: what a stream last said of a dataset's properties, whether it holds or
was set otherwise here. ``received_snapshot``: snapshots that came by a stream, with the guid of their dataset there.
``scan``: the last scrub; sizes in bytes, times in seconds. ``snapshot.defer``: it goes with its last hold or clone.
``dataset.follows``: the image snapshot whose tree the head is, for a repository of images. ``taken``: logical bytes
taken in by the import or snapshot. ``tree.stamp`` tells the row of a root from one of the same root that was made
anew. ``reach``, ``figure``, ``share``: results of accounting (``pool/figures/ledger.py``);
``resized``: objects whose sizes have changed since."""
