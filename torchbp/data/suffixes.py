"""The extensions of the files that each data module reads."""

ARRAYS = (".npz", ".npy")
TABLES = (".csv", ".tsv", ".parquet")
SEQUENCES = (".npz", ".ts", *TABLES)
