"""Compare vstorage with raw sqlite3, plain SQLModel and the original.

python -m benchmarks [--short] [--only NAME]... [--rounds N] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median as median_of
from typing import Any

from benchmarks import web
from benchmarks.load import CONNECTIONS, describe_client
from benchmarks.operations import OPERATIONS, SCALED, Operation
from benchmarks.report import against, chart, duration, number, operation_row, operation_table, table
from benchmarks.rounds import ORIGINAL_VARIABLE, ROOT, Bench, interleave, median, open_bench, ratio

TITLES = {
    "vstorage": "vstorage",
    "original": "original",
    "sqlmodel": "SQLModel",
    "fastcrud": "FastCRUD",
    "datasette": "Datasette",
}
# What the short form measures beside the operations and the web APIs.
IN_SHORT = ("import", "csv-import")
IMPORT_EXTRA_MS = 25
MOST_GROWTH_OF_COST = 2
MOST_COST_OF_IMPORT = 3
MOST_GROWTH_OF_IMPORT_MB = 64


def compare_operations(bench: Bench, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The operations in one process."""
    rows = []
    for operation in OPERATIONS:
        if not wanted(operation.name) or (bench.short and operation.short_count is None):
            continue
        progress(operation.name)
        rows.append(operation_row(operation, bench.measure(operation)))
        # The last ones on the large databases.
        if operation.name in ("audit-1m-deep", "restore-new"):
            bench.drop_filled()
    if rows:
        print(f"\n{operation_table(rows)}\n")
        costs = [row["microseconds"]["vstorage"] for row in rows if row["name"].startswith("audit")]
        if len(costs) > 2:
            spread = max(costs) / min(costs)
            print(f"Audit pages, the dearest against the cheapest: {against(spread, MOST_GROWTH_OF_COST, '≤')}\n")
    return rows


