from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, few of them good, that the tests leave as it is."""
    from bad_files import write_files  # and with it Lightning, which takes seconds to import

    folder = tmp_path_factory.mktemp("bad")
    write_files(folder)
    return folder
