"""What bad input gets from the command line: one line on standard error, an exit status, and everything as it was."""

import os
import pickle
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from training_runs import CONFIGS

from torchbp.cli import main

ROWS = "".join(f"{row * 0.7:.1f},{'rst'[row % 3]},{'no' if row % 2 else 'yes'}\n" for row in range(40))
GOOD = "age,city,bought\n" + ROWS
SPLIT = "age,part,bought\n" + "".join(f"{row},{['train', 'val', 'test'][row % 3]},{row % 4 // 2}\n" for row in range(40))
TEXTS: dict[str, str | bytes] = {
    "good.csv": GOOD,
    "empty.csv": "",
    "header.csv": "age,city,bought\n",
    "junk.csv": bytes(range(256)) * 20,
    "utf16.csv": GOOD.encode("utf-16"),
    "latin.csv": GOOD.replace("r,", "é,").encode("latin-1"),
    "excel.csv": b"PK\x03\x04" + bytes(60),
    "ragged.csv": GOOD + "1,r,no,extra\n",
    "short.csv": GOOD + "1\n",
    "twice.csv": GOOD.replace("age", "city"),
    "semicolons.csv": GOOD.replace(",", ";"),
    "table.xlsx": GOOD,
    "noextension": GOOD,
    "text.parquet": GOOD,
    "gap.csv": GOOD + ",r,no\n",
    "infinite.csv": GOOD + "inf,r,no\n",
    "beyond.csv": GOOD + "1e39,r,no\n",
    "words.csv": GOOD + "old,r,no\n",
    "single.csv": GOOD.replace("yes", "no"),
    "rare.csv": GOOD + "1,r,maybe\n",
    "blind.csv": "age,city\n1,r\n",
    "other.csv": "a,b\n1,2\n",
    "split.csv": SPLIT,
    "badsplit.csv": SPLIT.replace("val", "holdout"),
    "notrain.csv": SPLIT.replace("train", "val"),
    "junk.npz": "no archive",
    "junk.npy": "",
    "list.yaml": "- 1\n- 2\n",
    "broken.yaml": "a: [1,\nb: }",
    "binary.yaml": bytes(range(256)),
    "nodata.yaml": "model:\n  lr: 1.0\n",
    "unknown.yaml": (CONFIGS / "xor.yaml").read_text() + "nope: 3\n",
    "misspelt.yaml": (CONFIGS / "xor.yaml").read_text().replace("lr:", "lrr:"),
    "text.ckpt": "no checkpoint",
    "o.csv": "precious",
    "o.parquet": "precious",
    "o.pt2": "precious",
}
X, Y = np.arange(120.0).reshape(40, 3) ** 1.5, np.arange(40) % 2
ARRAYS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "good": (X, Y),
    "nan": (np.where(X == 1, np.nan, X), Y),
    "huge": (X * 1e300, Y),
    "rows": (X, Y[:7]),
    "complex": (X.astype(complex), Y),
    "norows": (X[:0], Y[:0]),
    "cube": (X, np.zeros((40, 2, 2))),
    "one": (X, Y * 0),
    "rare": (X, np.append(Y[:39], 5)),
    "beyond": (X, np.linspace(-1, 2, 40)),
    "narrow": (X[:, :2], Y),
    "classes": (X, Y + 4),
    "many": (np.arange(3000.0)[:, None], np.arange(3000)),
}


