"use strict";

// --- The equations. A value is a list of rows; a number is one row with one column. Size 1 is broadcast, as in NumPy.

const ITERATIONS = 100; // fewer for a large network
const each = (f) => (...xs) => {
  const rows = Math.max(...xs.map((x) => x.length));
  const columns = Math.max(...xs.map((x) => x[0].length));
  const at = (x, i, j) => x[x.length > 1 ? i : 0][x[0].length > 1 ? j : 0];
  return Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => f(...xs.map((x) => at(x, i, j)))));
};
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const transpose = (x) => x[0].map((_, j) => x.map((row) => row[j]));
const product = (x, y) => {
  const columns = transpose(y);
  return x.map((row) => columns.map((column) => row.reduce((total, v, k) => total + v * column[k], 0)));
};

const OPERATIONS = {
  "+": each((a, b) => a + b),
  "-": each((a, b) => a - b),
  "*": each((a, b) => a * b),
  "/": each((a, b) => a / (b || 1e-12)), // never divides by 0
  log: each((a) => Math.max(Math.log(a), -100)), // clamped, as in torchbp.equations
  exp: each((a) => Math.min(Math.exp(a), 1e300)), // never infinite
  "**": each((a, b) => a ** b),
  ">": each((a, b) => Number(a > b)),
  "<": each((a, b) => Number(a < b)),
  ">=": each((a, b) => Number(a >= b)),
  "<=": each((a, b) => Number(a <= b)),
  "==": each((a, b) => Number(a === b)),
  times: each((a, b) => a * b),
  "@": product,
  T: transpose,
  sum: (x) => x.map((row) => [sum(row)]),
  rows: (x) => [transpose(x).map(sum)],
  total: (x) => [[sum(x.flat())]],
  Max: each(Math.max),
  Min: each(Math.min),
  Abs: each(Math.abs),
  Heaviside: each((a) => (Math.sign(a) + 1) / 2),
  erf: each(erf),
  erfc: each((a) => 1 - erf(a)),
  // Pairs of a value and its condition: the first value whose condition holds, else NaN.
  cases: each((...pairs) => pairs[pairs.findIndex((_, k) => k % 2 && pairs[k]) - 1] ?? NaN),
};

function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, total = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total); n++) total += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * total;
}

function evaluate(program, values) {
  if (typeof program === "number") return [[program]];
  if (typeof program === "string") return values[program];
  const [name, ...parts] = program;
  return (OPERATIONS[name] ?? each(Math[name]))(...parts.map((part) => evaluate(part, values)));
}

// One iteration: for each step, all values after it.
function iterate(steps, given, lr) {
  const results = [];
  let values = { ...given, α: [[lr]] };
  for (const { symbol, program } of steps) {
    values = { ...values, [symbol]: evaluate(program, values) };
    results.push(values);
  }
  return results;
}

// Many iterations, each from the parameters after the previous one.
function iterations(steps, given, lr, count) {
  const all = [];
  for (let start = given; all.length < count; ) {
    const results = iterate(steps, start, lr);
    all.push({ start: { ...start, α: [[lr]] }, results });
    start = Object.fromEntries(Object.keys(given).map((symbol) => [symbol, results.at(-1)[symbol]]));
  }
  return all;
}

// --- The page.

const SHOWN = 10; // the most units drawn in a layer, and rows and columns shown of a matrix
const $ = (id) => document.getElementById(id);
const fill = (words, ...values) => { let next = 0; return words.replace(/{(\d*)}/g, (_, k) => values[k || next++]); };

