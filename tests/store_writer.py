"""A child program of test_store.py: writes to a store and acknowledges on stdout.

`python store_writer.py MODE STORE START COUNT [THREADS]` puts COUNT answers from number START on
(COUNT 0: without end) and prints the number of each once it is said to be kept.

- write: as the store promises
- late: acknowledges at once and puts twenty at a time, as a store that commits late would
- small: as write, where no file may grow beyond 300 kB; the reason of the end goes to stdout too
- hold: locks the file, prints "locked" and waits for stdin to close
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import sys
import threading
import time

from hf_regioncap.errors import StoreError
from hf_regioncap.store import AnswerStore, StoredAnswer


def key_of(number: int) -> str:
    return hashlib.sha256(b"question %d" % number).hexdigest()


def answer_of(number: int) -> StoredAnswer:
    raw = f'{{"id": {number}, "text": "{hashlib.sha512(b"%d" % number).hexdigest() * 8}"}}'
    return StoredAnswer("ok", raw, "gpt-4o-mini", "stop", number, 20, 1.5 * number)


def acknowledge(*numbers: int) -> None:
    os.write(1, "".join(f"{number}\n" for number in numbers).encode())


def write(store: AnswerStore, numbers: range | itertools.count[int]) -> None:
    for number in numbers:
        store.put(key_of(number), answer_of(number))
        acknowledge(number)


def write_late(store: AnswerStore, numbers: range | itertools.count[int]) -> None:
    waiting = []
    for number in numbers:
        waiting.append((key_of(number), answer_of(number)))
        acknowledge(number)
        time.sleep(0.001)
        if len(waiting) == 20:
            store.put_many(waiting)
            waiting = []


def write_little(store: AnswerStore, numbers: range | itertools.count[int]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        write(store, numbers)
    except StoreError as error:
        print(error, flush=True)


def hold(path: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.read()


def main(mode: str, path: str, start: int = 0, count: int = 0, threads: int = 1) -> None:
    if mode == "hold":
        hold(path)
        return
    run = {"write": write, "late": write_late, "small": write_little}[mode]
    store = AnswerStore(path)
    end = start + count
    workers = [
        threading.Thread(
            target=run,
            args=(
                store,
                range(start + k, end, threads) if count else itertools.count(start + k, threads),
            ),
        )
        for k in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
