"""Runs, label counts and example images in a database: SQLite, or what an SQLAlchemy URL names.

The contract, the same for every backend:

- *Ownership.* Only the driver of a run, the process that schedules it, writes that run; workers
  return counts. It claims the run first: a second driver is refused until the first is gone, and
  what a first one still writes after it was given up is refused as well. Meanwhile any number of
  processes may read, and drivers of other runs may write to the same store.
- *Waiting.* A server that was reachable and is not now (a restart, the network) is waited for.
- *Transactions.* Each writing method is one transaction. When it returns, its rows are on disk
  and survive a kill or a power cut; when it raises, the store is as it was before.
- *Reading.* What a save reads does not grow with the number of runs or images.
- *Threads and processes.* Threads may share a :class:`Store`; each process opens its own.
- *Values.* Settings and info are what JSON can say (else TypeError or ValueError, also for NaN);
  tuples come back as lists. Seeds may have 128 bits. Times are UTC.
- *Errors.* Whatever the database reports is raised as :class:`StoreError`, with the original
  exception as ``__cause__``. Every method but ``begin`` and ``find`` that takes the name of a run
  raises :class:`RunNotFoundError` if there is none.

SQLite keeps a write-ahead log next to its file: the disk must be local. To read, the folder need
not be writable if no log is left. The file may not be moved or changed by other programs while it
is open; if it is, the next write or check raises :class:`StoreError`, and what is left is rescued.
"""

from __future__ import annotations

from denoised_smoothing.store.database import Store, patient
from denoised_smoothing.store.records import RefusedImage, StoredExample, StoredImage, StoredRun
from denoised_smoothing.store.tables import EXAMPLES, IMAGES, JOBS, QUERIES, RUNS, SCHEMA_VERSION

__all__ = [
    "EXAMPLES",
    "IMAGES",
    "JOBS",
    "QUERIES",
    "RUNS",
    "SCHEMA_VERSION",
    "RefusedImage",
    "Store",
    "StoredExample",
    "StoredImage",
    "StoredRun",
    "patient",
]
