"""What a table is trained with where nothing else is said, chosen by tests/measure_tables.py's tables: see docs/tables.md."""

TABLE_DEFAULTS = {
    "model.hidden_sizes": "[100]",
    "model.activation": "tanh",
    "model.lr_factor": "0.5",
    "model.clip": "5",
    "trainer.max_epochs": "200",
    "patience": "20",
}


def table_options() -> list[str]:
    """The defaults as options, to stand before those of the command line."""
    return [part for name, value in TABLE_DEFAULTS.items() for part in (f"--{name}", value)]
