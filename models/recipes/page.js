"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, classes, text) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const many = (n) => n.toLocaleString("en");
const short = (x) => (typeof x === "number" ? (Number.isInteger(x) ? many(x) : Number(x.toPrecision(4)).toString()) : x === null || x === undefined ? "-" : String(x));
const two = (x) => (typeof x === "number" ? x.toFixed(2) : "-");
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 2 : 1)} MB`;
const percent = (part) => `${(100 * part).toFixed(1)} %`;

function time(seconds) {
  if (seconds === null) return "interrupted";
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function table(head, rows) {  // head: [name, is a number]; a cell: text or an element
  const made = make("table");
  const body = make("tbody");
  const line = (tag, cells) => {
    const row = make("tr");
    cells.forEach((cell, i) => {
      const place = make(tag === "td" && i === 0 ? "th" : tag, head[i][1] ? "number" : "");
      place.append(cell);
      row.append(place);
    });
    return row;
  };
  const top = make("thead");
  top.append(line("th", head.map(([name]) => name)));
  body.append(...rows.map((cells) => line("td", cells)));
  made.append(top, body);
  return made;
}

// --- what came of it -------------------------------------------------------------------------------------------------

const metrics = Object.keys(data.baseline);
const last = data.stages.length ? data.stages[data.stages.length - 1].metrics : data.baseline;

function change(name, now, before) {  // of a metric, with its sign
  if (typeof now !== "number" || typeof before !== "number") return make("span", "", "-");
  const by = now - before;
  const better = data.smaller_is_better.includes(name) ? -by : by;
  return make("span", better < -0.005 ? "worse" : better > 0.005 ? "better" : "", `${by < 0 ? "−" : "+"}${Math.abs(by).toFixed(2)}`);
}

function tile(value, said, bad) {
  const box = make("div", bad ? "tile bad" : "tile");
  box.append(make("b", "", value), make("span", "soft", said));
  return box;
}

function tiles() {
  const made = metrics.map((name) => tile(two(last[name]), `${name}, f32 before: ${two(data.baseline[name])}`));
  const encoder = data.sizes.encoder;
  made.push(tile(`${encoder.ratio.toFixed(2)} ×`, `smaller encoder: ${megabytes(encoder.before)} to ${megabytes(encoder.after)}`));
  const others = data.engines.slice(1);
  const ran = others.filter((engine) => engine.ran);
  const different = ran.reduce((sum, engine) => sum + engine.different, 0);
  if (ran.length) made.push(tile(many(different), `answers of ${ran.map((engine) => engine.name).join(" and ")} are not ours, of ${many(ran.reduce((sum, engine) => sum + engine.rows, 0))}`));
  const idle = others.filter((engine) => !engine.ran);
  if (idle.length) made.push(tile("NOT RUN", idle.map((engine) => engine.name).join(", "), true));
  return made;
}

function stages() {
  const head = [["stage"], ...metrics.flatMap((name) => [[name, true], ["change", true]]), ["updates", true], ["time", true], ["notes"]];
  const row = (name, found, before, updates, seconds, notes) => {
    const cell = make("div");
    cell.append(...notes.map((note) => make("p", "", note)));
    return [name, ...metrics.flatMap((each) => [two(found[each]), before ? change(each, found[each], before[each]) : ""]), updates, seconds, cell];
  };
  const rows = data.stages.map((stage, i) => row(`${i + 1}  ${stage.name}`, stage.metrics, i ? data.stages[i - 1].metrics : data.baseline, many(stage.updates), time(stage.seconds), stage.notes));
  return table(head, [row("f32, before", data.baseline, null, "", "", []), ...rows]);
}

function tuning() {
  return data.stages.filter((stage) => stage.tuning.length).map((stage) => {
    const box = make("details");
    box.append(make("summary", "soft", `${stage.name}: layers back in f32, the ${many(stage.tuning.length)} tries`));
    const frame = make("div", "wide");
    frame.append(table([["step"], ["metric", true], ["good enough"], ["in f32"]], stage.tuning.map((row) => [row.step, short(row.metric), row.good ? "yes" : "", row.kept.join(", ")])));
    box.append(frame);
    return box;
  });
}

function epochs() {
  const made = [];
  data.stages.forEach((stage, i) => {
    const settings = Object.entries(data.recipe.stages[i] || {}).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    made.push(make("h2", "", `${i + 1}  ${stage.name}`), make("div", "mono", settings.join("   ")));
    if (stage.history.length) {
      const names = Object.keys(stage.history[0]);
      made.push(table(names.map((name) => [name, true]), stage.history.map((row) => names.map((name) => short(row[name])))));
    }
  });
  return made;
}

// --- figures ---------------------------------------------------------------------------------------------------------

const WIDE = 1060, LEFT = 52;

function figure(title, keys, svg) {
  const box = make("figure");
  box.style.margin = "0";
  const line = make("div");
  for (const [classes, name, colour] of keys) {
    const key = make("span", "key soft");
    const mark = make("i", classes);
    if (colour) mark.style.background = colour;
    key.append(mark, name);
    line.append(key);
  }
  const frame = make("div", "wide");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  frame.append(svg);
  box.append(make("h2", "", title), line, frame);
  return box;
}

const canvas = (height) => draw("svg", { viewBox: `0 0 ${WIDE} ${height}` });
const label = (x, y, text, more) => draw("text", { x, y, "text-anchor": "middle", ...more }, text);
const bar = (classes, x, y, width, height) => draw("rect", { class: classes, x, y, width, height: Math.max(height, 0) });

function grid(svg, top, bottom, places) {  // places: [share of the height, text]
  for (const [share, text] of places) {
    const y = bottom - share * (bottom - top);
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: WIDE - 8, y1: y, y2: y }));
    svg.append(label(LEFT - 6, y + 4, text, { "text-anchor": "end" }));
  }
}

function sparsityFigure() {
  const trained = data.stages.filter((stage) => stage.sparsity.length);
  if (!trained.length) return null;
  const svg = canvas(270), top = 28, bottom = 226;
  const total = Math.max(data.stages.reduce((sum, stage) => sum + stage.updates, 0), 1);
  const at = (update) => LEFT + (update / total) * (WIDE - LEFT - 14);
  grid(svg, top, bottom, [0, 0.25, 0.5, 0.75, 1].map((share) => [share, `${100 * share} %`]));
  const keys = [];
  let done = 0;
  data.stages.forEach((stage, i) => {
    const colour = `var(--l${i % 5})`;
    const from = at(done), to = at(done + stage.updates);
    if (i) svg.append(draw("line", { class: "border", x1: from, x2: from, y1: top - 8, y2: bottom }));
    if (to - from > 8) {
      svg.append(label((from + to) / 2, top - 14, to - from > 7 * stage.name.length ? stage.name : `${i + 1}`, { class: "strong" }));
      svg.append(label(to, bottom + 16, many(done + stage.updates), { "text-anchor": "end" }));
    }
    if (stage.sparsity.length) {
      const steps = stage.sparsity.flatMap(([update, share], j) => [[update, j ? stage.sparsity[j - 1][1] : share], [update, share]]);
      steps.push([stage.updates, steps[steps.length - 1][1]]);
      const points = steps.map(([update, share]) => `${at(done + update).toFixed(1)},${(bottom - share * (bottom - top)).toFixed(1)}`);
      const line = draw("polyline", { class: "line", points: points.join(" "), style: `stroke: ${colour}` });
      const [, end] = stage.sparsity[stage.sparsity.length - 1];
      line.append(draw("title", {}, `${stage.name}: ${percent(end)} at its end`));
      svg.append(line);
      keys.push(["", `${i + 1}  ${stage.name}: ${percent(end)} at its end`, colour]);
    }
    done += stage.updates;
  });
  svg.append(label(LEFT, bottom + 16, "0"), label((LEFT + WIDE) / 2, bottom + 36, "updates"));
  return figure("Sparsity over the training: share of the encoder's linear weights that are zero", keys, svg);
}

const SHORT = { q: "q", k: "k", v: "v", attention_output: "o", intermediate: "f1", output: "f2" };

function nice(x) {  // the next of 1, 2, 5, 10 ...
  const power = 10 ** Math.floor(Math.log10(x));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= x);
}

function parametersFigure() {
  const svg = canvas(292), top = 22, bottom = 236;
  const size = (shape) => shape[0] * shape[1];
  const largest = Math.max(...data.layers.map((layer) => size(layer.shape)));
  const step = nice(largest / 4);
  const most = step * Math.ceil((1.1 * largest) / step);  // with room for the numbers above the bars
  const height = (count) => (count / most) * (bottom - top);
  const steps = Array.from({ length: most / step + 1 }, (_, i) => i * step);
  grid(svg, top, bottom, steps.map((count) => [count / most, count >= 1e6 ? `${count / 1e6} M` : count >= 1e3 ? `${count / 1e3} k` : `${count}`]));
  const width = (WIDE - LEFT - 14) / data.layers.length;
  data.layers.forEach((layer, i) => {
    const [, number, part] = layer.name.split(".");
    const x = LEFT + i * width + width * 0.1, thick = width * 0.8;
    const place = draw("g", {});
    for (const [classes, count] of [["gone", size(layer.shape)], ["stored", size(layer.kept_shape)], ["left", layer.nonzero]]) {
      place.append(bar(classes, x, bottom - height(count), thick, height(count)));
    }
    const zero = 1 - layer.nonzero / size(layer.shape);
    place.append(draw("title", {}, `${layer.name}\n${layer.shape.join(" × ")} = ${many(size(layer.shape))} weights before\n${layer.kept_shape.join(" × ")} = ${many(size(layer.kept_shape))} stored\n${many(layer.nonzero)} not zero: ${percent(zero)} sparse`));
    const middle = x + thick / 2;
    if (width > 12) {
      place.append(label(middle, bottom - height(size(layer.shape)) - 4, `${Math.round(100 * zero)}`, { style: "font-size: 9px" }));
      place.append(label(middle, bottom + 14, SHORT[part] || part, { class: "strong", style: "font-size: 9px" }));
    }
    if (i % 6 === 0) {
      if (i) svg.append(draw("line", { class: "border", x1: LEFT + i * width, x2: LEFT + i * width, y1: top, y2: bottom + 30 }));
      svg.append(label(LEFT + (i + 3) * width, bottom + 30, `layer ${number}`));
    }
    svg.append(place);
  });
  const legend = "q, k, v, o: attention and its output; f1, f2: the feed-forward layers. Above a bar: % of its weights that are zero or gone.";
  if (width > 12) svg.append(label(LEFT, bottom + 50, legend, { "text-anchor": "start" }));
  return figure("Parameters of every linear layer", [["gone", "before, removed"], ["stored", "stored, zero"], ["left", "not zero"]], svg);
}

function headsFigure() {
  const most = Math.max(...data.heads.map((layer) => layer.of));
  const cell = Math.min(14, 160 / most), top = 26, bottom = top + most * cell, floor = bottom + 86;
  const svg = canvas(floor + 44);
  const width = (WIDE - LEFT - 14) / data.heads.length;
  const room = Math.min(width * 0.6, 90);
  const neurons = Math.max(...data.heads.map((layer) => layer.of_neurons));
  svg.append(label(LEFT - 6, (top + bottom) / 2 + 4, "heads", { "text-anchor": "end" }), label(LEFT - 4, floor - 26, "neurons", { "text-anchor": "end" }));
  data.heads.forEach((layer, i) => {
    const middle = LEFT + (i + 0.5) * width;
    const place = draw("g", {});
    place.append(draw("title", {}, `layer ${layer.layer}: ${layer.kept} of ${layer.of} heads, ${many(layer.neurons)} of ${many(layer.of_neurons)} neurons`));
    for (let head = 0; head < layer.of; head += 1) {
      place.append(bar(layer.kept_heads.includes(head) ? "left" : "gone", middle - room / 2, bottom - (head + 1) * cell + 1, room, cell - 2));
    }
    place.append(label(middle, top - 8, `${layer.kept} of ${layer.of}`, { class: "strong" }));
    const [whole, left] = [layer.of_neurons, layer.neurons].map((count) => (56 * count) / neurons);
    place.append(bar("gone", middle - room / 2, floor - whole, room, whole), bar("left", middle - room / 2, floor - left, room, left));
    place.append(label(middle, floor - whole - 6, width > 90 ? `${many(layer.neurons)} of ${many(layer.of_neurons)}` : many(layer.neurons), { class: "strong" }));
    place.append(label(middle, floor + 16, `layer ${layer.layer}`));
    svg.append(place);
  });
  return figure("Heads and feed-forward neurons of every layer", [["left", "active"], ["gone", "pruned"]], svg);
}

// --- files and engines -----------------------------------------------------------------------------------------------

function sizes() {
  const { files, missing, encoder } = data.sizes;
  const rows = Object.entries(files).map(([name, bytes]) => [name, megabytes(bytes), ""]);
  rows.push(...Object.entries(missing).map(([name, why]) => [name, make("span", "bad", "NOT WRITTEN"), why]));
  rows.push(["encoder, before", megabytes(encoder.before), "its linear layers in f32, all layers, heads and neurons"]);
  const forms = `; of each layer the smaller of INT8 without blocks, ${megabytes(encoder.dense)} in all, and 4x1 blocks, ${megabytes(encoder.blocks)}`;
  rows.push(["encoder, after", megabytes(encoder.after), `${encoder.ratio.toFixed(2)} times smaller${encoder.dense === encoder.blocks ? "" : forms}`]);
  return table([["what"], ["size", true], [""]], rows);
}

function engines() {
  const head = [["engine"], ["file"], ["precision"], ...metrics.map((name) => [name, true]), ["in INT8, of quantized", true], ["answers not ours", true]];
  return table(head, data.engines.map((engine) => {
    const name = `${engine.name} ${engine.version || ""}`;
    if (!engine.ran) return [name, engine.file, make("span", "bad", `NOT RUN: ${engine.why}`), ...metrics.map(() => "-"), "-", "-"];
    const integers = `${engine.integer_layers} of ${engine.products}`;
    const layers = engine.in_floats ? make("span", "bad", `${integers}: ${engine.in_floats} linear layers run in floats`) : integers;
    return [name, engine.file, engine.execution, ...metrics.map((each) => two(engine.metrics[each])), layers, `${many(engine.different)} of ${many(engine.rows)}`];
  }));
}

function differences() {
  return data.engines.filter((engine) => engine.ran && engine.different).map((engine) => {
    const box = make("details");
    box.append(make("summary", "", `${engine.name}: the ${many(engine.different)} rows that it answers otherwise`));
    const head = [["row", true], ["text"], ["right"], ["ours"], ["leads by", true], [engine.name], ["leads by", true]];
    const margin = (x) => (typeof x === "number" ? x.toPrecision(2) : "-");
    const frame = make("div", "wide");
    frame.append(table(head, engine.differences.map((row) => [many(row.row), row.text, row.wanted, row.ours, margin(row.our_margin), row.theirs, margin(row.their_margin)])));
    box.append(frame);
    return box;
  });
}

// --- all -------------------------------------------------------------------------------------------------------------

document.querySelector("h1").textContent = `${data.recipe.name}: compressed for ${data.task}`;
$("about").textContent = data.recipe.about;
$("facts").textContent = `${data.limit === null ? "" : `a trial on the first ${many(data.limit)} rows of each file; `}${data.machine}; ${time(data.seconds)}; seed ${data.seed}; refimpl ${data.version}`;
$("command").textContent = data.command;
$("tiles").append(...tiles());
$("stages").append(stages());
$("tuning").append(...tuning());
$("epochs").append(...epochs());
$("figures").append(...[sparsityFigure(), data.layers.length ? parametersFigure() : null, data.heads.length ? headsFigure() : null].filter(Boolean));
$("sizes").append(sizes());
$("engines").append(engines());
$("differences").append(...differences());