def compare_web(bench: Bench, wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The web APIs, and how they start."""
    endpoints = [endpoint for endpoint in web.ENDPOINTS if wanted(endpoint.name)]
    if not endpoints:
        return []
    for name in web.OPTIONAL:
        if missing := web.missing_modules(name):
            print(f"Without {TITLES[name]}: {' and '.join(missing)} not installed; `make bench` does it.")
    options = web.uvicorn_options(web.servers(bench))
    progress("web")
    rows = []
    for endpoint, rounds in zip(endpoints, web.measure(bench, endpoints, options).values(), strict=True):
        targets = {"original": endpoint.at_least, **dict.fromkeys(("sqlmodel", *web.OPTIONAL), 1)}
        faster = {name: ratio(rounds, "vstorage", name, "per_second") for name in targets}
        failed = {name: sum(run["refused"] + run["broken"] for run in runs) for name, runs in rounds.items()}
        rows.append(
            {
                "name": endpoint.name,
                "title": endpoint.title,
                "per_second": {name: median(runs, "per_second") for name, runs in rounds.items()},
                "cpu_ms": {name: median(runs, "cpu_ms") for name, runs in rounds.items()},
                "times": faster,
                "at_least": targets,
                "cpu_against_original": ratio(rounds, "original", "vstorage", "cpu_ms"),
                "failed": failed,
                "ok": all(times is None or times >= targets[name] for name, times in faster.items()),
                "rounds": rounds,
            }
        )
    lines = [
        [
            row["title"],
            number(row["per_second"]["vstorage"]),
            *(against(times, row["at_least"][name], "≥") for name, times in row["times"].items()),
            number(row["cpu_ms"]["vstorage"]),
            number(row["cpu_against_original"]),
            "ok" if row["ok"] else "MISSED",
        ]
        for row in rows
    ]
    head = ["requests per second", "vstorage", *(f"x {TITLES[name]}" for name in targets)]
    head += ["CPU ms", "CPU: original x ours", ""]
    print(f"\nOne uvicorn worker ({' '.join(options)}), {CONNECTIONS} connections of {describe_client()}\n")
    print(f"{table(head, lines)}\n")
    for row in rows:
        for name, count in row["failed"].items():
            if count:
                print(f"{row['title']}: {count:g} requests to {TITLES[name]} failed.")
    return rows


def compare_imports(bench: Bench) -> dict[str, Any]:
    """The import of the core against SQLModel's own."""
    progress("import")
    rounds = bench.import_times()
    pairs = zip(rounds["vstorage_core"], rounds["sqlmodel"], strict=True)
    extra_ms = median_of((ours["cpu_us"] - theirs["cpu_us"]) / 1000 for ours, theirs in pairs)
    sqlmodel_ms = median(rounds["sqlmodel"], "cpu_us") / 1000
    print(
        f"\nimport vstorage_core: {number(extra_ms)} ms more than sqlmodel's {number(sqlmodel_ms)} ms"
        f" (≤ {IMPORT_EXTRA_MS}) {'ok' if extra_ms <= IMPORT_EXTRA_MS else 'MISSED'}\n"
    )
    return {"extra_ms": extra_ms, "sqlmodel_ms": sqlmodel_ms, "ok": extra_ms <= IMPORT_EXTRA_MS}


def measure_csv_import(bench: Bench) -> dict[str, float]:
    """Reading a CSV file, validated and audited, against `insert_many` of the same rows."""
    progress("csv-import")
    rows = 2000 if bench.short else 100_000
    kinds = {
        "import": Operation("csv-import", "CSV import", "import_csv", 1, 1, users=rows),
        "insert_many": Operation("csv-import", "insert_many", "insert_many", rows, rows),
    }
    rounds = interleave(list(kinds), min(bench.rounds, 3), lambda kind: bench.run("vstorage", kinds[kind]))
    times, growth_mb = ratio(rounds, "import", "insert_many", "cpu_us") or 0, median(rounds["import"], "growth_mb")
    print(
        f"\nCSV import of {rows:,} rows: {duration(median(rounds['import'], 'cpu_us'))} per row,"
        f" insert_many x {against(times, MOST_COST_OF_IMPORT, '≤')},"
        f" grows {against(growth_mb, MOST_GROWTH_OF_IMPORT_MB, '≤')} MB\n"
    )
    return {"times_insert_many": times, "growth_mb": growth_mb}


def measure_unit_of_work(bench: Bench) -> dict[str, float | None]:
    """What vstorage costs where it takes SQLAlchemy's unit of work instead of writing and reading rows itself."""
    progress("unit-of-work")
    lines, times = [], {}
    for name in ("get", "insert", "save"):
        operation = replace(SCALED[name], users=10_000)
        rounds = interleave(
            ("vstorage", "unit_of_work"), min(bench.rounds, 3), lambda kind, one=operation: bench.run(kind, one)
        )
        times[name] = ratio(rounds, "unit_of_work", "vstorage", "cpu_us")
        costs = (duration(median(runs, "cpu_us")) for runs in rounds.values())
        lines.append([operation.title, *costs, number(times[name])])
    print(f"\n{table(['CPU per operation', 'as rows', 'unit of work', 'x'], lines)}\n")
    return times


def measure_scale(bench: Bench) -> dict[str, Any]:
    """CPU time per operation of vstorage on tables of growing size and from several threads."""
    progress("scale")
    sizes = (1000, 10_000) if bench.short else (1000, 100_000, 1_000_000)
    threads = (1, 8) if bench.short else (1, 8, 32)
    repeat = range(1 if bench.short else 3)
    by_size: dict[str, list[float]] = {name: [] for name in SCALED}
    for size in sizes:
        for name, operation in SCALED.items():
            sized = replace(operation, users=size, audited=size)
            by_size[name].append(median_of(bench.run("vstorage", sized)["cpu_us"] for _ in repeat))
        bench.drop_filled()
    by_threads = {
        name: [
            median_of(
                bench.run("vstorage", replace(SCALED[name], users=10_000), threads=count)["cpu_us"] for _ in repeat
            )
            for count in threads
        ]
        for name in ("get", "page", "insert", "save")
    }
    lines = [[SCALED[name].title, *map(duration, costs)] for name, costs in by_size.items()]
    print(f"\n{table(['CPU per operation', *(f'{size:,} rows' for size in sizes)], lines)}\n")
    lines = [[SCALED[name].title, *map(duration, costs)] for name, costs in by_threads.items()]
    head = ["CPU per operation", *("1 thread" if count == 1 else f"{count} threads" for count in threads)]
    print(f"{table(head, lines)}\n")
    return {"sizes": sizes, "by_size": by_size, "threads": threads, "by_threads": by_threads}


def measure_flash(bench: Bench) -> dict[str, float]:
    """Megabytes that 1,000 saves send to the disk."""
    progress("flash")
    saves = replace(SCALED["save"], work="flash", count=1000, short_count=100)
    runs: list[tuple[str, str, str | None]] = [
        *((f"vstorage, durability {choice}", "vstorage", choice) for choice in ("full", "normal", "off")),
        ("raw sqlite3, its defaults", "raw", None),
        ("raw sqlite3, WAL and FULL", "raw", "full"),
        ("original", "original", None),
    ]
    written = {}
    for title, name, durability in runs:
        if name in bench.pythons:
            found = bench.run(name, saves, durability=durability, disk=True)["written_bytes"]
            written[title] = found / 1e6 * (10 if bench.short else 1)
    lines = [[title, number(megabytes)] for title, megabytes in written.items()]
    print(f"\n{table(['1,000 saves on disk', 'MB written'], lines)}\n")
    return written


def measure_start(bench: Bench) -> dict[str, Any]:
    """From the start of a server to its first answer, and its memory then."""
    progress("start")
    options = web.uvicorn_options(web.servers(bench))
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(1 if bench.short else 5):
        for name in web.servers(bench):
            with web.copied(bench, name, 1000) as database, web.serve(bench, name, options, database) as server:
                found.setdefault(TITLES[name], []).append((server.first_answer_ms, server.resident_mb))
        port = web.free_port()
        folder = bench.disk / f"demo-{port}"
        command = [sys.executable, str(ROOT / "examples" / "machine.py"), "--port", str(port), "--folder", str(folder)]
        with web.running(command, port, "/recipes/", bench.disk / "demo.log") as server:
            found.setdefault("the demo machine", []).append((server.first_answer_ms, server.resident_mb))
    medians = {name: tuple(map(median_of, zip(*runs, strict=True))) for name, runs in found.items()}
    lines = [[name, f"{first:,.0f} ms", f"{memory:.0f} MB"] for name, (first, memory) in medians.items()]
    print(f"\n{table(['server', 'first answer', 'memory'], lines)}\n")
    return medians


def describe_machine() -> dict[str, Any]:
    """What the figures depend on."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def progress(name: str) -> None:
    print(f"… {name}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What vstorage costs.")
    parser.add_argument(
        "--short", action="store_true", help="small counts, once; unit-of-work, scale, flash and start only if named"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="what begins with it, e.g. insert, web, scale")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "benchmarks", help="for the JSON and the chart")
    options = parser.parse_args()
    # Each table when it is ready, also in a file.
    sys.stdout.reconfigure(line_buffering=True)

    def wanted(name: str) -> bool:
        return not options.only or any(name.startswith(only) for only in options.only)

    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if not os.environ.get(ORIGINAL_VARIABLE):
        print(f"Without the original: set {ORIGINAL_VARIABLE} to a Python that has it.")
    if options.short:
        print("Short form: smaller counts than the table says, one round.")
    results: dict[str, Any] = {"machine": machine, "short": options.short}
    with open_bench(1 if options.short else options.rounds, short=options.short) as bench:
        bench.check_equal()
        print("All contenders leave equal rows and equal audit snapshots.", flush=True)
        results["operations"] = compare_operations(bench, wanted)
        results["web"] = compare_web(bench, wanted)
        sections: dict[str, Callable[[Bench], Any]] = {
            "import": compare_imports, "csv-import": measure_csv_import,
            "unit-of-work": measure_unit_of_work, "scale": measure_scale,
            "flash": measure_flash, "start": measure_start,
        }  # fmt: skip
        for name, section in sections.items():
            if wanted(name) and (options.only or not options.short or name in IN_SHORT):
                results[name] = section(bench)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    if results["operations"]:
        (options.output / "chart.svg").write_text(chart(results["operations"]))
    print(f"Written into {options.output}")


if __name__ == "__main__":
    main()
