"""Checkpoints and run folders from strangers: at worst refused in one line; nothing is opened, imported or removed."""

import copy
import os
import random
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bad_files import GOOD, tree

from torchbp._plain import refuse_misfit
from torchbp.cli import main
from torchbp.data import TabularDataModule
from torchbp.training import BPModule
from torchbp.training.checkpoint import load_checkpoint, load_data, load_module

COMMANDS = {"test": [], "validate": [], "predict": ["--output", "o.csv"], "fit": ["--trainer.max_epochs", "3"]}
TABLE = ["--data.path", "good.csv"]
SCHEDULE = ["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "1"]
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch owned", "shell": True}}
MAPPER = {
    "class_path": "torch.utils.data.datapipes.iter.Mapper",
    "init_args": {
        "fn": "torch.relu",
        "input_col": POPEN,
        "datapipe": {"class_path": "torch.utils.data.datapipes.iter.IterableWrapper", "init_args": {"iterable": [1]}},
    },
}
DATASETS = {"_class_path": "lightning.pytorch.LightningDataModule.from_datasets", "train_dataset": MAPPER}
LAMBDA = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1, "device": POPEN}}
SCHEDULER = {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": LAMBDA}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on a table, and with targets for an attack: secret files, and a module to import."""
    folder, home = tmp_path_factory.mktemp("strangers"), os.getcwd()
    os.chdir(folder)
    try:
        Path("good.csv").write_text(GOOD)
        Path("secret.csv").write_text(GOOD)
        Path("stranger.py").write_text("open('owned', 'w')\nclass Data: ...\n")
        Path("victim").mkdir()
        Path("victim/precious.ckpt").write_text("precious")
        options = ["--data.target", "bought", "--trainer.max_epochs", "2", "--patience", "5"]
        assert main(["fit", *TABLE, *options, *SCHEDULE]) == 0
    finally:
        os.chdir(home)
    return folder


@pytest.fixture
def good(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The run's last checkpoint; the working folder is a copy of the run's folder."""
    shutil.copytree(trained, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend("")  # as for python -m torchbp
    return torch.load("logs/good/version_0/checkpoints/last.ckpt", weights_only=True)


def call(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """The exit status and standard error, which must be one line if the status is not 0."""
    capfd.readouterr()
    status = main([*args])
    said = capfd.readouterr().err
    assert status == 0 or (said.startswith("torchbp: error: ") and said.count("\n") == 1), (args, status, said)
    assert "Traceback" not in said
    return status, said


def changed(good: dict[str, Any], part: str, **values: Any) -> dict[str, Any]:
    return {**good, part: {**good[part], **values}}


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("datamodule_hyper_parameters", DATASETS),
        ("datamodule_hyper_parameters", {"_class_path": "stranger.Data"}),
        ("datamodule_hyper_parameters", {"null_values": MAPPER}),
        ("hyper_parameters", {"lr_scheduler": SCHEDULER}),
        ("hyper_parameters", {"_class_path": "stranger.Data", "_instantiator": "os.system"}),
    ],
)
def test_no_value_of_a_checkpoint_runs_code(
    good: dict[str, Any], capfd: pytest.CaptureFixture[str], part: str, values: dict[str, Any]
) -> None:
    torch.save(changed(good, part, **values), "evil.ckpt")
    for command, options in COMMANDS.items():
        for data in ([], TABLE):
            call(capfd, command, "--ckpt_path", "evil.ckpt", *options, *data)
    call(capfd, "export", "--ckpt_path", "evil.ckpt", "--output", "o.pt2")
    for load in (BPModule.load_from_checkpoint, TabularDataModule.load_from_checkpoint):
        try:
            load("evil.ckpt", **({} if load.__self__ is BPModule else {"path": "good.csv", "target": "bought"}))
        except ValueError as error:
            assert "null_values" in str(error)  # noqa: PT017
    time.sleep(0.2)  # time for a started program to run
    assert not Path("owned").exists()
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("place", ["run", "elsewhere"])
def test_a_checkpoint_removes_nothing(good: dict[str, Any], capfd: pytest.CaptureFixture[str], place: str) -> None:
    run = "logs/good/version_0" if place == "run" else "logs/good/version_1"  # the next run's folder
    victim = f"{run}/checkpoints/../../../../victim"
    for state in good["callbacks"].values():
        if "dirpath" in state:
            worst = torch.tensor(1e9)  # the next epoch beats it
            paths = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), victim)
            scores = {"best_model_score": worst, "kth_value": worst, "best_k_models": {victim: worst}}
            state.update(dirpath=f"{run}/checkpoints", **paths, **scores)
    path = "logs/good/version_0/checkpoints/evil.ckpt" if place == "run" else "evil.ckpt"
    torch.save(good, path)
    status, _ = call(capfd, "fit", "--ckpt_path", path, *TABLE, "--trainer.max_epochs", "4", *SCHEDULE)
    assert status == 0
    assert Path("victim/precious.ckpt").read_text() == "precious"
    assert {file.name for file in Path(run, "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}


def test_the_configuration_of_a_run_outside_logs_is_not_read(good: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("logs/good/version_0", "got/good/version_0")
    config = yaml.safe_load(Path("got/good/version_0/config.yaml").read_text())
    config["trainer"]["callbacks"] = {"class_path": "stranger.Data"}
    Path("got/good/version_0/config.yaml").write_text(yaml.safe_dump(config))
    path = "got/good/version_0/checkpoints/last.ckpt"
    status, said = call(capfd, "fit", "--ckpt_path", path, *TABLE, *SCHEDULE, "--trainer.max_epochs", "3")
    assert (status, said) == (0, "")
    assert not Path("owned").exists()
    # The same through a link from logs/.
    os.symlink(Path("got/good").absolute(), "logs/linked")
    status, said = call(capfd, "test", "--ckpt_path", "logs/linked/version_0/checkpoints/last.ckpt", *TABLE)
    assert (status, said) == (0, "")
    # The same if config.yaml is itself a link.
    shutil.copytree("logs/good/version_0", "logs/good/version_7")
    Path("logs/good/version_7/config.yaml").unlink()
    os.symlink(Path("got/good/version_0/config.yaml").absolute(), "logs/good/version_7/config.yaml")
    path = "logs/good/version_7/checkpoints/last.ckpt"
    status, said = call(capfd, "fit", "--ckpt_path", path, *TABLE, *SCHEDULE, "--trainer.max_epochs", "3")
    assert (status, said) == (0, "")
    assert not Path("owned").exists()
    # The config.yaml of a run in logs/ is read, and standard error says so.
    status, said = call(capfd, "test", "--ckpt_path", "logs/good/version_0/checkpoints/last.ckpt")
    assert (status, said) == (0, "torchbp: the data settings are those of logs/good/version_0/config.yaml\n")


def test_paths_and_caches_are_said_on_the_command_line(good: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    mine = {"path": "secret.csv", "cache_dir": "stolen", "memory": 0.0, "keep_cache": True, "val_path": "secret.csv"}
    torch.save(changed(good, "datamodule_hyper_parameters", **mine), "evil.ckpt")
    assert call(capfd, "test", "--ckpt_path", "evil.ckpt", *TABLE)[0] == 0
    assert not Path("stolen").exists()
    status, said = call(capfd, "validate", "--ckpt_path", "evil.ckpt")
    assert (status, said) == (2, "torchbp: error: evil.ckpt does not hold the path of its data; set --data.path FILE\n")


def deflated(good: dict[str, Any]) -> None:
    torch.save(changed(good, "state_dict", more=torch.zeros(10**6)), "plain.ckpt")
    with zipfile.ZipFile("plain.ckpt") as plain, zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))


def laughing(good: dict[str, Any]) -> None:
    many: list[Any] = [1] * 10
    for _ in range(8):
        many = [many] * 10
    torch.save({**good, "more": many}, "bomb.ckpt")


def shared(good: dict[str, Any]) -> None:
    numbers = torch.ones(10**5)
    torch.save(changed(good, "state_dict", **{f"more{n}": numbers.view(-1) for n in range(100)}), "bomb.ckpt")


BOMBS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "deflated": (deflated, "it is compressed"),
    "wide": (
        lambda good: torch.save(changed(good, "hyper_parameters", hidden_sizes=[30000, 30000]), "bomb.ckpt"),
        "of another network: it says 30000 units, its largest tensor has 400 numbers",
    ),
    "deep": (
        lambda good: torch.save(changed(good, "hyper_parameters", hidden_sizes=[1] * 5000), "bomb.ckpt"),
        "the checkpoint has 5000 hidden layers; at most 1000 are allowed",
    ),
    "spread": (
        lambda good: torch.save(changed(good, "state_dict", more=torch.ones(1).expand(10**12)), "bomb.ckpt"),
        "it has a tensor that is not contiguous",
    ),
    "shared": (shared, "it declares more than it holds"),
    "laughing": (laughing, "it declares more than it holds"),
    "long": (
        lambda good: torch.save(changed(good, "hyper_parameters", num_features=10**6000), "bomb.ckpt"),
        "it cannot be read as tensors and plain values",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(good: dict[str, Any], capfd: pytest.CaptureFixture[str], bomb: str) -> None:
    write, message = BOMBS[bomb]
    write(good)
    for args in (["test", *TABLE], ["export", "--output", "o.pt2"]):
        status, said = call(capfd, args[0], "--ckpt_path", "bomb.ckpt", *args[1:])
        assert status == 1
        assert message in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", -0.5, "its lr is -0.5; it must be a finite number of 0 or more"),
        ("momentum", -0.9, "its momentum is -0.9; it must be from 0 to 1"),
        ("maximize", True, "its maximize is True; it must be False"),
        ("weight_decay", 1.0, "its weight_decay is 1.0; it must be 0"),
        ("nesterov", POPEN, "its nesterov is {'class_path'"),
    ],
)
def test_training_goes_on_by_gradient_descent_alone(
    good: dict[str, Any], capfd: pytest.CaptureFixture[str], name: str, value: Any, message: str
) -> None:
    good["optimizer_states"][0]["param_groups"][0][name] = value
    torch.save(good, "evil.ckpt")
    status, said = call(capfd, "fit", "--ckpt_path", "evil.ckpt", *TABLE, *SCHEDULE, "--trainer.max_epochs", "4")
    assert status == 1
    assert message in said


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", -1.0, "lr_scheduler StepLR sets the learning rate to -0."),
        ("optimizer", 3, "the checkpoint was trained with another lr_scheduler than StepLR: it has 'optimizer'"),
    ],
)
def test_a_schedule_of_a_checkpoint_makes_no_negative_rate(
    good: dict[str, Any], capfd: pytest.CaptureFixture[str], name: str, value: Any, message: str
) -> None:
    good["lr_schedulers"][0][name] = value
    torch.save(good, "evil.ckpt")
    status, said = call(capfd, "fit", "--ckpt_path", "evil.ckpt", *TABLE, *SCHEDULE, "--trainer.max_epochs", "4")
    assert status == 1
    assert message in said


TWO = {name: torch.zeros(2, dtype=torch.int64) for name in ("tp", "fp", "tn", "fn")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": -1}, "its rows_so_far is {'cost_sum': 1.0, 'rows': -1"),
        ({"norms": torch.zeros(2, 2)}, "its rows_so_far is {'cost_sum': 1.0, 'rows': 3"),
        ({"metrics": {"accuracy/train": TWO, "f1/train": TWO}}, "its unfinished epoch are of other metrics than the network's"),
        ({"metrics": {"forward": {}}}, "its unfinished epoch are of other metrics than the network's"),
    ],
)
def test_sums_of_an_unfinished_epoch_fit_the_networks_metrics(
    good: dict[str, Any], capfd: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    rows = {"cost_sum": 1.0, "rows": 3, "norms": torch.empty(0), "metrics": None, **changes}
    torch.save({**good, "rows_so_far": rows}, "evil.ckpt")
    status, said = call(capfd, "fit", "--ckpt_path", "evil.ckpt", *TABLE, *SCHEDULE, "--trainer.max_epochs", "4")
    assert status == 1
    assert message in said


def test_sums_that_are_parameters_are_taken_as_tensors(good: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    states = BPModule(1, 1).metrics["train"].metric_state
    as_parameters = {
        metric: {name: torch.nn.Parameter(value.clone(), requires_grad=False) for name, value in of.items()}
        for metric, of in states.items()
    }
    rows = {"cost_sum": 1.0, "rows": 3, "norms": torch.nn.Parameter(torch.ones(1)), "metrics": as_parameters}
    torch.save({**good, "rows_so_far": rows}, "odd.ckpt")
    assert call(capfd, "fit", "--ckpt_path", "odd.ckpt", *TABLE, *SCHEDULE, "--trainer.max_epochs", "4")[0] == 0


# Values that replace any value: names of classes or modules, names of files, and sizes and other types.
CODE: list[Any] = [POPEN, MAPPER, SCHEDULER, {"_class_path": "stranger.Data"}, "stranger.Data", "os.system"]
FILES: list[Any] = ["secret.csv", "victim", "logs/good/version_0/checkpoints/../../../../victim/precious.ckpt", "/etc/passwd"]
OTHER: list[Any] = [
    "\x1b[2J",
    -1,
    0,
    1,
    2**40,
    2**70,
    10**5000,
    float("nan"),
    float("inf"),
    -0.5,
    1e300,
    None,
    True,
    "",
    [],
    {},
    [[[]]],
    {"a": {"b": [1]}},
    torch.zeros(0),
    torch.full((2, 2), 1e30),
]
NEVER = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.spawn",
    "os.link",
    "os.symlink",
    "ctypes.",
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree")  # arguments: a path, ..., a folder's descriptor
ALTERS = ("os.chmod", "os.chown", "os.truncate", "os.utime")


def in_folder(args: tuple[Any, ...]) -> str:
    """The path that an event names, which may be relative to an open folder."""
    folder = args[-1] if isinstance(args[-1], int) and args[-1] >= 0 else None
    name = os.fsdecode(args[0])
    return name if folder is None or os.path.isabs(name) else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)


class Watch:
    """Records forbidden actions of this process while ``on``, by an audit hook, which cannot be removed."""

    def __init__(self) -> None:
        self.on, self.known, self.found = False, {*sys.modules}, list[str]()
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import" and args[0] not in self.known:
            self.found.append(f"import {args[0]}")
        elif event.startswith("ctypes.") and "libnvidia-ml.so.1" in str(args[:1]):
            return  # Lightning looks for CUDA devices
        elif event.startswith(NEVER):
            self.found.append(event)
        elif event in CHANGES and not self.may_write(in_folder(args)):
            self.found.append(f"{event} {in_folder(args)!r}")
        elif event in ALTERS and isinstance(args[0], str | bytes | os.PathLike) and not self.may_write(args[0]):
            self.found.append(f"{event} {args[0]!r}")
        elif event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            writes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not (self.may_write(args[0]) if writes else self.may_read(args[0])):
                self.found.append(f"open {args[0]!r} {args[1]}")

    def may_write(self, path: Any) -> bool:
        found = os.path.realpath(os.fsdecode(path))
        allowed = [os.path.realpath(name) for name in ("logs", "o.csv", "o.pt2")]
        return found == "/dev/null" or any(found == one or found.startswith((f"{one}/", f"{one}.")) for one in allowed)

    def may_read(self, path: Any) -> bool:
        found = os.path.realpath(os.fsdecode(path))
        mine = [os.path.realpath(name) for name in ("good.csv", "evil.ckpt", ".")]
        code = [os.path.realpath(name) for name in {*sys.path, sys.prefix, sys.base_prefix} if name] + ["/proc", "/sys", "/dev"]
        inside = any(found.startswith(f"{one}/") for one in code if one != mine[-1])
        return found in mine or inside or not os.path.lexists(found) or self.may_write(path)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.found.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all plain values and containers in a tree."""
    if path:
        yield path
    if isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return copy.deepcopy(value)
    if isinstance(tree, dict):
        return {key: replaced(one, path[1:], value) if key == path[0] else one for key, one in tree.items()}
    return type(tree)(replaced(one, path[1:], value) if key == path[0] else one for key, one in enumerate(tree))


def test_any_value_in_any_place_is_refused_or_harmless(
    good: dict[str, Any], capfd: pytest.CaptureFixture[str], watch: Watch
) -> None:
    where = list(places(good))
    assert len(where) > 200
    draw = random.Random(0)
    commands = [[name, *options, *TABLE, *(SCHEDULE if name == "fit" else [])] for name, options in COMMANDS.items()]
    commands += [["test"], ["export", "--output", "o.pt2"]]
    torch.save(good, "evil.ckpt")
    for command in commands:  # imports all that the loaders need
        call(capfd, command[0], "--ckpt_path", "evil.ckpt", *command[1:])
    main(["test", "--ckpt_path", "gone.ckpt"])
    watch.known |= {*sys.modules}
    before = {name: content for name, content in tree().items() if not name.startswith(("logs", "o.", "evil.ckpt"))}
    refused = 0
    cases = [(place, draw.choice(values)) for values in (OTHER, CODE + FILES) for place in where]
    cases += [(place, value) for place in where if place[0] == "datamodule_hyper_parameters" for value in CODE + FILES]
    for number, (place, value) in enumerate(draw.sample(cases, len(cases))):
        torch.save(replaced(good, place, value), "evil.ckpt")
        with watch.watching():
            if number % 30 == 0:
                command = commands[number // 30 % len(commands)]
                refused += call(capfd, command[0], "--ckpt_path", "evil.ckpt", *command[1:])[0] > 0
            else:
                try:
                    checkpoint = load_checkpoint("evil.ckpt")
                    load_module(checkpoint)
                    load_data(checkpoint)
                except ValueError as error:
                    refused += 1
                    assert "\x1b" not in str(error)  # noqa: PT017
        assert not watch.found, (place, value, watch.found)
    assert refused > 100
    after = {name: content for name, content in tree().items() if not name.startswith(("logs", "o.", "evil.ckpt"))}
    assert after == before


def test_a_tensor_in_a_message_takes_one_line() -> None:
    with pytest.raises(ValueError, match=r"^its x is tensor\(\[\[1\., 0\.\],[ ]+\[0\., 1\.\]\]\); it must be a text$"):
        refuse_misfit("its x", torch.eye(2), str)
