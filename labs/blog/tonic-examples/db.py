"""Rows in and out of PostgreSQL, through psql and COPY: no driver to install."""

import csv
import io
import subprocess

TABLES = ["products", "customers", "addresses", "orders", "order_lines", "support_notes", "newsletter"]


def psql(database, command, stdin=None):
    """Runs one command and returns what it printed; psql's own words are the error."""
    args = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-At", "-d", database, "-c", command]
    done = subprocess.run(args, input=stdin, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise SystemExit(f"psql failed in the database {database}")
    return done.stdout


def read(database, query):
    """Returns the rows of a query as dictionaries of strings; NULL is the empty string."""
    text = psql(database, f"COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER)")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write(database, table, rows):
    """Fills a table."""
    if not rows:
        return
    text = io.StringIO(newline="")
    columns = list(rows[0])
    out = csv.DictWriter(text, columns, lineterminator="\n")
    out.writerows(rows)
    psql(database, f"COPY {table} ({', '.join(columns)}) FROM STDIN WITH (FORMAT csv)", text.getvalue())


def columns(database):
    """Returns (table, column, type) of all columns there are, not of those somebody thought of."""
    rows = read(
        database,
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' ORDER BY table_name, ordinal_position",
    )
    return [(row["table_name"], row["column_name"], row["data_type"]) for row in rows]
