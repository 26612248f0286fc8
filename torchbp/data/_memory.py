"""Polars, told to hold little memory; it reads this when it is loaded, so this is to be imported before it.

By itself it holds 300 MiB of a CSV file's text that is read ahead, and for some seconds what it has freed.
"""

import os

for _name, _value in {
    "POLARS_CSV_CHUNK_SIZE": str(2**22),
    "POLARS_CSV_CHUNK_PREFETCH_LIMIT": "4",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0",
}.items():
    os.environ.setdefault(_name, _value)
