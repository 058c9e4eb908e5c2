"""Schema changes as numbered SQL files: each is applied once, in order, in a transaction of its own."""

from importlib.resources import files

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session

_LOCK = 0x43616C6C  # "Call": one migration at a time, however many processes start together
_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    package text NOT NULL, version text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, version)
)"""


def migrate(database: PooledPostgresqlDatabase, package: str = "tasks.migrations") -> list[str]:
    """Apply what is missing of the ``NNNN_name.sql`` files in ``package``; the names applied."""
    with session(database):
        database.execute_sql("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            database.execute_sql(_LEDGER)
            return [name for name, sql in pending(database, package) if _apply(database, package, name, sql)]
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def pending(database: PooledPostgresqlDatabase, package: str = "tasks.migrations") -> list[tuple[str, str]]:
    """The ``(name, SQL)`` of the files in ``package`` that this database has not seen, in order."""
    rows = database.execute_sql("SELECT version FROM schema_migrations WHERE package = %s", (package,))
    known = {version for (version,) in rows.fetchall()}
    scripts = sorted((f for f in files(package).iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(f.name, f.read_text(encoding="utf-8")) for f in scripts if f.name not in known]


def _apply(database: PooledPostgresqlDatabase, package: str, name: str, sql: str) -> bool:
    with database.atomic():
        database.connection().execute(sql)  # not execute_sql: a % in a script is no placeholder
        database.execute_sql(
            "INSERT INTO schema_migrations (package, version) VALUES (%s, %s)", (package, name)
        )
    return True
