"""Refuses numbers that Lightning's Trainer accepts but that make no sense."""

from jsonargparse import Namespace

ABOVE_0 = ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval")
AT_LEAST_0 = ("gradient_clip_val", "log_every_n_steps", "min_epochs", "min_steps", "limit_val_batches")
BATCHES = {
    "fit": "limit_train_batches",
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}


def refuse_limits(trainer: Namespace, command: str) -> None:
    """Refuse such numbers among the Trainer's options.

    Raises:
        ValueError: an option is too small.
    """
    numbers = {name: value for name, value in trainer.items() if isinstance(value, int | float)}
    for name, value in numbers.items():
        if value <= 0 and name in (*ABOVE_0, BATCHES[command]):
            raise ValueError(f"{name} is {value}; it must be above 0")
        if value < 0 and name in AT_LEAST_0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
        if value == 0 and name in ("max_epochs", "max_steps") and command == "fit":
            raise ValueError(f"{name} is 0; it must be above 0, or -1 for no limit")
