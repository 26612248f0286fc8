"""What bad calls, configurations, tables and arrays get from the command line: one line, and everything as it was."""

from pathlib import Path

import pytest
from bad_files import check_refused
from training_runs import CONFIGS

# What it is called with, its exit status, and a telling part of its line.
CASES = [
    # calls
    ("train", 2, "'train' is no command; the commands are fit, validate, test, predict, export, gradcheck"),
    ("fit", 2, "fit needs data; say --data.path FILE --data.target COLUMN, or --config FILE"),
    ("fit --data.path good.csv", 2, "arguments are required: target"),
    ("fit --data Nothing --data.path good.csv", 2, "data is Nothing; it must be ArrayDataModule, BuiltinDataModule, Tabular"),
    ("fit --data os.system", 2, "data is os.system; it must be ArrayDataModule, BuiltinDataModule, TabularDataModule or"),
    ("fit --data nowhere.Data", 2, "data is nowhere.Data; it must be ArrayDataModule, BuiltinDataModule, TabularDataModule or"),
    ("fit --data torchbp.data.Nope", 2, "data is torchbp.data.Nope; it must be ArrayDataModule, BuiltinDataModule, Tabular"),
    ("fit --data '' --data.path good.csv", 2, "data is empty; it must be ArrayDataModule"),
    ("fit --data RowsDataModule", 1, "RowsDataModule has no rows of its own; take one of its subclasses"),
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
    ("fit --config list.yaml", 2, "the configuration list.yaml: it must hold options by name, such as model: {lr: 0.5}"),
    ("fit --config empty.yaml", 2, "the configuration empty.yaml: it must hold options by name, such as model: {lr: 0.5}"),
    ("fit --config good.csv", 2, "the configuration good.csv: it must hold options by name, such as model: {lr: 0.5}\n"),
    ("fit --config broken.yaml", 2, "the configuration broken.yaml: it is no YAML: while parsing a flow node"),
    ("XOR --config broken.yaml", 2, "the configuration broken.yaml: it is no YAML: while parsing a flow node"),
    ("trace --config broken.yaml", 2, "the configuration broken.yaml: it is no YAML: while parsing a flow node"),
    ("fit --config words.yaml", 2, "the configuration words.yaml: model.lr is fast; it must be float"),
    ("fit --config folder.csv", 2, "config: Path is not a file: "),
    ("fit --config binary.yaml", 2, "binary.yaml: it is no text: 'utf-8' codec can't decode byte 0x80 in position 128"),
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
    ("CSV rare.csv", 1, "class 'maybe' has 1 row; to train on and for val (a val_size of 0.2) and test"),
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
    ("NPZ nooutputs.npz", 1, "y in nooutputs.npz has type float64 and shape (40, 0); it must be numbers, (N) or (N, outputs)"),
    ("NPZ nan.npz", 1, "x holds nan in row 0, column 1; all values must be finite in float32"),
    ("NPZ huge.npz", 1, "x holds inf in row 0, column 1; all values must be finite in float32"),
    ("NPZ one.npz", 1, "the target has a single class; there is nothing to tell apart, at least two are needed"),
    ("NPZ rare.npz", 1, "class '5' has 1 row; to train on and for val (a val_size of 0.2) and test"),
    ("NPZ beyond.npz --data.task binary", 1, "y reaches from -1 to 2; for task binary it must lie in [0, 1]"),
    ("NPZ beyond.npz --model.cost cross_entropy", 1, "cost is 'cross_entropy'; for regression it must be 'squared_error'"),
    ("NPZ many.npz", 1, "y has 3000 distinct integers, which are too many for classes; say task='regression'"),
    ("NPZ good.npz --data.divide_by 0", 1, "divide_by is 0.0; it must be a finite number other than 0"),
]


@pytest.mark.parametrize(("call", "status", "message"), CASES, ids=[call.replace(str(CONFIGS), "") for call, *_ in CASES])
def test_one_line_and_nothing_lost(
    bad_files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], call: str, status: int, message: str
) -> None:
    monkeypatch.chdir(bad_files)
    check_refused(capfd, call, status, message)


def test_there_are_many() -> None:
    assert len(CASES) >= 60
    assert len({call for call, *_ in CASES}) == len(CASES)
