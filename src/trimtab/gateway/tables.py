"""The gateway's table of keys. Of a key's secret it holds a hash alone."""

from sqlalchemy import BigInteger, Column, String, Table, Text

from trimtab.store.metadata import metadata

keys = Table(
    "keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(32), nullable=False, index=True),
    Column("secret_hash", String(64), nullable=False),
    Column("owner", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("revoked_us", BigInteger),
)
