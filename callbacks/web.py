"""How the web server is started, which depends on the database."""

# SQLite has one writer: threads of one process queue for it in memory, processes would poll for its lock.
GRANIAN_OPTIONS = {
    "sqlite": ["--workers", "1", "--blocking-threads", "4"],
    "postgresql": ["--workers", "2", "--blocking-threads", "4"],
}
