// Shows the curves, the pictures and the comparisons of the page; without it all tables stay.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const isNumber = Number.isFinite;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children); // text stays text
  return element;
}

// As rounding.py does it: halves away from 0, and no zero is negative.
const rounded = (value, digits) =>
  (value * (1 + 1e-12)).toFixed(digits).replace(/^-(?=[0.]+$)/, "");

const written = (value, measure, more = 0) =>
  isNumber(value) ? rounded(value * measure.factor, measure.digits + more) : String(value ?? "");

function interval(low, high, measure, more = 0) {
  return low === null ? "" : `${written(low, measure, more)}–${written(high, measure, more)}`;
}

// What is chosen outlives a reload.
const kept = JSON.parse(sessionStorage.getItem("chosen") ?? "{}");
const chosen = { dataset: 0, metric: 0, blur: 0, ...kept };
const hidden = new Set();

function tabs(name, titles, changed, offered = titles.map((_, i) => i)) {
  chosen[name] = offered.includes(chosen[name]) ? chosen[name] : offered[0] ?? 0;
  const box = at(name);
  box.replaceChildren(make("legend", {}, name));
  titles.forEach((title, i) => {
    const input = make("input", { type: "radio", name: `tab-${name}` });
    input.checked = i === chosen[name];
    input.onchange = () => { chosen[name] = i; changed(); };
    if (offered.includes(i)) box.append(make("label", {}, input, make("span", {}, title)));
  });
  box.hidden = offered.length < 2;
}

function chooseData() {
  const section = data.sections[chosen.dataset];
  hidden.clear();
  const measured = new Set(section.lines.flatMap((line) => line.cells.map((cell) => cell[1])));
  const offered = data.measures.map((_, i) => i).filter((i) => measured.has(i));
  tabs("metric", data.measures.map((measure) => measure.title), show, offered);
  tabs("blur", section.axes.map((axis) => axis.title), show);
  at("bands").checked = section.lines.length <= 12;
  const keys = section.lines.map((line, i) => {
    const input = make("input", { type: "checkbox", checked: true });
    input.onchange = () => { hidden[input.checked ? "delete" : "add"](i); show(); };
    const glyph = make("b", {}, line.glyph);
    glyph.style.color = line.colour;
    return make("li", {}, make("label", {}, input, glyph, ` ${line.label}`));
  });
  at("keys").replaceChildren(...keys);
  show();
}

function showAll(visible) {
  for (const input of at("keys").querySelectorAll("input")) input.checked = visible;
  hidden.clear();
  if (!visible) data.sections[chosen.dataset].lines.forEach((_, i) => hidden.add(i));
  show();
}

// One row a point that is shown; values in the unit of the metric.
function points() {
  const section = data.sections[chosen.dataset], measure = data.measures[chosen.metric];
  const axis = section.axes[chosen.blur];
  if (!axis) return [];
  return section.lines.flatMap((line, i) => hidden.has(i) ? [] : axis.points.flatMap(([x, place]) =>
    line.cells.filter((cell) => cell[0] === place && cell[1] === chosen.metric).map((cell) => ({
      line: i, x, blur: section.conditions[place].name, network: line.label, n: cell[5],
      y: cell[2], low: cell[3], high: cell[4], runs: line.runs,
      value: `${written(cell[2], measure, 2)} ${measure.unit}`,
      interval: interval(cell[3], cell[4], measure, 2),
      run: line.runs.map((run) => data.runs[run].name).join(" / "),
    }))));
}

function show() {
  sessionStorage.setItem("chosen", JSON.stringify(chosen));
  const rows = points();
  draw(rows);
  const head = ["network", "blur", "value", "95 % interval", "n", "runs"];
  const cells = rows.map((row) => {
    const link = (run) => make("a", { href: `#run-${run}` }, data.runs[run].name, " ");
    const texts = [row.value, row.interval, row.n].map((text) => make("td", {}, text));
    const names = [row.network, row.blur].map((text) => make("th", { scope: "row" }, text));
    return make("tr", {}, ...names, ...texts, make("td", {}, ...row.runs.map(link)));
  });
  at("numbers").replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...cells));
}

function grouped(rows, key) {
  const groups = {};
  for (const row of rows) (groups[key(row)] ??= []).push(row);
  return Object.values(groups);
}