function make(tag, attributes = {}, ...children) {
  const drawn = /^(circle|line|text|polyline)$/.test(tag);
  const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function formula(mathml, display = "inline") {
  const node = make("span");
  node.innerHTML = `<math display="${display}">${mathml}</math>`; // from the page's own data, never a reader's input
  return node;
}

// A number as text: in a matrix, and (short) in the picture.
function text(number) {
  if (Number.isNaN(number)) return "–";
  const size = Math.abs(number);
  const digits = number === 0 ? "0" : size >= 1e-3 && size < 1e5 ? number.toFixed(6) : number.toExponential(2);
  return digits.replaceAll("-", "−");
}
const short = (number) => (number && Math.abs(number) < 1e-3 ? number.toExponential(1) : String(Number(number.toPrecision(3)))).replaceAll("-", "−");

// Where a symbol is drawn: at the units of a layer, "u1", or at the connections into it, "c1".
function group(symbol, depth) {
  if (symbol === "L" || symbol === "Y") return `u${depth}`;
  if (symbol === "X") return "u0";
  const found = symbol.match(/^[d∂]?(\D+)(\d+)/);
  return found && (found[1] === "W" ? "c" : "u") + found[2];
}

function start(trace) {
  const { words, steps, sizes, symbols } = trace, depth = sizes.length - 1;
  const work = trace.given.X.length * sizes.reduce((total, n, l) => total + n * (sizes[l + 1] ?? 0), 0);
  const count = Math.max(2, Math.min(ITERATIONS, Math.floor(2e6 / work)));
  const state = { step: 0, iteration: 0, sample: 0, given: structuredClone(trace.given), lr: trace.lr, all: [] };
  // All values after the shown step, and before it.
  const now = () => state.all[state.iteration].results[state.step];
  const before = () => (state.step ? state.all[state.iteration].results[state.step - 1] : state.all[state.iteration].start);

  function compute() {
    state.all = iterations(steps, state.given, state.lr, count);
  }

  // A value as a table. Cells know where they are drawn in the picture; with ``change`` they can be edited.
  function matrix(symbol, value, change) {
    if (value.length > SHOWN + 2 || value[0].length > SHOWN + 2) {
      const norm = Math.sqrt(sum(value.flat().map((v) => v * v)));
      return make("span", { class: "small" }, fill(words.shape, value.length, value[0].length, text(norm)));
    }
    const where = group(symbol, depth), table = make("table", { class: "matrix" });
    const bySample = value.length > 1 && value.length === state.given.X.length && where?.startsWith("u");
    value.forEach((row, i) => {
      const line = make("tr", bySample && !change && i !== state.sample ? { class: "other" } : {});
      row.forEach((v, j) => {
        const at = where === null ? "" : where[0] === "c" ? `${where}-${i}-${j}` : `${where}-${j}`;
        const cell = make("td", change ? {} : { "data-at": at });
        if (change) {
          const range = symbol === "Y" ? trace.targets : {};
          const input = make("input", { type: "number", step: "any", value: Number(v.toPrecision(6)), required: "", "data-at": at, ...range });
          input.setAttribute("aria-label", `${symbol} ${i + 1}, ${j + 1}`);
          input.addEventListener("input", () => input.checkValidity() && change(i, j, input.valueAsNumber));
          cell.append(input);
        } else cell.append(text(v));
        line.append(cell);
      });
      table.append(line);
    });
    return table;
  }

  const shown = (symbol, value, kind = "", change = undefined) =>
    make("div", { class: `value ${kind}` }, formula(symbols[symbol] + "<mo>=</mo>"), matrix(symbol, value, change));

  function drawCard() {
    const { section, number, what, symbol, math, uses } = steps[state.step];
    const values = now(), heading = make("h2", {}, make("span", { class: "number" }, number), ` ${what}`);
    const unknown = values[symbol].flat().some(Number.isNaN) ? [make("p", { class: "small" }, words.nowhere)] : [];
    $("card").className = section;
    $("card").replaceChildren(
      make("h3", {}, words[section]), heading, formula(math, "block"), ...unknown,
      make("div", { class: "values" }, shown(symbol, values[symbol], "result")),
      make("h3", {}, words.from),
      make("div", { class: "values" }, ...uses.map((used) => shown(used, before()[used]))),
    );
  }

  // The picture's size, and the position of a unit; undefined if it is not drawn.
  const width = () => (innerWidth < 832 ? 480 : 720);
  const height = 84 * Math.min(Math.max(...sizes), SHOWN) + 40;
  function place(layer, unit) {
    const drawn = Math.min(sizes[layer], SHOWN);
    return unit < drawn ? [45 + (layer * (width() - 140)) / depth, height / 2 + 84 * (unit - (drawn - 1) / 2)] : undefined;
  }

  function drawNetwork() {
    const { section, symbol, uses } = steps[state.step], values = now(), picture = $("picture");
    const has = (name) => state.step >= steps.findIndex((step) => step.symbol === name) && name in values;
    const lit = group(symbol, depth), from = uses.map((used) => group(used, depth));
    const mark = (of) => (of === lit || (of[0] === "c" && section !== "descent" && from.includes(of)) ? "lit" : from.includes(of) ? "from" : "");
    const say = (x, y, words, kind = "") => picture.append(make("text", { x, y, class: kind }, words));
    picture.setAttribute("viewBox", `0 0 ${width()} ${height}`);
    picture.setAttribute("class", section);
    picture.replaceChildren();
    for (let l = 1; l <= depth; l++) {
      const W = values[`W${l}`], few = sizes[l] * sizes[l - 1] <= 8 && width() / depth > 200, labels = [];
      const largest = Math.max(...W.flat().map(Math.abs)) || 1;
      W.forEach((row, i) => row.forEach((w, j) => {
        const a = place(l - 1, j), b = place(l, i);
        if (!a || !b) return;
        const thick = 1 + (4 * Math.abs(w)) / largest, t = 0.3 + 0.22 * (j % 2);
        picture.append(make("line", {
          x1: a[0] + 27, y1: a[1], x2: b[0] - 27, y2: b[1], class: mark(`c${l}`), "data-at": `c${l}-${i}-${j}`, style: `--width: ${thick}px`,
        }));
        labels.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), w, has(`dW${l}`) ? values[`dW${l}`][i][j] : undefined]);
      }));
      if (few) for (const [x, y, w, dw] of labels) {
        say(x, y - (dw === undefined ? 0 : 7), short(w), "on-line");
        if (dw !== undefined) say(x, y + 7, short(dw), "on-line back");
      }
    }
    for (let l = 0; l <= depth; l++) {
      const A = l === 0 ? values.X : has(`A${l}`) ? values[`A${l}`] : has(`Z${l}`) ? values[`Z${l}`] : undefined;
      for (let i = 0; i < Math.min(sizes[l], SHOWN); i++) {
        const [x, y] = place(l, i);
        picture.append(make("circle", { cx: x, cy: y, r: 27, class: mark(`u${l}`), "data-at": `u${l}-${i}`, tabindex: 0 }));
        if (A) say(x, y, short(A[state.sample][i]));
        if (l && has(`dZ${l}`)) say(x, y + 37, `δ ${short(values[`dZ${l}`][state.sample][i])}`, "on-line back");
        if (l === depth) say(x + 55, y, `y ${short(values.Y[state.sample][i])}`, "faint");
      }
      if (sizes[l] > SHOWN) say(place(l, 0)[0], height - 8, `⋮ ${sizes[l]}`, "faint");
    }
  }

  function drawCurve() {
    const costs = state.all.map(({ results }) => results.at(-1).L[0][0]), largest = Math.max(...costs.filter(Number.isFinite)) || 1;
    const x = (k) => 5 + (390 * k) / (count - 1), y = (cost) => 65 - (60 * cost) / largest;
    const points = costs.map((cost, k) => (Number.isFinite(cost) ? `${x(k)},${y(cost)}` : "")).join(" ");
    $("curve").replaceChildren(
      make("line", { x1: x(state.iteration), x2: x(state.iteration), y1: 0, y2: 70 }), make("polyline", { points }),
    );
    $("curve-name").textContent = `${words.curve}: ${text(costs[state.iteration])}`;
  }

  function drawInputs() {
    const changed = (symbol) => (i, j, v) => { state.given[symbol][i][j] = v; compute(); draw(); };
    const lr = make("input", { type: "number", min: 0, step: "any", value: state.lr, required: "", id: "lr" });
    lr.addEventListener("input", () => { if (lr.checkValidity()) { state.lr = lr.valueAsNumber; compute(); draw(); } });
    const reset = make("button", { id: "reset" }, words.reset);
    reset.addEventListener("click", () => { state.given = structuredClone(trace.given); state.lr = trace.lr; compute(); drawInputs(); draw(); });
    $("inputs").replaceChildren(
      ...Object.entries(state.given).map(([symbol, value]) => shown(symbol, value, "", changed(symbol))),
      make("label", { class: "value" }, words.lr, lr), reset,
    );
  }

  function drawSteps() {
    let list;
    steps.forEach(({ section, number, what }, k) => {
      if (section !== steps[k - 1]?.section) $("steps").append(list = make("section", {}, make("h3", {}, words[section])));
      const button = make("button", {}, `${number} ${what}`);
      button.addEventListener("click", () => go(k, state.iteration));
      list.append(button);
    });
  }

  function draw() {
    drawCard(); drawNetwork(); drawCurve();
    document.querySelectorAll("#steps button").forEach((button, k) => k === state.step ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current"));
    for (const [name, last] of [["step", steps.length], ["iteration", count]]) {
      $(name).value = state[name] + 1;
      $(`${name}-name`).textContent = `${words[name]} ${state[name] + 1}/${last}`;
    }
  }

  function go(step, iteration) {
    if (step >= steps.length && iteration + 1 < count) [step, iteration] = [0, iteration + 1];
    if (step < 0 && iteration > 0) [step, iteration] = [steps.length - 1, iteration - 1];
    state.step = Math.min(Math.max(step, 0), steps.length - 1);
    state.iteration = Math.min(Math.max(iteration, 0), count - 1);
    draw();
    history.replaceState(null, "", `#${state.iteration + 1}.${state.step + 1}`);
  }

  // Highlights a unit or a connection with all its numbers, and lists its values.
  function light(at) {
    document.querySelectorAll("[data-at]").forEach((node) => node.classList.toggle("here", at !== "" && node.dataset.at === at));
    const [where, ...index] = at.split("-"), [i, j] = index.map(Number), layer = Number(where?.slice(1));
    if (!at) return;
    const name = where[0] === "c" ? fill(words.connection, j + 1, layer - 1, i + 1, layer) : fill(layer ? words.unit : words.input, i + 1, layer);
    const values = Object.entries(now()).filter(([symbol]) => symbol !== "L" && group(symbol, depth) === where).map(([symbol, value]) => {
      const v = where[0] === "c" ? value[i][j] : value[value.length > 1 ? state.sample : 0][value[0].length > 1 ? i : 0];
      return `${symbol} = ${text(v)}`;
    });
    $("here").textContent = `${name}: ${values.join(", ")}`;
  }

  document.documentElement.lang = trace.lang;
  document.title = $("title").textContent = trace.title;
  for (const id of ["source", "proof"]) $(id).textContent = trace[id];
  $("here").textContent = words.keys;
  $("given-name").textContent = words.given;
  $("given").open = matchMedia("(min-width: 52rem)").matches;
  $("step").max = steps.length;
  $("iteration").max = count;
  $("sample-label").hidden = state.given.X.length === 1;
  $("sample-name").textContent = words.sample;
  $("sample").append(...state.given.X.map((_, k) => make("option", { value: k }, k + 1)));
  $("sample").addEventListener("change", () => { state.sample = Number($("sample").value); draw(); });
  for (const [id, way] of [["previous", -1], ["next", 1]]) {
    $(id).title = $(id).ariaLabel = words[id];
    $(id).addEventListener("click", () => go(state.step + way, state.iteration));
  }
  for (const id of ["step", "iteration"]) $(id).addEventListener("pointerup", () => $(id).blur()); // give arrow keys back to the page
  $("step").addEventListener("input", () => go($("step").value - 1, state.iteration));
  $("iteration").addEventListener("input", () => go(state.step, $("iteration").value - 1));
  for (const kind of ["mouseover", "focusin", "click"]) {
    document.addEventListener(kind, ({ target }) => light(target.closest("[data-at]")?.dataset.at ?? ""));
  }
  document.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    event.preventDefault();
    go(state.step + way[0], state.iteration + way[1]);
  });
  addEventListener("resize", draw);
  compute();
  drawInputs();
  drawSteps();
  const [iteration, step] = location.hash.slice(1).split(".").map(Number);
  go((step || 1) - 1, (iteration || 1) - 1);
}

if (typeof document !== "undefined") start(JSON.parse($("trace").textContent));
