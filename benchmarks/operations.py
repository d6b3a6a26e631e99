"""The operations that are compared, with their targets."""

from __future__ import annotations

from dataclasses import dataclass

EVERYBODY = ("vstorage", "raw", "sqlmodel", "original")
WITH_FILES = ("vstorage", "raw", "original")


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        work: Name of the function in `worker` that does it.
        count: How many records, calls or pages.
        short_count: The same in the short form; None leaves the operation out.
        users: Rows that are stored before.
        audited: Audit rows that are stored before.
        wall: Compare the time on the clock, on the disk, instead of CPU time in memory.
        at_most: Target: times what raw sqlite3 costs.
        at_least: Target: times faster than the original.
        max_growth_mb: Target: how much the process may grow meanwhile.
        most_rounds: For what takes long.
    """

    name: str
    title: str
    work: str
    count: int
    short_count: int | None
    users: int = 0
    audited: int = 0
    offset: int = 0
    wall: bool = False
    at_most: float | None = None
    at_least: float | None = None
    max_growth_mb: float | None = None
    most_rounds: int = 9
    contenders: tuple[str, ...] = EVERYBODY

    @property
    def measure(self) -> str:
        """Which figure of a run counts."""
        return "wall_us" if self.wall else "cpu_us"


def _audit(name: str, audited: int, short_count: int | None, at_least: float | None = None) -> list[Operation]:
    deep = audited * 3 // 4 - 200
    label = f"audit page of 100 out of {audited:,}"
    first = Operation(f"audit-{name}", label, "audit", 40, short_count, 1000, audited, at_least=at_least, most_rounds=3)
    return [
        first,
        Operation(
            f"audit-{name}-deep", f"{label}, deep", "audit", 40, None, 1000, audited, deep,
            at_least=at_least, most_rounds=3,
        ),
    ]  # fmt: skip


OPERATIONS = [
    Operation("insert", "insert, own transaction", "insert", 1000, 300, at_most=2.5, at_least=4.5),
    # So many that the median is of a log that has its size: while it grows, each sync writes that too.
    Operation("insert-disk", "insert on disk, clock", "insert", 1500, 100, wall=True, at_most=0.6, at_least=5),
    Operation("insert-joined", "insert inside one transaction", "insert_joined", 3000, 500, at_most=5, at_least=9),
    Operation("insert-many", "insert_many, 10,000 rows", "insert_many", 10_000, 2000, at_most=6, at_least=10),
    Operation(
        "insert-many-100k", "insert_many, 100,000 rows", "insert_many", 100_000, None,
        at_most=6, at_least=10, most_rounds=1,
    ),
    Operation("get", "get by id", "get", 5000, 1000, 10_000, at_most=4, at_least=6),
    Operation("all", "all(), 10,000 rows as objects", "all", 5, 2, 10_000, at_most=3.5, at_least=1.6),
    Operation("save", "save / update", "save", 1000, 300, 10_000, at_most=2.5, at_least=5),
    Operation("delete", "delete (soft)", "delete", 1000, 300, 10_000, at_most=2.5, at_least=5),
    Operation("delete-many", "delete_many, 10,000 rows", "delete_many", 10_000, 2000, 10_000, at_most=1.5, at_least=30),
    *_audit("10k", 10_000, 10),
    *_audit("100k", 100_000, None),
    *_audit("1m", 1_000_000, None, 100),
    Operation(
        "csv", "CSV export, 100,000 + 100,000 rows", "export_csv", 1, None, 100_000, 100_000,
        at_most=1.1, at_least=2.5, max_growth_mb=16, most_rounds=3, contenders=WITH_FILES,
    ),
    Operation(
        "backup", "backup, 200 MB", "backup", 1, None, 280_000, 280_000,
        wall=True, at_most=1.2, max_growth_mb=32, most_rounds=3, contenders=WITH_FILES,
    ),
    Operation(
        "restore", "restore, 200 MB", "restore", 1, None, 280_000, 280_000,
        wall=True, at_most=1.2, max_growth_mb=32, most_rounds=3, contenders=WITH_FILES,
    ),
    Operation(
        "restore-new", "restore, 200 MB, into an empty database", "restore_new", 1, None, 280_000, 280_000,
        wall=True, max_growth_mb=32, most_rounds=3, contenders=("vstorage", "raw"),
    ),
]  # fmt: skip

# What vstorage alone is asked, to see how costs grow.
SCALED = {
    "get": Operation("get", "get by id", "get", 3000, 500),
    "page": Operation("page", "first 100 of all()", "page", 300, 50),
    "insert": Operation("insert", "insert, own transaction", "insert", 500, 100),
    "save": Operation("save", "save", "save", 500, 100),
    "audit": Operation("audit", "audit page of 100", "audit", 40, 10),
}
