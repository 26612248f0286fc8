"""The words of the page, in English and Chinese."""

import re
from collections.abc import Callable

__all__ = ["LANGUAGES", "WORDS", "translated"]

LANGUAGES = ("en", "zh")

# The page's own words, by the keys of page.js, which fills in {…}.
WORDS = {
    "en": {
        "forward": "Forward", "cost": "Cost", "backward": "Backward", "descent": "Descent",
        "step": "Step", "iteration": "Iteration", "sample": "Sample", "previous": "Previous step", "next": "Next step",
        "given": "Change inputs, targets and weights", "reset": "Reset", "lr": "Learning rate α",
        "curve": "Cost L in each iteration", "shape": "{} × {}, norm {}", "nowhere": "not defined for these targets",
        "keys": "Keys: ← → step, ↑ ↓ iteration. "
        "Point at a number, a unit or a connection to highlight all values that belong to it. δ is ∂L/∂z.",
        "unit": "Unit {} of layer {}", "input": "Input {}", "connection": "From unit {} of layer {} to unit {} of layer {}",
        "proof": "This page computes every number with the equations shown. "
        "When the page was made, the first iteration was compared with PyTorch: the largest difference was {}.",
        "row": "row", "rows": "rows", "from": "computed from", "if": "if", "else": "else",
    },
    "zh": {
        "forward": "前向传播", "cost": "损失", "backward": "反向传播", "descent": "梯度下降",
        "step": "步骤", "iteration": "迭代", "sample": "样本", "previous": "上一步", "next": "下一步",
        "given": "修改输入、目标值和权重", "reset": "重置", "lr": "学习率 α",
        "curve": "损失 L 随迭代的变化", "shape": "{} × {}，范数 {}", "nowhere": "对这些目标值没有定义",
        "keys": "按键：← → 切换步骤，↑ ↓ 切换迭代。指向一个数、一个神经元或一条连接，与它有关的数会高亮显示。δ 即 ∂L/∂z。",
        "unit": "第 {1} 层第 {0} 个神经元", "input": "第 {} 个输入",
        "connection": "从第 {1} 层第 {0} 个神经元到第 {3} 层第 {2} 个神经元",
        "proof": "页面中的每个数都由页面按所示公式算出。生成本页时，第一次迭代的结果与 PyTorch 的结果作了比较：最大差为 {}。",
        "row": "行", "rows": "各行", "from": "所用的量", "if": "若", "else": "否则",
    },
}  # fmt: skip

COSTS = {"cross-entropy": "交叉熵", "squared error": "平方误差", "poisson": "泊松损失"}

# Patterns of the trace's English texts, and their Chinese translations.
CHINESE: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"weighted input of layer (\d+)", r"第 \1 层的加权输入"),
    (r"activation of layer (\d+)", r"第 \1 层的激活值"),
    (r"prediction", "预测值"),
    (r"cross-entropy, piecewise", "交叉熵损失（分段形式）"),
    (r"cross-entropy, joined", "交叉熵损失（合并形式）"),
    (r"cost by activation of layer (\d+)", r"损失对第 \1 层激活值的导数"),
    (r"cost by activation", "损失对激活值的导数"),
    (r"activation by weighted input", "激活值对加权输入的导数"),
    (r"error of the output layer", "输出层的误差"),
    (r"error carried back to layer (\d+)", r"误差反向传播到第 \1 层"),
    (r"cost by weights of layer (\d+)", r"损失对第 \1 层权重的导数"),
    (r"cost by biases of layer (\d+)", r"损失对第 \1 层偏置的导数"),
    (r"cost by (\S+) of layer (\d+)", r"损失对第 \2 层参数 \1 的导数"),
    (r"weights of layer (\d+)", r"第 \1 层的权重"),
    (r"biases of layer (\d+)", r"第 \1 层的偏置"),
    (r"(\S+) of layer (\d+)", r"第 \2 层的参数 \1"),
    (
        r"One iteration of backpropagation: network (\S+)(?: \((.*)\))?, (.*), α = (\S+), (\d+) samples?",
        lambda m: f"反向传播：网络 {m[1]}{f'（{m[2]}）' if m[2] else ''}，{COSTS.get(m[3], m[3])}，α = {m[4]}，{m[5]} 个样本",
    ),
    (r"Weights drawn by seed (\d+) \((\w+)\)\.", r"权重由随机种子 \1 产生（\2）。"),
    (r"Weights from (.*)\.", r"权重取自 \1。"),
    (
        r"The first (?:(\d+) samples|sample) of the first batch of (.*?)(, standardised)?, and the network's first weights\.",
        lambda m: f"{m[2]} 第一批数据的前 {m[1] or 1} 个样本{'（已标准化）' if m[3] else ''}，以及网络的初始权重。",
    ),
]


def translated(text: str, lang: str) -> str:
    """A text of the trace in another language; unchanged if there is no translation."""
    if lang == "zh":
        for pattern, chinese in CHINESE:
            if found := re.fullmatch(pattern, text):
                return chinese(found) if callable(chinese) else found.expand(chinese)
        return COSTS.get(text, text)
    return text
