"""Limits Polars' memory. Polars reads these settings when it is loaded, so import this module first.

By default Polars reads ahead 300 MiB of a CSV file's text, and keeps freed memory for some seconds. Returning freed memory at
once would take a quarter more time, because it is allocated again.
"""

import os

os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(2**23))
os.environ.setdefault("POLARS_CSV_CHUNK_PREFETCH_LIMIT", "2")
# Append, because the last setting counts: child processes inherit Polars' own setting.
_given = os.environ.get("_RJEM_MALLOC_CONF", "")
os.environ["_RJEM_MALLOC_CONF"] = f"{_given},dirty_decay_ms:5,muzzy_decay_ms:0".lstrip(",")
