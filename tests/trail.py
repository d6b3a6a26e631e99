"""What tests ask the audit trail."""

from __future__ import annotations

from typing import Any

from sqlmodel import col, select

from vstorage_core import AuditLog, Storage


def trail(storage: Storage) -> list[AuditLog]:
    """All audit rows, oldest first."""
    with storage.use_session() as session:
        return list(session.exec(select(AuditLog).order_by(col(AuditLog.id))).all())


def history(storage: Storage) -> list[tuple[str, str, Any]]:
    """What was done to what: (component, operation, record_id) of every audit row, oldest first."""
    return [(row.component, row.operation, row.record_id) for row in trail(storage)]
