"""A Django database backend: SQLite, for whose one write lock all wait alike."""
