"""Polars, told to hold little memory; it reads this when it is loaded, so this is to be imported before it.

By itself it holds 300 MiB of a CSV file's text that is read ahead, and for some seconds what it has freed. To give up at once
whatever is freed would take a quarter more time, for memory that is asked for anew.
"""

import os

os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(2**23))
os.environ.setdefault("POLARS_CSV_CHUNK_PREFETCH_LIMIT", "2")
# Behind what is there, for the last counts: a process that has loaded polars hands polars' own on to those it starts.
_given = os.environ.get("_RJEM_MALLOC_CONF", "")
os.environ["_RJEM_MALLOC_CONF"] = f"{_given},dirty_decay_ms:5,muzzy_decay_ms:0".lstrip(",")
