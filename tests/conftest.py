import gc
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  (first, as on the command line: see test_cli's test of whole numbers)
import pytest
import torch

pytest_plugins = ["pytester"]


def pytest_collection_finish() -> None:
    """Spare the garbage collector the imported modules, which it would search again and again."""
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, most of them bad, that the tests do not change."""
    from bad_files import write_files

    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    return folder


@pytest.fixture
def refused(bad_files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Checks a refused call in that folder: see :func:`bad_files.check_refused`."""
    from bad_files import check_refused

    monkeypatch.chdir(bad_files)
    return partial(check_refused, capfd)
