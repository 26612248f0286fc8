"""Real tables from packages that ship them, which are not imported; and two random tables with many classes."""

import importlib.util
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

MISSING = ["", "NA"]


def packaged(package: str, path: str) -> bytes:
    """A file that a package ships; if it is a ZIP archive, the only file in it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is not installed; pip install '.[tables]'")
    file = Path(spec.submodule_search_locations[0]) / path
    if file.suffix != ".zip":
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return archive.read(archive.namelist()[0])


def _file(
    package: str, path: str, target: str, separator: str = ",", without: tuple[str, ...] = ()
) -> Callable[[], pl.DataFrame]:
    def read() -> pl.DataFrame:
        frame = pl.read_csv(
            io.BytesIO(packaged(package, path)),
            separator=separator,
            quote_char='"',
            null_values=MISSING,
            infer_schema_length=None,
        )
        frame = frame.rename({name: name.strip("'") for name in frame.columns})
        return frame.drop(without).drop_nulls(target)

    return read


def _sklearn(name: str) -> Callable[[], pl.DataFrame]:
    def read() -> pl.DataFrame:
        import sklearn.datasets

        data = getattr(sklearn.datasets, f"load_{name}")()
        features = pl.DataFrame(data.data, schema=[*map(str, data.feature_names)])
        names = getattr(data, "target_names", None)
        values = [str(names[label]) for label in data.target] if names is not None else data.target
        return features.with_columns(pl.Series("target", values))

    return read


def _drawn(classes: int, rows: int) -> Callable[[], pl.DataFrame]:
    def read() -> pl.DataFrame:
        from sklearn.datasets import make_classification

        x, y = make_classification(
            rows, 30, n_informative=20, n_redundant=0, n_classes=classes, n_clusters_per_class=1, class_sep=2.0, random_state=0
        )
        return pl.DataFrame(x, schema=[f"x{number}" for number in range(30)]).with_columns(
            pl.Series("target", [f"class {label}" for label in y])
        )

    return read


def _islp(name: str, target: str, *without: str) -> tuple[str, Callable[[], pl.DataFrame]]:
    return target, _file("ISLP", f"data/{name}.csv", target, without=without)


def _statsmodels(name: str, target: str, separator: str = ",", *without: str) -> tuple[str, Callable[[], pl.DataFrame]]:
    return target, _file("statsmodels", f"datasets/{name}/{name}.csv", target, separator, without)


def _sklego(name: str, target: str) -> tuple[str, Callable[[], pl.DataFrame]]:
    return target, _file("sklego", f"data/{name}.zip", target)


# By name: the target, and the function that reads the table. Columns that restate the target are left out.
TABLES: dict[str, tuple[str, Callable[[], pl.DataFrame]]] = {
    "Auto": _islp("Auto", "mpg"),
    "Bikeshare": _islp("Bikeshare", "bikers", "casual", "registered"),
    "Boston": _islp("Boston", "medv"),
    "Caravan": _islp("Caravan", "Purchase"),
    "Carseats": _islp("Carseats", "Sales"),
    "College": _islp("College", "Grad.Rate"),
    "Credit": _islp("Credit", "Balance"),
    "Default": _islp("Default", "default"),
    "Hitters": _islp("Hitters", "Salary"),
    "OJ": _islp("OJ", "Purchase"),
    "Publication": _islp("Publication", "posres"),
    "Smarket": _islp("Smarket", "Direction", "Today"),
    "Wage": _islp("Wage", "wage", "logwage"),
    "Weekly": _islp("Weekly", "Direction", "Today"),
    "abalone": _sklego("abalone", "rings"),
    "anes96": _statsmodels("anes96", "vote", "\t"),
    "anes96 party": _statsmodels("anes96", "PID", "\t"),
    "arrests": _sklego("arrests", "released"),
    "breast cancer": ("target", _sklearn("breast_cancer")),
    "chickweight": _sklego("chickweight", "weight"),
    "diabetes": ("target", _sklearn("diabetes")),
    "digits": ("target", _sklearn("digits")),
    "fair": _statsmodels("fair", "affairs"),
    "hearts": _sklego("hearts", "target"),
    "heroes": _sklego("heroes", "role"),
    "iris": ("target", _sklearn("iris")),
    "modechoice": _statsmodels("modechoice", "choice", ";"),
    "penguins": ("species", _file("palmerpenguins", "data/penguins.csv", "species")),
    "penguins mass": ("body_mass_g", _file("palmerpenguins", "data/penguins.csv", "body_mass_g")),
    "randhie": _statsmodels("randhie", "mdvis"),
    "star98": _statsmodels("star98", "MATHTOT", ","),
    "wine": ("target", _sklearn("wine")),
    "26 classes (drawn)": ("target", _drawn(26, 4000)),
    "100 classes (drawn)": ("target", _drawn(100, 6000)),
}
