"""The tables of the first release: a new store gets the newest tables at once, without alembic."""

revision, down_revision = "1", None


def upgrade() -> None:
    """Change nothing: every store has these tables."""
