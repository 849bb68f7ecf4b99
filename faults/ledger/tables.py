"""The two tables that the handlers write to: neither keeps an effect from being there twice."""

from faults.databases import Database

_NUMBER = {"sqlite": "integer PRIMARY KEY", "postgresql": "bigserial PRIMARY KEY"}


def make(database: Database) -> None:
    """Make the tables; `faults_effect` has a row for each effect, in the order of their transactions' inserts."""
    number = _NUMBER[database.vendor]
    database.run(
        f"CREATE TABLE faults_effect (id {number}, reference varchar(40), event_id bigint, subject varchar(255))"
    )
    database.run("CREATE TABLE faults_keyed (key varchar(64) PRIMARY KEY, reference varchar(40))")
