"""proxytune's tables in a study's database, beside those of Optuna."""

import sqlalchemy as sa

metadata = sa.MetaData()

drivers = sa.Table(
    "proxytune_driver",
    metadata,
    sa.Column("study", sa.String(255), primary_key=True),  # name: a lease is acquired before the study exists
    sa.Column("epoch", sa.Integer, nullable=False),  # fencing token, incremented by each driver
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Column("host", sa.String(255), nullable=False, default=""),
    sa.Column("pid", sa.Integer, nullable=False, default=0),
    sa.Column("place", sa.String(255), nullable=False, default=""),  # boot and PID namespace; "": unknown
    sa.Column(
        "started", sa.BigInteger, nullable=False, default=0
    ),  # start of the process, in ticks after boot
    sa.Column("renewals", sa.BigInteger, nullable=False, default=0),
    sa.Column("renewed", sa.DateTime(timezone=True), nullable=False),  # by the database's clock
)

requests = sa.Table(
    "proxytune_request",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.String(64), nullable=False, index=True),  # its id
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("who", sa.String(255), nullable=False),
    sa.Column("posted", sa.DateTime(timezone=True), nullable=False),  # by the database's clock
    sa.Column("epoch", sa.Integer),  # of the driver that handled it; null: pending
)
