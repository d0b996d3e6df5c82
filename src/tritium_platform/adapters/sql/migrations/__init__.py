"""How the schema came to be: one file per change, run by `tritium_platform.adapters.sql.migrate`."""
