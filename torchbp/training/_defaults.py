"""Training defaults for tables, chosen with tests/measure_tables.py: see docs/tables.md."""

TABLE_DEFAULTS = {
    "model.hidden_sizes": "[100]",
    "model.activation": "tanh",
    "model.lr_factor": "0.5",
    "model.clip": "5",
    "trainer.max_epochs": "200",
    "patience": "20",
}


def table_options() -> list[str]:
    """The defaults as options, to put before those of the command line, which override them."""
    return [part for name, value in TABLE_DEFAULTS.items() for part in (f"--{name}", value)]
