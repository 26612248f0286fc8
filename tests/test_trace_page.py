"""The page of torchbp trace --html: its numbers, compared with the trace's own, and its use in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from training_runs import CONFIGS

from torchbp.activations import ACTIVATIONS
from torchbp.cli import main
from torchbp.nn import BPNetwork
from torchbp.outputs import OUTPUTS
from torchbp.trace import Trace, trace
from torchbp.trace import _page as pages
from torchbp.trace._words import CHINESE, WORDS

NODE = shutil.which("node")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_node = pytest.mark.skipif(NODE is None, reason="there is no node to run the page's equations")
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium; the page's equations are run by node")

RUN = """
vm.runInThisContext(fs.readFileSync(process.argv[1], "utf8"));
const pages = JSON.parse(fs.readFileSync(0));
const all = pages.map(({ steps, given, lr }) => iterations(steps, given, lr, 3).map(({ results }) =>
  results.map((values, k) => values[steps[k].symbol])));
console.log(JSON.stringify(all));
"""


def by_node(traces: list[Trace]) -> Any:
    """The values of every step of three iterations on each trace's page."""
    script = Path(pages.__file__).with_name("page.js")
    given = json.dumps([pages.page_data(each, "") for each in traces])
    done = subprocess.run([str(NODE), "-e", RUN, str(script)], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


CASES = [
    *(
        (name, output.name, output.cost, per_unit)
        for name in ("sigmoid", "scaled_sigmoid")
        for output in OUTPUTS.values()
        for per_unit in (False, True)
    ),
    *((name, "sigmoid", "cross_entropy", False) for name in ACTIVATIONS if name != "unknown"),
]


@in_node
def test_three_iterations_are_those_of_python() -> None:
    traces, expected = [], []
    for name, output, cost, per_unit in CASES:
        net = BPNetwork([3, 4, 2, 2], output, activation=["tanh", name], per_unit=per_unit, dtype=torch.float64)
        x, y = torch.randn(5, 3), torch.rand(5, 2)
        for _ in range(3):
            traces.append(trace(net, x, y, cost, lr=0.3))
            after = [step.value for step in traces[-1].steps if step.section == "descent"]
            net.load_state_dict(dict(zip(net.state_dict(), after, strict=True)))
        expected += [[step.value for step in each.steps] for each in traces[-3:]]
    found = [values for page in by_node(traces[::3]) for values in page]
    for ours, theirs in zip(expected, found, strict=True):
        for value, rows in zip(ours, theirs, strict=True):
            assert_close(torch.tensor(rows, dtype=torch.float64).reshape(value.shape), value, rtol=1e-10, atol=1e-12)


@in_node
def test_saturated_units_and_certain_targets() -> None:
    net = BPNetwork([2, 2, 1], dtype=torch.float64)
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.fill_(1e3)
    traces = [trace(net, torch.tensor([[1e3, 1e3]]), torch.tensor([[y]])) for y in (0.0, 1.0)]
    for each, found in zip(traces, by_node(traces), strict=True):
        for step, rows in zip(each.steps, found[0], strict=True):
            assert_close(torch.tensor(rows, dtype=torch.float64).reshape(step.value.shape), step.value)


# A reader's actions; "said" collects what the page shows.
READER = """
const said = [];
const key = (name) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const of = (selector, read) => [...document.querySelectorAll(selector)].map(read), words = (node) => node.textContent;
const say = () => said.push([
  ...of("#card h2, #step-name, #iteration-name", words), of("#card .result td", words),
  of("#picture .lit", (node) => node.dataset.at),
]);
say(); key("ArrowRight"); say(); key("ArrowLeft"); key("ArrowLeft"); key("ArrowDown"); key("ArrowDown"); say();
key("ArrowUp"); key("ArrowUp"); for (let k = 0; k < 11; k++) key("ArrowRight"); say();
const input = document.querySelector('#inputs [data-at="c2-0-1"]');
input.value = "-3"; input.dispatchEvent(new Event("input", { bubbles: true })); say();
const target = document.querySelectorAll("#inputs .value")[1].querySelector("input");
target.value = "7"; target.dispatchEvent(new Event("input", { bubbles: true })); say();
document.querySelector('#picture [data-at="c1-1-0"]').dispatchEvent(new Event("mouseover", { bubbles: true }));
const here = document.querySelector("#here").textContent;
document.querySelector("#reset").click(); say();
const math = [...document.querySelectorAll("#card math")].map((node) => node.getBoundingClientRect().width > 0);
document.body.replaceChildren(Object.assign(document.createElement("pre"), {
  textContent: JSON.stringify({ said, here, math, scroll: document.documentElement.scrollWidth - innerWidth }),
}));
"""


def by_reader(page: str, folder: Path, width: int = 1200) -> Any:
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{READER}</script></body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, f"--window-size={width},900", "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@in_browser
def test_reader_steps_edits_and_points(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = BPNetwork([2, 2, 1], dtype=torch.float64)
    traced = trace(net, torch.tensor([[0.5, 1.0]]), torch.tensor([[1.0]]), lr=0.5)
    found = by_reader(pages.page(traced, "Drawn."), tmp_path)
    first, second, third, carried, edited, refused, restored = found["said"]

    def shown(value: torch.Tensor) -> list[str]:
        return [f"{v:.6f}".replace("-", "−") for v in value.flatten().tolist()]

    values = {step.symbol: step.value for step in traced.steps}
    assert first[:4] == ["2.1 weighted input of layer 1", "Step 1/18", "Iteration 1/100", shown(values["Z1"])]
    assert set(first[4]) == {"u1-0", "u1-1", "c1-0-0", "c1-0-1", "c1-1-0", "c1-1-1"}
    assert second[:2] == ["2.2 activation of layer 1", "Step 2/18"]
    assert set(second[4]) == {"u1-0", "u1-1"}
    assert third[1:3] == ["Step 1/18", "Iteration 3/100"]
    assert carried[0] == "3.2e error carried back to layer 1"
    assert carried[3] == shown(values["dZ1"])
    assert set(carried[4]) == {"u1-0", "u1-1", "c2-0-0", "c2-0-1"}
    with torch.no_grad():
        net.layers[1].weight[0, 1] = -3.0
    changed = {step.symbol: step.value for step in trace(net, traced.x, traced.y, lr=0.5).steps}
    assert edited[:3] == carried[:3]
    assert edited[3] == shown(changed["dZ1"]) != carried[3]
    assert refused == edited  # 7 is not a valid target of a sigmoid
    assert found["here"].startswith("From unit 1 of layer 0 to unit 2 of layer 1: W1 = ")
    assert restored == carried
    assert all(found["math"])
    assert found["scroll"] <= 0
    assert by_reader(pages.page(traced, "Drawn.", "zh"), tmp_path, width=500)["scroll"] <= 0  # a phone's width


def test_page_of_a_configuration_in_chinese(tmp_path: Path) -> None:
    arguments = ["trace", "--config", str(CONFIGS / "digits.yaml"), "--samples", "2", "--lang", "zh"]
    assert main([*arguments, "--html", str(tmp_path / "digits.html")]) == 0
    page = (tmp_path / "digits.html").read_text(encoding="utf-8")
    assert "digits 第一批数据的前 2 个样本（已标准化），以及网络的初始权重。" in page
    assert "反向传播：网络 64-64-10，交叉熵，α = 3，2 个样本" in page


def test_page_needs_no_network_and_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert main(["trace", "--x", "0,1", "--y", "1", "--html", str(path)]) == 0
    assert capsys.readouterr().out == ""
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"'\s]+", page) == ["http://www.w3.org/2000/svg"]  # SVG's name
    assert not re.search(r"\b(src|href|fetch|import|url)\b ?[=(]", page)


def test_every_word_of_a_trace_is_said_in_chinese() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    for output in OUTPUTS.values():
        net = BPNetwork([2, 3, 2], output.name, activation="swish")
        data = pages.page_data(trace(net, torch.rand(1, 2), torch.tensor([[0.0, 1.0]]), output.cost), "", "zh")
        assert not re.search("[a-z]{3}", "".join(step["what"] for step in data["steps"]))
    assert all(re.compile(pattern) for pattern, _ in CHINESE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lang", "zh"], "lang is 'zh'; it is for the page, --html FILE"),
        (
            ["--html", "page.html", "--activation", "unknown"],
            "activation unknown is a table of values, which the page cannot compute",
        ),
        (
            ["--html", "page.html", "--activation", "activation_with_gamma:log_gamma"],
            "a formula has 'loggamma(Z1)', which the page",
        ),
        (["--html", "nowhere/page.html"], "nowhere/page.html"),
    ],
)
def test_what_cannot_be_a_page_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "activation_with_gamma.py").write_text(
        "import torch\nfrom torchbp.activations import Activation\n"
        "f, df = torch.lgamma, torch.digamma\n"
        "log_gamma = Activation('log_gamma', 'loggamma(z)', 'digamma(z)', lambda z, out=None: f(z), df, f)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "--x", "0,1", "--y", "1", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert message in output.err
    assert not Path("page.html").exists()
