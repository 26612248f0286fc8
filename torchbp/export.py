"""Exports a trained network to a file that runs without this package: ONNX, or an archive of ``torch.export``."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchbp._deferred import deferred
from torchbp._files import replacing, write
from torchbp.cli import OneLineParser
from torchbp.nn import RecurrentNetwork

BATCHES = (1, 2, 7)
ROUNDING = 1e-6  # relative, a few times float32's


class Predictor(nn.Module):
    """The predictions of a :class:`torchbp.training.BPModule`, without its training.

    Shapes: (B, num_features) in the columns' own units -> (B, num_outputs). Sequences (B, T, num_features), NaN after their
    end, -> (B, num_outputs), or (B, T, num_outputs) with an output for each step.

    Args:
        module: a :class:`torchbp.training.BPModule`.
        offsets: subtracted from each column of x before the module gets it; if any is not 0, x is float64.
        target_offsets: added to the predictions; if any is not 0, these are float64.
    """

    def __init__(self, module: Any, offsets: Sequence[float] = (), target_offsets: Sequence[float] = ()) -> None:
        super().__init__()
        self.input_scaling, self.network, self.target_scaling = module.input_scaling, module.network, module.target_scaling
        if module.kept is not None and not module.kept.all():
            self.network = _only(module.network, module.kept > 0)
        self.offsets = torch.tensor(offsets, dtype=torch.float64) if any(offsets) else None
        self.target_offsets = torch.tensor(target_offsets, dtype=torch.float64) if any(target_offsets) else None

    @property
    def num_features(self) -> int:
        return len(self.input_scaling.mean)

    @property
    def reads_sequences(self) -> bool:
        """Whether x is sequences (B, T, num_features) with any T, NaN after their end."""
        return isinstance(self.network, RecurrentNetwork)

    def forward(self, x: Tensor) -> Tensor:
        if self.offsets is not None:
            x = (x - self.offsets).to(self.input_scaling.mean.dtype)
        prediction = self.network(self.input_scaling(x))
        if self.network.networks is not None:
            prediction = prediction.mean(0)
        if self.target_scaling is not None:
            prediction = self.target_scaling.inverse(prediction)
        return prediction if self.target_offsets is None else prediction.double() + self.target_offsets


def _only(network: Any, kept: Tensor) -> Any:
    """A copy with only the kept ones of K networks."""
    network = copy.deepcopy(network)
    for layer in network.layers:
        for name, value in list(layer.named_parameters(recurse=False)):
            layer.register_parameter(name, nn.Parameter(value.detach()[kept]))
    network.networks = int(kept.sum())
    return network


def export(
    module: Any,
    path: str | Path,
    metadata: dict[str, Any] | None = None,
    offsets: Sequence[float] = (),
    target_offsets: Sequence[float] = (),
) -> None:
    """Write a program that predicts as the trained network does, for any number of rows.

    Its input is ``x`` (B, num_features) in the columns' own units, its output ``prediction`` (B, num_outputs); the program
    includes the scaling of columns and targets. Sequences may have any number of steps; padding is NaN. The new file is run and
    compared with the network before it replaces ``path``.

    Args:
        module: a :class:`torchbp.training.BPModule`.
        path: the file, ``.onnx`` or ``.pt2``.
        metadata: plain values to store as JSON: in an ONNX file's metadata, or in an archive's extra file ``metadata.json``.
        offsets, target_offsets: those of the :class:`torchbp.data.TabularDataModule` of the training, for columns or targets
            too far from 0 for float32. The program's x, or its prediction, is then float64.

    Raises:
        ValueError: another extension, or a program that does not compute what the network does.
        ModuleNotFoundError: for ``.onnx``, its packages are not installed.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"the output {path} has the extension {path.suffix!r}; it must be one of {', '.join(WRITERS)}")
    predictor = copy.deepcopy(Predictor(module, offsets, target_offsets)).cpu().eval().requires_grad_(False)
    with replacing(path) as partial, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about future versions of PyTorch's exporters
        example = torch.zeros(2, *([3] if predictor.reads_sequences else []), predictor.num_features, dtype=x_dtype(predictor))
        free = {number: torch.export.Dim(name, min=1) for number, name in enumerate(("batch", "steps")[: example.dim() - 1])}
        program = torch.export.export(predictor, (example,), dynamic_shapes={"x": free})
        for node in program.graph.nodes:  # do not export paths of source files
            node.meta.pop("stack_trace", None)
        run = WRITERS[path.suffix](program, partial, {name: json.dumps(value) for name, value in (metadata or {}).items()})
        check(run, predictor)


