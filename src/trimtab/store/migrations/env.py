"""Alembic's entry: runs the steps on the connection that `store.migrate` hands over."""

from alembic import context

# The caller has begun the transaction and ends it, so that a step is there whole or not at all.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