class Evil:
    """Unpickled, it leaves a folder behind."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


def write(name: str, content: str | bytes) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())


def write_checkpoints() -> None:
    """One of a table, one of arrays, one of the exclusive or; and what becomes of the first when it is tampered with."""
    for name, options in (
        ("table", "--data.path good.csv --data.target bought"),
        ("arrays", "--data ArrayDataModule --data.path good.npz"),
        ("xor", f"--config {CONFIGS / 'xor.yaml'}"),
    ):
        assert main(["fit", *shlex.split(options), "--trainer.max_epochs", "1"]) == 0
        shutil.copy(next(Path("logs").rglob("last.ckpt")), f"{name}.ckpt")
        shutil.rmtree("logs")
    good, content = (torch.load("table.ckpt", weights_only=True), Path("table.ckpt").read_bytes())
    write("half.ckpt", content[: len(content) // 2])
    write("pickle.ckpt", pickle.dumps(Evil()))
    torch.save({**good, "extra": Evil()}, "evil.ckpt")
    torch.save({"weights": torch.ones(3)}, "foreign.ckpt")
    torch.save({**good, "TabularDataModule": {"a": 1}}, "columns.ckpt")
    torch.save({**good, "datamodule_hyper_parameters": {"_class_path": "os.system"}}, "class.ckpt")
    shapes = {**good["state_dict"], "network.layers.0.weight": torch.ones(2, 2)}
    torch.save({**good, "state_dict": shapes}, "shapes.ckpt")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, few of them good."""
    folder, home = tmp_path_factory.mktemp("bad"), os.getcwd()
    os.chdir(folder)
    try:
        for name, content in TEXTS.items():
            write(name, content)
        for name, (x, y) in ARRAYS.items():
            np.savez(f"{name}.npz", x=x, y=y)
        np.savez("evil.npz", x=np.array([Evil()], dtype=object), y=Y)
        np.savez("unnamed.npz", a=X, y=Y)
        np.save("x.npy", X)
        np.save("y.npy", Y)
        pl.read_csv("good.csv").write_parquet("good.parquet")
        whole = {name: Path(name).read_bytes() for name in ("good.parquet", "good.npz", "x.npy")}
        write("half.parquet", whole["good.parquet"][:-20])
        write("parquet.csv", whole["good.parquet"])
        write("half.npz", whole["good.npz"][:-30])
        write("flipped.npz", whole["good.npz"][:300] + b"\xff" * 8 + whole["good.npz"][308:])
        write("half.npy", whole["x.npy"][:-16])
        write("pickle.npy", pickle.dumps(Evil()))
        Path("folder.csv").mkdir()
        write_checkpoints()
    finally:
        os.chdir(home)
    return folder


