"""Starts writers that write until they are killed: `python kill_worker.py direct|unit_of_work`.

For each line `[URL, RUN]` that it reads it forks one, which spares it the imports. A writer prints its process id just
before it opens the database, and then one line of JSON for each operation that has returned. When it is dead, its
exit code follows: `{"exit": -9}`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from workload import Acknowledgement, Client, share_counters

from vstorage_core import Storage

THREADS = 3
_mutex = threading.Lock()


def _acknowledge(operation: Acknowledgement) -> None:
    line = json.dumps(operation)
    with _mutex:
        print(line, flush=True)


def _work(client: Client) -> None:
    while True:
        _acknowledge(client.operate())


def write(url: str, run: int, way: str) -> None:
    """Never returns."""
    print(os.getpid(), flush=True)
    # So small that every few writes make a checkpoint.
    storage = Storage(url, entry_points=[], config={"engine": {"journal_size_limit_bytes": 128 * 1024}})
    storage.allows_direct_rows = way == "direct"
    storage.create_tables()
    _acknowledge(share_counters(storage, run))
    clients = [Client(storage, number, run) for number in range(1, THREADS + 1)]
    pool = ThreadPoolExecutor(THREADS)
    done, _ = wait([pool.submit(_work, client) for client in clients], return_when=FIRST_EXCEPTION)
    for future in done:
        traceback.print_exception(future.exception())
    # The other threads never end.
    os._exit(1)


def main(way: str) -> None:
    for line in sys.stdin:
        writer = os.fork()
        if writer == 0:
            try:
                write(*json.loads(line), way)
            finally:
                traceback.print_exc()
                os._exit(1)
        _, status = os.waitpid(writer, 0)
        # Its last line may be half.
        print("\n" + json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
