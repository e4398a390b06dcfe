"""Tables of the ledger. Money is the text of a decimal and time whole unix seconds: no database rounds them."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, MetaData, String, Table, Text

# 1: until 0.1. 2: tables `usage`, `policy` and `labels`. 3: the last columns of `usage`, which count nothing of the
# time before, and table `offer`. 4: `day`, `usage_day`, `span` and `hole`. A ledger of an older version gets the
# tables that it lacks, empty: of usage nothing is made up for the time before, days are added up. 5: payers may have
# labels besides `team`; those that have none are the same text, and so the same payers, as before.
VERSION = 5

# the counts of model.money.UsageRow, in its order
USAGE = (
    "input_tokens",
    "output_tokens",
    "seen_gpu_s",
    "rated_gpu_s",
    "used_gpu_s",
    "weighed_tokens",
    "weighed_work",
    "watched_s",
    "acting_s",
    "held_gpu_s",
    "advised_gpu_s",
    "compared_s",
    "ran_gpu_s",
    "hpa_gpu_s",
)
USAGE_OF_2 = USAGE[:11]  # what version 2 has of them

metadata = MetaData()
# version, epoch of the leader, watermark, how far hours and days are rolled up and usage is written, from when on
# lifetimes and hours are kept
meta = Table("meta", metadata, Column("key", String(32), primary_key=True), Column("value", Text, nullable=False))
payer = Table(
    "payer",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("body", Text, nullable=False, unique=True),
)
lifetime = Table(
    "lifetime",
    metadata,
    Column("uid", String(80), primary_key=True),
    Column("begin_s", BigInteger, primary_key=True, autoincrement=False),
    Column("payer_id", ForeignKey("payer.id"), nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("seen_s", BigInteger, nullable=False),
    Column("end_s", BigInteger, index=True),
    Column("node", String(80), nullable=False),
    Column("is_node", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),
)
price = Table(
    "price",
    metadata,
    Column("pool", String(253), primary_key=True),
    # when it became known; from when on it holds is in its body, and before version 4 it is the same
    Column("from_s", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)


def _costs(name: str, time: str) -> Table:
    """GPU-seconds by time, payer and price."""
    return Table(
        name,
        metadata,
        Column(time, BigInteger, primary_key=True, autoincrement=False),
        Column("payer_id", ForeignKey("payer.id"), primary_key=True),
        Column("idle", Boolean, primary_key=True),
        Column("price", String(40), primary_key=True),  # empty: nobody knows
        Column("currency", String(3), primary_key=True),
        Column("gpu_seconds", BigInteger, nullable=False),
        Column("estimated_s", BigInteger, nullable=False),
        sqlite_with_rowid=False,  # half the file: the key is most of the row
    )


def _counts(name: str, time: str) -> Table:
    """Usage by time and payer."""
    return Table(
        name,
        metadata,
        Column(time, BigInteger, primary_key=True, autoincrement=False),
        Column("payer_id", ForeignKey("payer.id"), primary_key=True),
        *(Column(column, BigInteger, nullable=False, server_default="0") for column in USAGE),
        sqlite_with_rowid=False,
    )


hour, usage = _costs("hour", "hour_s"), _counts("usage", "hour_s")
# days that hours are added up to, [begin_s, end_s): what a span has said stays, whatever the time zone is later on
span = Table(
    "span",
    metadata,
    Column("begin_s", BigInteger, primary_key=True, autoincrement=False),
    Column("end_s", BigInteger, nullable=False),
)
day, usage_day = _costs("day", "begin_s"), _counts("usage_day", "begin_s")
# time of which something is missing or was filled in by a guess, in words
hole = Table(
    "hole",
    metadata,
    Column("from_s", BigInteger, primary_key=True, autoincrement=False),
    Column("to_s", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
policy = Table(
    "policy",
    metadata,
    Column("name", String(253), primary_key=True),
    Column("from_s", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
labels = Table(
    "labels",
    metadata,
    Column("service", String(320), primary_key=True),
    Column("from_s", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
offer = Table(
    "offer",
    metadata,
    Column("service", String(320), primary_key=True),
    Column("from_s", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
