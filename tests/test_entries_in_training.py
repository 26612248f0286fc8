"""Activations and outputs in whole runs: predictions, exported programs, checkpoints, TensorBoard."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as TF
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset
from training_runs import quiet_trainer

from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.data import BuiltinDataModule
from torchbp.export import export
from torchbp.training import ActivationCurves, BPModule

OWN = """
import torch
from pathlib import Path
from torchbp.activations import Activation

Path("IMPORTED").touch()
cube = Activation(
    "cube", "z**3", "3*z**2", value=lambda z, out=None: torch.pow(z, 3, out=out), slope=lambda z: 3 * z * z,
    reference=lambda z: z**3,
)
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of three classes and a network trained on it."""
    folder = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 2))
    pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": np.array(["p", "q", "r"])[x.argmax(1) + (x.max(1) > 1)]}).write_csv(
        folder / "table.csv"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert (
            main(["fit", "--data.path", "table.csv", "--data.target", "kind", "--trainer.max_epochs", "5", "--model.lr", "0.5"])
            == 0
        )
    return folder


def test_probabilities_add_up_to_one(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classes)
    assert main(["predict", "--ckpt_path", "best", "--data.path", "table.csv", "--output", "p.csv"]) == 0
    predicted = pl.read_csv("p.csv")
    p = predicted.select("p_p", "p_q", "p_r").to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert predicted["class"].to_list() == [("p", "q", "r")[best] for best in p.argmax(1)]
    x = pl.read_csv("table.csv").select("a", "b").to_numpy().astype(np.float32)
    for name in ("model.onnx", "model.pt2"):
        assert main(["export", "--ckpt_path", "best", "--output", name]) == 0
    (by_onnx,) = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})
    by_export = torch.export.load("model.pt2").module()(torch.from_numpy(x)).numpy()
    for found in (by_onnx, by_export):
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(found, p, atol=1e-5)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_smoothing_class_weights_and_row_weights_as_torch_nn(engine: str) -> None:
    """Compared with SGD on torch.nn's cross-entropy, averaged over the rows."""
    torch.manual_seed(0)
    options = {"hidden_sizes": (5,), "task": "multiclass", "activation": "tanh", "lr": 0.3, "engine": engine}
    module = BPModule(4, 3, class_weight=[0.5, 1.0, 2.0], label_smoothing=0.1, **options).double()
    first, last = module.network.layers
    parameters = [p.detach().clone().requires_grad_() for p in (first.weight, first.bias, last.weight, last.bias)]
    x, classes, weight = torch.randn(60, 4).double(), torch.randint(3, (60,)), torch.rand(60).double()
    y = TF.one_hot(classes, 3).double()
    batches = DataLoader(TensorDataset(x, y, weight), batch_size=10)
    quiet_trainer(max_epochs=2, precision="64-true").fit(module, batches)
    w = torch.tensor([0.5, 1.0, 2.0]).double()
    for _ in range(2):
        for x_, y_, weight_ in batches:
            W1, b1, W2, b2 = parameters
            z = TF.linear(torch.tanh(TF.linear(x_, W1, b1)), W2, b2)
            each = TF.cross_entropy(z, y_.argmax(1), weight=w, label_smoothing=0.1, reduction="none")
            gradients = torch.autograd.grad((weight_ * each).mean(), parameters)
            parameters = [(p - 0.3 * g).detach().requires_grad_() for p, g in zip(parameters, gradients, strict=True)]
    assert_close([p.detach() for p in module.network.parameters()], [p.detach() for p in parameters], rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["autograd", "fused"])
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_cost_that_only_its_weight_makes_infinite_stops_the_run(engine: str) -> None:
    rows = TensorDataset(torch.randn(20, 4), torch.rand(20, 2), torch.full((20,), torch.finfo().max))
    module = BPModule(4, 2, task="multilabel", lr=1e-3, init="normal", engine=engine)
    with pytest.raises(FloatingPointError, match=r"the cost became (inf|nan) at step 0"):
        quiet_trainer(max_epochs=1).fit(module, DataLoader(rows, batch_size=10))


