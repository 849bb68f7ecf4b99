"""PostgreSQL as this service uses it, for `DATABASES`; Django wants a package with a `base` in it."""
