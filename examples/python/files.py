"""Reads and writes files of pgfiles by SQL alone. Usage: files.py CONNINFO PREFIX (such as `agents/7/`)."""

import hashlib
import sys

import psycopg

CHUNKED = "out/large.bin"


def main(conninfo: str, prefix: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as db:
        # A plain INSERT is a version: the trigger adds number, size, etag, times.
        note = prefix + "input.md"
        for text in (b"first\n", b"second\n"):
            db.execute("INSERT INTO pgfiles (key, data) VALUES (%s, %s)", (note, text))

        names = [row[0] for row in db.execute("SELECT key FROM pgfiles_live WHERE starts_with(key, %s) ORDER BY key", (prefix,))]
        print("files", *names)

        # pgfiles_read gives the bytes, whatever the layout; with a number, those of a version.
        now = db.execute("SELECT pgfiles_read(%s)", (note,)).fetchone()[0]
        before = db.execute("SELECT pgfiles_read(%s, 1)", (note,)).fetchone()[0]
        print("read", now.decode().strip(), before.decode().strip())
        for version, size in db.execute(
            "SELECT (meta->>'version')::bigint, (meta->>'size')::bigint FROM pgfiles_versions"
            " WHERE key = %s ORDER BY 1 DESC",
            (note,),
        ):
            print("version", version, size)

        # A large file that `pgfiles put` or a mount wrote: its rows are chunks, the bytes come the same way.
        row = db.execute(
            "SELECT meta ? 'layout', pgfiles_read(key) FROM pgfiles_live WHERE key = %s", (prefix + CHUNKED,)
        ).fetchone()
        if row is not None:
            print("chunked", row[0], len(row[1]), hashlib.sha256(row[1]).hexdigest())

        # A tombstone: the history stays.
        print("deleted as version", db.execute("SELECT pgfiles_delete(%s)", (note,)).fetchone()[0])
        assert db.execute("SELECT 1 FROM pgfiles_live WHERE key = %s", (note,)).fetchone() is None


main(*sys.argv[1:])