def test_balanced_classes_have_equal_weight() -> None:
    data = BuiltinDataModule("digits")
    module = BPModule(64, 10, task="multiclass", class_weight="balanced")
    module.fit_scaling(data)
    _, y = data.split_rows("train").all()
    weighted = y.sum(0) * module.class_weight
    assert_close(weighted, torch.full((10,), len(y) / 10))


def test_the_engines_learn_an_unknown_g_alike() -> None:
    trained = []
    for engine in ("autograd", "fused"):
        torch.manual_seed(0)
        options = {"task": "regression", "activation": ["unknown", "swish"], "activation_per_unit": True, "lr": 0.05}
        module = BPModule(4, 1, (6, 5), engine=engine, **options)
        quiet_trainer(max_epochs=1, precision="64-true").fit(module, datamodule=BuiltinDataModule("sines"))
        trained.append(module)
    one, other = trained
    assert one.network.layers[0].values.shape == (33, 6)
    assert not torch.equal(one.network.layers[0].values, ACTIVATIONS["unknown"].parameters["values"].start(6).double())
    assert_close(list(one.network.parameters()), list(other.network.parameters()), rtol=0, atol=1e-12)


def test_the_curve_of_a_learned_g_is_drawn(tmp_path: Path) -> None:
    module = BPModule(4, 1, (6,), task="regression", activation="scaled_sigmoid", lr=0.1)
    logger = TensorBoardLogger(tmp_path)
    trainer = quiet_trainer(max_epochs=2, logger=logger, callbacks=[ActivationCurves()])
    trainer.fit(module, datamodule=BuiltinDataModule("sines"))
    board = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    assert len(board.Images("g/1")) == 2
    pixels = np.asarray(Image.open(io.BytesIO(board.Images("g/1")[-1].encoded_image_string)))
    assert (pixels == (31, 119, 180)).all(-1).any(0).all()  # the curve has a point in every column
    beta: Tensor = module.network.layers[0].beta
    assert board.Scalars("beta/1")[-1].value == pytest.approx(beta.item())


def test_a_checkpoint_does_not_import_its_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_acts.py").write_text(OWN)
    named = ["--model.activation", "own_acts:cube"]
    xor = ["--data", "BuiltinDataModule", "--data.name", "xor", "--trainer.max_epochs", "2", "--model.lr", "0.1"]
    assert main(["fit", *xor, *named]) == 0

    def forget() -> None:
        from torchbp import activations

        monkeypatch.setattr(activations, "_imported", {})
        monkeypatch.delitem(sys.modules, "own_acts", raising=False)
        Path("IMPORTED").unlink(missing_ok=True)
        capsys.readouterr()

    forget()
    for command in (["test"], ["export", "--output", "m.pt2"]):
        assert main([command[0], "--ckpt_path", "best", *command[1:]]) == 1
        assert "activation is 'own_acts:cube'; imported only if the command line names it" in capsys.readouterr().err
        assert not Path("IMPORTED").exists()
    Path("own.yaml").write_text(json.dumps({"model": {"activation": "own_acts:cube"}}))
    for said in (named, ["--config", "own.yaml"]):
        forget()
        assert main(["test", "--ckpt_path", "best", *xor[:4], *said]) == 0
        assert Path("IMPORTED").exists()
    forget()
    assert main(["export", "--ckpt_path", "best", "--output", "m.pt2", *named]) == 0
    assert Path("m.pt2").exists()
    for wrong in ("3", "["):
        assert main(["fit", *xor, "--model.activation", wrong]) != 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "activation" in line


def test_an_output_of_another_range(tmp_path: Path) -> None:
    """Poisson's rate: targets are not standardised, and targets below 0 are refused."""
    np.savez(tmp_path / "counts.npz", x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 7 - 1.0)
    from torchbp.data import ArrayDataModule

    module = BPModule(2, 1, task="regression", output="exp")
    assert module.target_scaling is None
    with pytest.raises(
        ValueError, match=r"y reaches from -1 to 4; for exp outputs with cost poisson it must lie in \[0, inf\]"
    ):
        module.fit_scaling(ArrayDataModule(tmp_path / "counts.npz", task="regression"))
    export(module, tmp_path / "rate.pt2")