def check(run: Callable[[Tensor], Tensor], predictor: Predictor) -> None:
    """Compare the program with the network, on batches of several sizes with values in the columns' range and far beyond.

    Raises:
        ValueError: the outputs differ by more than rounding explains.
    """
    mean, scale = predictor.input_scaling.mean, predictor.input_scaling.scale
    spread = 1.0 if predictor.target_scaling is None else predictor.target_scaling.scale.max().item()
    generator = torch.Generator().manual_seed(0)
    for rows in BATCHES:
        draw = torch.randn(rows, *([rows + 2] if predictor.reads_sequences else []), len(mean), generator=generator).to(mean)
        for number, sequence in enumerate(draw if predictor.reads_sequences else ()):
            sequence[number + 1 :] = torch.nan  # sequence i ends after i + 1 steps
        # For large values, the terms of a weighted input are large and may cancel.
        for size, tolerance in ((0.0, 1e-4), (1.0, 1e-4), (1e4, 1e-2), (1e30, 1e-2)):
            x, near = (
                (mean + scale * draw * at).to(x_dtype(predictor)) + (0 if predictor.offsets is None else predictor.offsets)
                for at in (size, size * (1 + ROUNDING))
            )
            expected, got = predictor(x), run(x)
            # An activation that oscillates turns the last digits of a large weighted input into any value.
            unsure = (predictor(near) - expected).nan_to_num(0, 0, 0).abs().max().item()
            if predictor.target_offsets is not None:
                expected, got = (values - predictor.target_offsets for values in (expected, got))
            largest = max(spread, expected.nan_to_num(0, 0, 0).abs().max().item())
            allowed = tolerance * largest + 4 * unsure
            if got.shape != expected.shape or not got.allclose(expected, tolerance, allowed, equal_nan=True):
                size_of = f"{rows} row{'s' * (rows > 1)} of size {size:g}"
                shapes = f"{tuple(got.shape)} and {tuple(expected.shape)}"
                raise ValueError(
                    f"the exported program does not compute what the network does: for {size_of} "
                    f"the outputs have shape {shapes}, sum {got.sum().item():g} and {expected.sum().item():g}; none is kept"
                )


def x_dtype(predictor: Predictor) -> torch.dtype:
    return predictor.input_scaling.mean.dtype if predictor.offsets is None else torch.float64


def write_pt2(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> Callable[[Tensor], Tensor]:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
    write(path, content)  # on a full disk, PyTorch itself would abort the process
    with path.open("rb") as file:  # a path would have to end in .pt2
        return torch.export.load(file).module()


def write_onnx(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> Callable[[Tensor], Tensor]:
    try:
        import onnx.reference
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError("to write ONNX, install onnx and onnxscript: pip install 'torchbp[export]'") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported = torch.onnx.export(program, input_names=["x"], output_names=["prediction"], dynamo=True, verbose=False)
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    exported.save(path)
    session = onnx.reference.ReferenceEvaluator(onnx.load(path))

    def run(x: Tensor) -> Tensor:
        [prediction] = session.run(None, {"x": x.numpy()})
        return torch.from_numpy(prediction)

    return run


WRITERS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {".onnx": write_onnx, ".pt2": write_pt2}


def run(args: Sequence[str]) -> int:
    """Run ``torchbp export`` on a checkpoint; returns the exit status."""
    parser = OneLineParser("torchbp export", description="Write a trained network as a program that runs without torchbp.")
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint, or best or last of the newest run")
    parser.add_argument("--output", required=True, help="the file to write: .onnx, or .pt2 for torch.export.load")
    parser.add_argument("--model.activation", metavar="PATH", help="the checkpoint's activation, if it is one of your own")
    options = parser.parse_args(args)

    import torch._dynamo  # noqa: F401  # to trace a loop over time, it must be imported before the loop's functions

    with deferred():
        from torchbp.training.arguments import import_named_activations
        from torchbp.training.checkpoint import load_checkpoint, load_data, load_module, newest_checkpoint
        from torchbp.training.command import be_quiet
        from torchbp.training.prediction import output_names

    be_quiet()
    import_named_activations(args)
    path = options.ckpt_path
    checkpoint = load_checkpoint(newest_checkpoint(None, path) if path in ("best", "last") else path)
    module, data = load_module(checkpoint), load_data(checkpoint)
    metadata = {
        "task": module.task,
        "feature_names": getattr(data, "feature_names", None),
        "output_names": output_names(module.task, module.hparams["num_outputs"], data),
    }
    if module.hparams["sequences"]:
        metadata["sequences"] = module.hparams["sequences"]
    if schema := getattr(data, "schema", None):
        metadata["columns"] = [asdict(column) for column in schema.columns if column.type != "ignored"]
    export(module, options.output, metadata, getattr(data, "offsets", ()), getattr(data, "target_offsets", ()))
    return 0