// Where curves coincide, marks below are larger than those on them, a curve that lies on others is
// dashed, and the tooltip names all.
function markCoinciding(rows) {
  for (const same of grouped(rows, (row) => `${row.x} ${row.y}`)) {
    const more = same.length > 4 ? `; ${same.length - 4} more` : "";
    const networks = same.slice(0, 4).map((row) => row.network).join("; ") + more;
    same.forEach((row, i) => {
      const above = Math.min(same.length - 1 - i, 3);
      Object.assign(row, { networks, first: i === 0, size: 70 + 90 * above });
    });
  }
  for (const own of grouped(rows, (row) => row.line)) {
    const covers = own.every((row) => !row.first);
    own.forEach((row) => { row.covers = covers; });
  }
}

function draw(rows) {
  const section = data.sections[chosen.dataset], measure = data.measures[chosen.metric];
  const axis = section.axes[chosen.blur];
  if (!axis) { at("chart").textContent = "No blur was tested at two strengths."; return; }
  const logarithmic = at("log-y").checked;
  const scaled = rows.map((row) => {
    const fine = (y) => isNumber(y) && !(logarithmic && y <= 0) ? y * measure.factor : null;
    // On a logarithmic axis a band that reaches 0 ends a tenth below its curve.
    const low = isNumber(row.low) && logarithmic && row.low <= 0 ? fine(row.y) / 10 : fine(row.low);
    return { ...row, y: fine(row.y), low, high: fine(row.high) };
  }).filter((row) => row.y !== null);
  markCoinciding(scaled);
  const ends = scaled.flatMap((row) => [row.y, row.low, row.high]).filter(isNumber);
  // Given even where nothing is shown, of which Vega-Lite would warn.
  const top = measure.top ?? (Math.max(0, ...ends) || 1);
  const least = ends.length ? Math.min(...ends) : top / 10;
  const domain = [logarithmic ? least : Math.min(0, least), top];
  const lines = section.lines.map((_, i) => i);
  const look = (field) => ({
    field: "line", type: "nominal", legend: null,
    scale: { domain: lines, range: section.lines.map((line) => line[field]) },
  });
  const x = {
    field: "x", type: "quantitative", title: axis.title,
    scale: {
      type: at("log-x").checked ? "symlog" : "linear",
      domain: [axis.points[0][0], axis.points.at(-1)[0]],
    },
    // As the number is; a format rounds it to what ticks of even steps need: 20 as 2e+1.
    axis: { values: axis.points.map((point) => point[0]), labelExpr: "'' + datum.value" },
  };
  const scale = { type: logarithmic ? "log" : "linear", domain, nice: measure.top === null };
  const y = { field: "y", type: "quantitative", title: measure.title, scale };
  const tooltip = [["networks", "network"], ["blur"], ["value", measure.title], ["interval", "95 % interval"],
    ["n"], ["run"]].map(([field, title]) => ({ field, title: title ?? field, type: "nominal" }));
  const band = {
    mark: { type: "area", opacity: 0.15, aria: false },
    encoding: { y: { ...y, field: "low" }, y2: { field: "high" } },
  };
  const curve = {
    mark: { type: "line", strokeWidth: 2, aria: false },
    encoding: {
      y, strokeDash: {
        field: "covers", type: "nominal", legend: null,
        scale: { domain: [false, true], range: [[1, 0], [7, 7]] },
      },
    },
  };
  const marks = {
    mark: { type: "point", filled: true, opacity: 1, tooltip: true },
    encoding: {
      y, shape: look("shape"), tooltip,
      size: { field: "size", type: "quantitative", scale: null, legend: null },
    },
  };
  const spec = {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    description:
      `${measure.title} over ${axis.title} on ${section.dataset}; the numbers are below.`,
    width: "container", height: 380, background: null,
    data: { values: scaled },
    encoding: { x, color: look("colour") },
    layer: [...(at("bands").checked ? [band] : []), curve, marks],
    config: {
      font: "system-ui, sans-serif", view: { stroke: null },
      axis: {
        labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor",
        tickColor: "currentColor", gridColor: "currentColor", gridOpacity: 0.15,
        labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal",
      },
    },
  };
  const theme = matchMedia("(prefers-color-scheme:dark)").matches ? "dark" : "light";
  const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme } };
  at("chart").drawn = vegaEmbed(at("chart"), spec, options).catch(console.error);
}

