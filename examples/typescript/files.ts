// Reads and writes files of pgfiles by SQL alone. Usage: files.js URL PREFIX (such as `agents/7/`).
import { createHash } from "node:crypto";
import { Client } from "pg";

async function main(connectionString: string, prefix: string): Promise<void> {
    const db = new Client({ connectionString });
    await db.connect();
    try {
        // A plain INSERT is a version: the trigger adds number, size, etag, times.
        const note = prefix + "input.md";
        for (const text of ["first\n", "second\n"]) {
            await db.query("INSERT INTO pgfiles (key, data) VALUES ($1, $2)", [note, Buffer.from(text)]);
        }
        const live = await db.query("SELECT key FROM pgfiles_live WHERE starts_with(key, $1) ORDER BY key", [prefix]);
        console.log("files", ...live.rows.map((row) => row.key));

        // pgfiles_read gives the bytes, whatever the layout; with a number, those of a version.
        const read = await db.query("SELECT pgfiles_read($1) AS now, pgfiles_read($1, 1) AS before", [note]);
        console.log("read", read.rows[0].now.toString().trim(), read.rows[0].before.toString().trim());
        const versions = await db.query(
            "SELECT meta->>'version' AS version, meta->>'size' AS size FROM pgfiles_versions" +
                " WHERE key = $1 ORDER BY (meta->>'version')::bigint DESC",
            [note],
        );
        for (const row of versions.rows) console.log("version", row.version, row.size);

        // A large file that `pgfiles put` or a mount wrote is in chunks; the bytes come the same way.
        const large = await db.query(
            "SELECT meta ? 'layout' AS chunked, pgfiles_read(key) AS data FROM pgfiles_live WHERE key = $1",
            [prefix + "out/large.bin"],
        );
        for (const row of large.rows) {
            console.log("chunked", row.chunked, row.data.length, createHash("sha256").update(row.data).digest("hex"));
        }

        // A tombstone: the history stays.
        const deleted = await db.query("SELECT pgfiles_delete($1) AS version", [note]);
        console.log("deleted as version", deleted.rows[0].version);
    } finally {
        await db.end();
    }
}

await main(process.argv[2], process.argv[3]);
