"""The books in SQL: SQLite embedded, PostgreSQL in production, one schema for both."""
