"""The ledger: lifetimes, prices and hours of cost in a database, SQLite or PostgreSQL."""