// Every cell of the page in the columns of robustness.csv; a mean names all of its runs.
function csv() {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const head = "run,model,trained_on,dataset,n,condition,family,parameter,scale,metric,"
    + "value,low,high";
  const rows = data.sections.flatMap((section) => section.lines.flatMap((line) =>
    line.cells.map(([place, metric, value, low, high, n]) => {
      const { name, family, parameter } = section.conditions[place];
      const runs = line.runs.map((run) => data.runs[run].name).join(" / ");
      return [
        ...[runs, line.model, line.trained_on, section.dataset, n.replaceAll(",", "")].map(quoted),
        quoted(name), quoted(family), parameter ?? "", quoted(line.scale),
        data.measures[metric].metric, value, low ?? "", high ?? "",
      ].join(",");
    })));
  return [head, ...rows, ""].join("\n");
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: url, download: "robustness.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Pictures: one at a time, by a slider.
function slide(strips) {
  const figures = [...strips.querySelectorAll("figure")];
  const name = make("output", {});
  const slider = make("input", { type: "range", min: 0, max: figures.length - 1, value: 0 });
  slider.setAttribute("aria-label", "blur");
  slider.oninput = () => {
    figures.forEach((figure, i) => figure.classList.toggle("unseen", i !== Number(slider.value)));
    name.textContent = figures[slider.value].querySelector("figcaption").textContent;
    slider.setAttribute("aria-valuetext", name.textContent);
  };
  slider.oninput();
  strips.prepend(make("label", { className: "slider" }, "test blur ", slider, " ", name));
}

// Comparisons of two runs.
function choosePairs() {
  const groups = new Map();
  const named = (run) => `${data.runs[run].name} (${data.runs[run].trained_on})`;
  data.pairs.forEach((pair, i) => {
    if (!groups.has(pair.run)) {
      groups.set(pair.run, make("optgroup", { label: `against ${named(pair.run)}` }));
    }
    const text = `${named(pair.other)} against ${named(pair.run)}`;
    groups.get(pair.run).append(make("option", { value: i }, text));
  });
  at("pair").append(...groups.values());
  at("pair").onchange = compare;
  at("comparison").hidden = data.pairs.length === 0;
  if (data.pairs.length) compare();
}

function compare() {
  const pair = data.pairs[at("pair").value];
  const head = ["metric", "blur", "n", data.runs[pair.run].name, data.runs[pair.other].name,
    "difference", "95 % interval", "p", "p (Holm)", "within noise"];
  const rows = pair.rows.map((row) => {
    const [metric, blur, n, first, other, difference, low, high, p, holm, noise] = row;
    const measure = data.measures.find((m) => m.metric === metric)
      ?? { title: metric, factor: 100, digits: 1 };
    const minus = (text) => text.replace("-", "−");
    const signed = (value) => (value > 0 ? "+" : "") + minus(written(value, measure));
    const small = (p) => p === null ? "" : p < 0.0001 ? "< 0.0001" : p.toPrecision(2);
    const texts = [n.toLocaleString("en"), written(first, measure), written(other, measure),
      signed(difference), `${signed(low)} to ${signed(high)}`, small(p), small(holm),
      noise ? "yes" : difference > 0 ? "no ▲" : "no ▼"];
    const names = [measure.title, blur].map((text) => make("th", { scope: "row" }, text));
    return make("tr", {}, ...names, ...texts.map((text) => make("td", {}, String(text))));
  });
  at("differences").replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows));
}

// A page that `report --serve` shows asks whether there is a newer one.
async function refresh() {
  const answer = await fetch("version").catch(() => null); // the server has ended: the page stays
  const own = Number(document.documentElement.dataset.version);
  if (answer?.ok && (await answer.json()).version !== own) location.reload();
}

document.documentElement.classList.add("scripted");
for (const id of ["log-x", "log-y", "bands"]) at(id).onchange = show;
at("all").onclick = () => showAll(true);
at("none").onclick = () => showAll(false);
at("csv").onclick = download;
matchMedia("(prefers-color-scheme:dark)").addEventListener("change", show);
document.querySelectorAll(".strips").forEach(slide);
choosePairs();
if (data.sections.length) {
  tabs("dataset", data.sections.map((section) => section.dataset), chooseData);
  chooseData();
}
if (document.documentElement.dataset.version) setInterval(refresh, 2000);
