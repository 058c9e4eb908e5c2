"""The document store's schema: `tasks.migrations.migrate(database, store.MIGRATIONS)` applies it."""
