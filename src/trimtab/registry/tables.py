"""The registry's tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from trimtab.store.metadata import metadata

HASH = String(64)

bases = Table(
    "bases",
    metadata,
    Column("hash", HASH, primary_key=True),
    Column("name", Text, nullable=False),
    Column("folder", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

# Models that make vectors of texts. Another encoder may take over a name.
encoders = Table(
    "encoders",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("hash", HASH, nullable=False),
    Column("folder", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("hash", HASH, primary_key=True),
    Column("project", Text, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("manifest", HASH, nullable=False),
    Column("counts", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

# Which records a dataset holds: what lineage needs to go from a source line to an answer.
records = Table(
    "records",
    metadata,
    Column("dataset_hash", HASH, ForeignKey("datasets.hash"), primary_key=True),
    Column("record_hash", HASH, primary_key=True),
    Column("split", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Index(None, "record_hash"),
)

versions = Table(
    "versions",
    metadata,
    Column("hash", HASH, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("base_hash", HASH, ForeignKey("bases.hash"), nullable=False),
    Column("adapter_artifact", HASH),
    Column("package_artifact", HASH),
    Column("run_id", Text),
    Column("dataset_hash", HASH, ForeignKey("datasets.hash")),
    Column("project", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "run_id"),
    Index(None, "dataset_hash"),
)

reports = Table(
    "reports",
    metadata,
    Column("hash", HASH, primary_key=True),
    Column("suite", Text, nullable=False),
    Column("version_hash", HASH, ForeignKey("versions.hash"), nullable=False),
    Column("runtime", Text, nullable=False),
    Column("items", HASH, nullable=False),
    Column("summary", Text, nullable=False),
    Column("dataset_hash", HASH, ForeignKey("datasets.hash")),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "version_hash"),
)

gates = Table(
    "gates",
    metadata,
    Column("hash", HASH, primary_key=True),
    Column("project", Text, nullable=False),
    Column("candidate", HASH, ForeignKey("versions.hash"), nullable=False),
    Column("incumbent", HASH, ForeignKey("versions.hash"), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index(None, "candidate"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("project", Text, nullable=False),
    Column("blue", HASH, ForeignKey("versions.hash")),
    Column("green", HASH, ForeignKey("versions.hash")),
    Column("live_slot", String(5), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("updated_us", BigInteger, nullable=False),
    CheckConstraint("live_slot IN ('blue', 'green')", name="live_slot"),
)

deployment_events = Table(
    "deployment_events",
    metadata,
    Column("deployment", String(64), ForeignKey("deployments.name"), primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("version_hash", HASH, ForeignKey("versions.hash"), nullable=False),
    Column("previous", HASH, ForeignKey("versions.hash")),
    Column("why", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Index(None, "version_hash"),
)
