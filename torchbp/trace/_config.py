"""Traces the network of a training configuration on the first samples of its data."""

import argparse
from typing import Any, Literal

from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from torchbp.curvature import lr_from_curvature
from torchbp.trace._iteration import trace
from torchbp.trace._steps import Trace
from torchbp.training import BPModule
from torchbp.training.arguments import ConfigurationParser, default_data_option, import_named_activations
from torchbp.training.command import BPCLI, be_quiet


class TraceCLI(BPCLI):
    """Makes a configuration's network and data, without a trainer."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--samples", type=PositiveInt, default=1, help="The number of samples to take from the first batch."
        )
        parser.add_argument(
            "--markdown", type=str | None, default=None, help="Write Markdown with LaTeX formulas here; - for standard output."
        )
        parser.add_argument("--html", type=str | None, default=None, help="Write a page here, to step through in a browser.")
        parser.add_argument("--lang", type=Literal["en", "zh"], default="en", help="The page's language.")
        parser.add_argument("--json", action="store_true", help="Print every equation with all digits, as JSON.")
        for name in ("patience", "every_epoch", "ckpt_path"):  # a run's own config.yaml has them
            parser.add_argument(f"--{name}", help=argparse.SUPPRESS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        import_named_activations(args)
        self.config = parser.parse_args([*default_data_option(args), *args])

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        return None


def from_config(args: list[str]) -> tuple[Trace, str, Any]:
    """Trace the first iteration of a configuration on ``--samples`` samples; returns the trace, its source and all options."""
    be_quiet()
    cli = TraceCLI(
        args,
        model_class=BPModule,
        datamodule_class=LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=ConfigurationParser,
        parser_kwargs={"prog": "torchbp trace"},
        run=False,
    )
    if cli.model.pos_weight is not None:
        raise ValueError(
            f"pos_weight is {cli.model.hparams['pos_weight']}; the text's iteration has none: give --model.pos_weight null"
        )
    if cli.model.hparams["networks"] is not None:
        raise ValueError(
            f"networks is {cli.model.hparams['networks']}; only a single network can be traced: give --model.networks null"
        )
    module, data, samples = cli.model, cli.datamodule, int(cli.config["samples"])
    data.prepare_data()
    data.setup("fit")
    module.fit_scaling(data)
    loader = data.train_dataloader()
    x, y, *weights = next(iter(loader))
    if weights:
        raise ValueError("the data have a weight for each row; the text's iteration has none")
    if samples > len(x):
        raise ValueError(f"samples is {samples}; the first batch has {len(x)}")
    lr = module.lr
    if lr == "auto":
        batches = ((module.input_scaling(x), module.network_target(y)) for x, y in loader)
        lr = lr_from_curvature(module.network, batches, module.cost)
    x = module.input_scaling(x[:samples])
    y = y[:samples] if module.target_scaling is None else module.target_scaling(y[:samples])
    if x.dim() == 3:  # leave out steps after the end of all sequences
        steps = int((~x.isnan().all(-1)).sum(1).max())
        x, y = x[:, :steps], y[:, :steps] if y.dim() == 3 else y
    standardised = ", standardised" if getattr(data, "standardize", False) else ""
    which = "The first sample" if samples == 1 else f"The first {samples} samples"
    source = (
        f"{which} of the first batch of {getattr(data, 'name', 'the data')}{standardised}, and the network's first weights."
    )
    return trace(module.network, x, y, module.cost, lr), source, cli.config
