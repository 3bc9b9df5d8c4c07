"""The database tests on other versions of PostgreSQL: ``python -m tests.matrix``."""