def tree() -> dict[str, bytes | None]:
    """What is in the working folder and the folders in it."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


# What it is called with, its exit status, and a telling part of its line. Short for the beginnings of many:
SHORT = {
    "CSV": "fit --data.target bought --trainer.max_epochs 1 --data.path",
    "NPZ": "fit --data ArrayDataModule --trainer.max_epochs 1 --data.path",
    "XOR": f"fit --config {CONFIGS / 'xor.yaml'} --trainer.max_epochs 1",
    "FUSED": f"fit --config {CONFIGS / 'xor.yaml'} --trainer.max_epochs 1 --model.engine fused",
    "PREDICT": "predict --ckpt_path table.ckpt --data.path",
}
CASES = [
    # calls
    ("train", 2, "'train' is no command; the commands are fit, validate, test, predict, export, gradcheck"),
    ("fit", 2, "fit needs data; say --data.path FILE --data.target COLUMN, or --config FILE"),
    ("fit --data.path good.csv", 2, "arguments are required: target"),
    ("fit --data Nothing", 2, "Nothing"),
    ("fit --data os.system", 2, "does not correspond to a subclass of LightningDataModule"),
    ("fit --data BuiltinDataModule", 2, "arguments are required: name"),
    ("XOR extra", 2, "unrecognized arguments: extra"),
    ("XOR --output o.csv", 2, "unrecognized arguments: --output o.csv"),
    ("XOR --data.path good.csv", 2, "Option 'path' is not accepted"),
    ("XOR --data.name iris", 2, "name is iris; it must be one of 'xor', 'moons', 'breast_cancer', 'digits', 'diabetes'"),
    ("predict", 2, "predict needs a trained network; say --ckpt_path PATH, or best or last"),
    ("test --data.path good.csv", 2, "test needs a trained network; say --ckpt_path PATH, or best or last"),
    ("test --ckpt_path last", 1, "logs holds no last checkpoint; train first with torchbp fit, or give a path"),
    # configurations
    ("fit --config none.yaml", 2, "none.yaml"),
    ("fit --config list.yaml", 2, "Unexpected config: - 1 - 2"),
    ("fit --config broken.yaml", 2, "Problems parsing config"),
    ("fit --config binary.yaml", 2, "the configuration is no text: 'utf-8' codec can't decode byte 0x80 in position 128"),
    ("fit --config nodata.yaml", 2, "arguments are required: fit.data"),
    ("fit --config unknown.yaml", 2, "does not accept option 'nope'"),
    ("fit --config misspelt.yaml", 2, "does not accept option 'model.lrr'"),
    # tables: files
    ("CSV gone.csv", 1, "the data file gone.csv does not exist"),
    ("CSV folder.csv", 1, "the data file folder.csv is a folder"),
    ("CSV empty.csv", 1, "empty.csv is empty; it needs column names and rows"),
    ("CSV header.csv", 1, "header.csv has no rows; at least one is needed"),
    ("CSV junk.csv", 1, "junk.csv cannot be read as CSV: invalid utf-8"),
    ("CSV utf16.csv", 1, "utf16.csv cannot be read as CSV: it is UTF-16 text; it must be UTF-8"),
    ("CSV latin.csv", 1, "latin.csv cannot be read as CSV: invalid utf-8"),
    ("CSV excel.csv", 1, "excel.csv cannot be read as CSV: it is a ZIP archive, as Excel's files are, not text"),
    ("CSV parquet.csv", 1, "parquet.csv cannot be read as CSV: it is a Parquet file; its name must end in .parquet"),
    ("CSV ragged.csv", 1, "ragged.csv cannot be read as CSV: found more fields"),
    ("CSV short.csv", 1, "the target 'bought' has no value in row 41; every row needs one"),
    ("CSV twice.csv", 1, "twice.csv has 2 columns named 'city'; each name must be there once"),
    ("CSV semicolons.csv", 1, "semicolons.csv has no column 'bought'; it has 'age;city;bought'"),
    ("CSV table.xlsx", 1, "table.xlsx has the extension '.xlsx'; it must be one of .csv, .tsv, .parquet"),
    ("CSV noextension", 1, "noextension has the extension ''; it must be one of .csv, .tsv, .parquet"),
    ("CSV text.parquet", 1, "text.parquet cannot be read as PARQUET"),
    ("CSV half.parquet", 1, "half.parquet cannot be read as PARQUET"),
    # tables: columns and types
    ("CSV good.csv --data.target baught", 1, "good.csv has no column 'baught'; it has 'bought', 'age', 'city'"),
    ("CSV good.csv --data.split part", 1, "good.csv has no column 'part'; it has 'age', 'city', 'bought'"),
    ("CSV good.csv --data.ignore '[salary]'", 1, "good.csv has no column 'salary'; it has 'age', 'city', 'bought'"),
    ("CSV good.csv --data.types '{salary: numeric}'", 1, "good.csv has no column 'salary'; it has 'age', 'city', 'bought'"),
    ("CSV good.csv --data.types '{city: integer}'", 2, "must be one of 'numeric', 'boolean', 'categorical', 'ignored'"),
    ("CSV good.csv --data.types numeric", 2, "types is numeric; it must be dict"),
    ("CSV good.csv --data.ignore city", 2, "ignore is city; it must be list"),
    ("CSV good.csv --data.types '{city: numeric}'", 1, "the numeric column 'city' holds 'r' in row 1; only numbers are"),
    ("CSV words.csv --data.types '{age: numeric}'", 1, "the numeric column 'age' holds 'old' in row 41; only numbers are"),
    ("CSV good.csv --data.types '{city: boolean}'", 1, "column 'city' holds 'r' in row 1; true and false, yes and no, 1 and 0"),
    ("CSV good.csv --data.ignore '[bought]'", 1, "column 'bought' is the target; it can have no place in types or ignore"),
    ("CSV good.csv --data.ignore '[age, city]'", 1, "no column to learn from; ignored: 'age' (as told), 'city' (as told)"),
    ("CSV good.csv --data.target '[city, city]'", 1, "target is ['city', 'city']; it must name at least one column, and each"),
    # tables: values
    ("CSV infinite.csv", 1, "the numeric column 'age' holds inf in row 41; numbers must be finite and below 3.4e38 in size"),
    ("CSV beyond.csv", 1, "the numeric column 'age' holds inf in row 41; numbers must be finite and below 3.4e38 in size"),
    ("CSV gap.csv --data.missing refuse", 1, "column 'age' has no value in row 41; missing='refuse' allows no gap"),
    ("CSV single.csv", 1, "the target 'bought' has a single class, 'no'; there is nothing to tell apart"),
    ("CSV rare.csv", 1, "class 'maybe' has 1 rows; to train on and for val (a val_size of 0.2) and test"),
    ("CSV good.csv --data.task regression", 1, "the target 'bought' holds 'yes' in row 1; only numbers are allowed"),
    ("CSV good.csv --data.task ranking", 2, "task is ranking; it must be one of 'binary', 'multilabel', 'multiclass', 'reg"),
    ("CSV good.csv --data.target city --data.task binary", 1, "'city' has 3 classes, 'r', 's', 't'; task binary has two"),
    # tables: parts
    (
        "CSV badsplit.csv --data.split part",
        1,
        "which names the split, holds 'holdout' in row 2; train, val and test are allowed",
    ),
    ("CSV notrain.csv --data.split part", 1, "which names the split, has no row of 'train'; at least one is needed"),
    ("CSV split.csv --data.split part --data.val_path good.csv", 1, "split is 'part'; with a column that names the parts"),
    ("CSV good.csv --data.val_path gone.csv", 1, "the data file gone.csv does not exist"),
    ("CSV good.csv --data.test_path gone.csv", 1, "the data file gone.csv does not exist"),
    ("CSV good.csv --data.val_path other.csv", 1, "other.csv has no column 'age'; it has 'a', 'b'"),
    ("CSV good.csv --data.test_path blind.csv", 1, "blind.csv has no column 'bought'; it has 'age', 'city'"),
    ("CSV good.csv --data.val_path rare.csv", 1, "'bought' holds 'maybe' in row 41; the classes are 'no', 'yes'"),
    ("CSV good.csv --data.test_path words.csv", 1, "the numeric column 'age' holds 'old' in row 41; only numbers are"),
    ("CSV good.csv --data.val_size 0.7 --data.test_size 0.4", 1, "val_size is 0.7 and test_size 0.4; they must be at least 0"),
    # tables: other options
    ("CSV good.csv --data.batch_size 0", 1, "batch_size is 0; it must be a positive integer or 'full'"),
    ("CSV good.csv --data.batch_size many", 2, "batch_size is many; it must be int or 'full'"),
    ("CSV good.csv --data.separator ::", 1, "separator is '::'; it must be a single ASCII character"),
    ("CSV good.csv --data.max_categories 1", 1, "max_categories is 1; it must be at least 2"),
    ("CSV good.csv --data.memory -1", 1, "memory is -1.0; it must be 0 GiB or more"),
    ("CSV good.csv --data.missing drop", 2, "missing is drop; it must be one of 'impute', 'indicator', 'refuse'"),
    ("CSV good.csv --data.seed -1", 1, "seed is -1; it must be from 0 to 4294967295"),
    ("CSV good.csv --data.memory 0 --data.cache_dir good.csv", 1, "the cache good.csv/good-columns-"),
    # arrays
    ("NPZ gone.npz", 1, "the data file gone.npz does not exist"),
    ("NPZ good.csv", 1, "good.csv has the extension '.csv'; it must be one of .npz, .npy"),
    ("NPZ junk.npz", 1, "junk.npz cannot be read as NPZ: it holds no array; Python objects are not loaded"),
    ("NPZ half.npz", 1, "half.npz cannot be read as NPZ: File is not a zip file"),
    ("NPZ flipped.npz", 1, "flipped.npz cannot be read as NPZ: Bad CRC-32 for file 'x.npy'"),
    ("NPZ evil.npz", 1, "evil.npz cannot be read as NPZ: Object arrays cannot be loaded when allow_pickle=False"),
    ("NPZ pickle.npy --data.target y.npy", 1, "pickle.npy cannot be read as NPY: it holds no array; Python objects are not"),
    ("NPZ junk.npy --data.target y.npy", 1, "junk.npy cannot be read as NPY: No data left in file"),
    ("NPZ half.npy --data.target y.npy", 1, "half.npy cannot be read as NPY: mmap length is greater than file size"),
    ("NPZ x.npy", 1, "target is None; for x.npy it must be the .npy file of y"),
    ("NPZ x.npy --data.target good.csv", 1, "target is good.csv; it must be the .npy file of y"),
    ("NPZ unnamed.npz", 1, "unnamed.npz has no array 'x'; it has 'a', 'y'"),
    ("NPZ rows.npz", 1, "x has shape (40, 3) and y (7,); they must have as many rows"),
    ("NPZ norows.npz", 1, "x in norows.npz has type float64 and shape (0, 3); it must be numbers, at least a row"),
    ("NPZ complex.npz", 1, "x in complex.npz has type complex128 and shape (40, 3); it must be numbers"),
    ("NPZ cube.npz", 1, "y in cube.npz has type float64 and shape (40, 2, 2); it must be numbers, (N) or (N, outputs)"),
    ("NPZ nan.npz", 1, "x holds nan in row 0, column 1; all values must be finite in float32"),
    ("NPZ huge.npz", 1, "x holds inf in row 0, column 1; all values must be finite in float32"),
    ("NPZ one.npz", 1, "the target has a single class; there is nothing to tell apart, at least two are needed"),
    ("NPZ rare.npz", 1, "class '5' has 1 rows; to train on and for val (a val_size of 0.2) and test"),
    ("NPZ beyond.npz --data.task binary", 1, "y reaches from -1 to 2; for task binary it must lie in [0, 1]"),
    ("NPZ beyond.npz --model.cost cross_entropy", 1, "cost is 'cross_entropy'; for regression it must be 'squared_error'"),
    ("NPZ many.npz", 1, "y has 3000 distinct integers, which are too many for classes; say task='regression'"),
    ("NPZ good.npz --data.divide_by 0", 1, "divide_by is 0.0; it must be a finite number other than 0"),
    # the model
    ("XOR --model.lr 0", 1, "lr is 0.0; it must be a finite number above 0"),
    ("XOR --model.lr fast", 2, "model.lr is fast; it must be float"),
    ("XOR --model.lrr 1", 2, "unrecognized arguments: --model.lrr 1"),
    ("XOR --model.momentum 0.9", 2, "unrecognized arguments: --model.momentum 0.9"),
    ("XOR --model.hidden_sizes '[0]'", 1, "layer_sizes is [2, 0, 1]; it must be two or more positive integers"),
    ("XOR --model.hidden_sizes 16", 2, "model.hidden_sizes is 16; it must be list"),
    ("XOR --model.hidden_sizes '[2.5]'", 2, "model.hidden_sizes is 2.5; it must be int"),
    ("XOR --model.cost hinge", 2, "model.cost is hinge; it must be one of 'cross_entropy', 'squared_error'"),
    ("XOR --model.engine warp", 2, "model.engine is warp; it must be one of 'autograd', 'fused'"),
    ("XOR --model.num_features 3", 2, "must be given via"),
    ("XOR --model.lr_scheduler Nope", 2, "model.lr_scheduler is Nope; it must be a class's name"),
    ("XOR --model.lr_scheduler StepLR", 2, "arguments are required: step_size"),
    ("XOR --model.steps_per_execution 3", 1, "steps_per_execution is 3; it must be 1 or more, and is for engine: fused only"),
    ("FUSED --model.steps_per_execution 0", 1, "steps_per_execution is 0; it must be 1 or more"),
    ("FUSED --trainer.gradient_clip_val 1", 1, "gradient_clip_val is 1; engine: fused cannot do that, take engine: autograd"),
    ("FUSED --trainer.accumulate_grad_batches 2", 1, "accumulate_grad_batches is 2; engine: fused cannot do that"),
    ("FUSED --trainer.precision bf16-mixed", 1, "precision is bf16-mixed; engine: fused cannot do that"),
    # the trainer
    ("XOR --trainer.devices 0", 1, "devices='0'"),
    ("XOR --trainer.devices two", 1, "`devices` selected with `CPUAccelerator` should be an int > 0"),
    ("XOR --trainer.accelerator tpu", 1, "torch_xla"),
    ("XOR --trainer.accelerator quantum", 1, "accelerator='quantum'`. Available names are: auto, "),
    ("XOR --trainer.strategy nope", 1, "strategy='nope'"),
    ("XOR --trainer.max_epochs -2", 1, "`max_epochs` must be a non-negative integer or -1. You passed in -2"),
    ("XOR --trainer.max_epochs 1.5", 2, "trainer.max_epochs is 1.5; it must be int"),
    ("XOR --trainer.accumulate_grad_batches 0", 1, "accumulate_grad_batches is 0; it must be above 0"),
    ("XOR --trainer.check_val_every_n_epoch 0", 1, "check_val_every_n_epoch is 0; it must be above 0"),
    ("XOR --trainer.limit_train_batches -1", 1, "invalid value -1 for limit_train_batches"),
    ("XOR --trainer.logger nope", 2, "trainer.logger is nope; it must be a class's name"),
    ("XOR --patience 0", 2, "patience is 0; it must be PositiveInt"),
    ("XOR --seed_everything x", 2, "seed_everything is x; it must be bool or int"),
    ("XOR --seed_everything -1", 1, "-1 is not in bounds, numpy accepts from 0 to 4294967295"),
    # checkpoints
    ("test --ckpt_path gone.ckpt", 1, "the checkpoint gone.ckpt does not exist"),
    (
        "test --ckpt_path half.ckpt",
        1,
        "half.ckpt is damaged or no checkpoint of torchbp: it cannot be read as tensors and plain",
    ),
    ("test --ckpt_path text.ckpt", 1, "text.ckpt is damaged or no checkpoint of torchbp"),
    (
        "test --ckpt_path foreign.ckpt",
        1,
        "foreign.ckpt is no checkpoint of torchbp; one has a state_dict with network.layers.0",
    ),
    ("predict --ckpt_path evil.ckpt --output o.csv", 1, "evil.ckpt is damaged or no checkpoint of torchbp"),
    ("fit --ckpt_path pickle.ckpt", 1, "pickle.ckpt is damaged or no checkpoint of torchbp"),
    ("export --ckpt_path evil.ckpt --output o.pt2", 1, "evil.ckpt is damaged or no checkpoint of torchbp"),
    ("fit --ckpt_path shapes.ckpt", 1, "another network: its network.layers.0.weight has shape (2, 2), here it is (16, 4)"),
    ("export --ckpt_path shapes.ckpt --output o.pt2", 1, "network: its network.layers.0.weight has shape (2, 2), here it is"),
    ("test --ckpt_path columns.ckpt", 1, "what the checkpoint holds of a TabularDataModule is damaged or another version's"),
    ("test --ckpt_path class.ckpt", 2, "os.system does not correspond to a subclass of LightningDataModule"),
    (f"test --config {CONFIGS / 'moons.yaml'} --ckpt_path arrays.ckpt", 1, "its num_features is 3, here it is 2"),
    ("XOR --ckpt_path xor.ckpt --model.hidden_sizes '[7]'", 1, "hidden_sizes is [7]; a checkpoint goes on as it was trained"),
    ("test --ckpt_path table.ckpt --data.target city", 1, "the checkpoint's target is 'bought', here it is 'city'"),
    ("test --ckpt_path table.ckpt --data.task regression", 1, "the checkpoint's task is binary, here it is regression"),
    ("test --ckpt_path table.ckpt --data.path rare.csv", 1, "'bought' holds 'maybe' in row 41; the classes are 'no', 'yes'"),
    ("validate --ckpt_path table.ckpt --data.path blind.csv", 1, "blind.csv has no column 'bought'; it has 'age', 'city'"),
    ("test --ckpt_path arrays.ckpt --data.path narrow.npz", 1, "x has shape (40, 2); the network takes 3 values a row"),
    ("test --ckpt_path arrays.ckpt --data.path classes.npz", 1, "y holds 4 in row 0; the classes are 0, 1"),
    # predictions and exported programs
    ("PREDICT gone.csv --output o.csv", 1, "the data file gone.csv does not exist"),
    ("PREDICT other.csv --output o.csv", 1, "other.csv has no column 'age'; it has 'a', 'b'"),
    ("PREDICT words.csv --output o.parquet", 1, "the numeric column 'age' holds 'old' in row 41; only numbers are allowed"),
    (
        "predict --ckpt_path arrays.ckpt --data.path nan.npz --output o.csv",
        1,
        "x holds nan in row 0, column 1; all values must",
    ),
    ("PREDICT blind.csv --output o.xlsx", 1, "o.xlsx has the extension '.xlsx'; it must be one of .csv, .tsv, .parquet, or -"),
    ("PREDICT blind.csv --output nowhere/o.csv", 1, "nowhere/o.csv cannot be written: No such file or directory"),
    ("PREDICT blind.csv --output nowhere/o.parquet", 1, "nowhere/o.parquet cannot be written: No such file or directory"),
    ("PREDICT blind.csv --output folder.csv", 1, "folder.csv is a folder; a file can be written"),
    ("PREDICT blind.csv --trainer.devices 2", 1, "predictions are written by one process, not 2; say --trainer.devices 1"),
    ("export --ckpt_path table.ckpt", 2, "arguments are required: --output"),
    ("export --ckpt_path table.ckpt --output o.h5", 1, "o.h5 has the extension '.h5'; it must be one of .onnx, .pt2"),
    ("export --ckpt_path table.ckpt --output nowhere/o.pt2", 1, "nowhere/o.pt2 cannot be written: No such file or directory"),
    # one iteration, the audit, the benchmark
    ("trace --x 0,1", 2, "arguments are required: --y"),
    ("trace --x a --y 1", 1, "x is 'a'; it must be numbers such as 0,1, or '0,1; 1,1' for several samples"),
    ("trace --x nan --y 1", 1, "x is 'nan'; its numbers must be finite"),
    ("trace --x 0,1 --y 2", 1, "y reaches from 2 to 2; for cross-entropy it must lie in [0, 1]"),
    ("trace --x 0,1 --y 1 --lr -1", 1, "lr is -1; it must be a positive number"),
    ("trace --x 0,1 --y 1 --seed -1", 2, "seed is -1; it must be from 0 to 4294967295"),
    ("trace --x 0,1 --y 1 --markdown nowhere/a.md", 1, "nowhere/a.md cannot be written: No such file or directory"),
    ("trace --data.path gone.csv --data.target y", 1, "the data file gone.csv does not exist"),
    ("gradcheck --device abacus", 2, "'abacus'"),
    ("gradcheck --function relu", 1, "function is 'relu'; it must be package.module:Function or one of linear"),
    ("gradcheck --function nowhere:Function --inputs 2", 1, "'nowhere' cannot be imported"),
    ("gradcheck --function planted_faults:WrongSign", 1, "needs inputs: shapes such as '4,3 2,3 2'"),
    ("gradcheck --function planted_faults:WrongSign --inputs two", 1, "inputs is 'two'"),
    ("gradcheck --inputs 4,3", 1, "inputs and reference are for a function of your own"),
    ("gradcheck --only backwards", 1, "only has backwards; the checks are autocast, backward, "),
    ("benchmark --threads 0", 2, "threads is 0; it must be 1 or more"),
    ("benchmark --only speed", 2, "invalid choice: 'speed'"),
    ("benchmark --plot steps.csv", 2, "--plot is 'steps.csv'; it must be a file whose name ends in .png"),
    ("benchmark --plot nowhere/steps.png", 2, "--plot is nowhere/steps.png; its folder does not exist"),
]


@pytest.mark.parametrize(("call", "status", "message"), CASES, ids=[call.replace(str(CONFIGS), "") for call, *_ in CASES])
def test_one_line_and_nothing_lost(
    files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: str, status: int, message: str
) -> None:
    monkeypatch.chdir(files)
    before = tree()
    begin, *options = shlex.split(call)
    assert main([*shlex.split(SHORT.get(begin, begin)), *options]) == status
    error = capfd.readouterr().err
    assert error.startswith("torchbp: error: "), error
    assert error.count("\n") == 1, error
    assert message in error
    assert "Traceback" not in error
    after = tree()
    assert after.keys() == before.keys()
    assert after == before


def test_there_are_many() -> None:
    assert len(CASES) >= 60
    assert len({call for call, *_ in CASES}) == len(CASES)
