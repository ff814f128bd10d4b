"use strict";
const story = JSON.parse(document.getElementById("story").textContent);
const steps = story.steps;
const $ = (id) => document.getElementById(id);
let current = 0;

function make(tag, classes, text) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- cells ---------------------------------------------------------------------------------------------------------

function column(name) {  // w[1,3] -> k3
  const found = /,(\d+)\]$/.exec(name);
  return found ? "k" + found[1] : "";
}

function cell(value, name, slot, wide) {
  const shown = value === null || value === undefined ? "?" : String(value);
  const made = make("span", "cell " + (slot === null || slot === undefined ? "" : "s" + slot), shown);
  made.append(make("small", "", (wide ? name : column(name)) || "\u00a0"));
  if (!name) made.classList.add("pad");
  made.title = shown + (name ? " is " + name : ": padding");
  return made;
}

function dwords(number, from, to) {
  const { values, names, slots, per } = steps[number].result;
  const lanes = make("div", "lanes");
  for (let first = from; first < to; first += per) {
    const group = make("span", "dword");
    for (let i = first; i < first + per; i++) {
      const made = cell(values[i], names[names.length === values.length ? i : first / per], slots[i], per < 4);
      if (steps[number].lossy.includes(i)) {
        made.classList.add("lossy");
        made.title = "loses something: " + steps[number].lanes[i];
      }
      group.append(made);
    }
    lanes.append(group);
  }
  return lanes;
}

function register(number, role) {
  const { instruction, tile, result } = steps[number];
  const { dtype, values, names, rows, per } = result;
  const size = values.length / rows;
  const line = tile === null ? size : 4 * per;  // of a tile only what is not padding, 16 bytes at a time
  const shape = tile === null ? `× ${size}` : `tile ${tile}, ${rows} rows of ${size}`;
  const box = make("div", "register");
  box.append(make("div", "name mono", `${role} r${number}: ${dtype} ${shape}, made by ${instruction}`));
  let padding = 0;
  for (let from = 0, to; from < values.length; from = to) {
    const row = Math.floor(from / size);
    to = Math.min(from + line, (row + 1) * size);
    const share = names.length / values.length;
    if (tile !== null) {
      if (!names.slice(from * share, to * share).some((name) => name)) { padding++; continue; }
      box.append(make("div", "name soft", `row ${row}, from dword ${(from - row * size) / per}`));
    }
    box.append(dwords(number, from, to));
  }
  if (padding) box.append(make("div", "name soft", `… ${padding} more lines of 16 bytes: padding`));
  return box;
}

// --- memory --------------------------------------------------------------------------------------------------------

const starts = (place) => Array.from({ length: place.rows }, (_, row) => place.at + row * place.stride);

function contents(name, until) {
  const values = story.arrays[name].values.slice();
  for (let i = 0; i <= until; i++) {
    const { written, operands } = steps[i];
    if (written && written.array === name) {
      const stored = steps[operands.find((x) => "register" in x).register].result.values;
      starts(written).forEach((at, row) => {
        for (let j = 0; j < written.size; j++) values[at + j] = stored[row * written.size + j];
      });
    }
  }
  return values;
}

function memory(place, until) {
  const { dtype, names, slots } = story.arrays[place.array];
  const values = contents(place.array, until);
  const span = Number(/\d+$/.exec(dtype)[0]) / 8;  // bytes of an element
  const row = 16 / span;
  const touched = new Set(starts(place).flatMap((at) => Array.from({ length: place.size }, (_, i) => at + i)));
  const lines = [...new Set([...touched].map((i) => i - i % row))];
  const kept = place.rows > 1 ? lines.filter((at) => names.slice(at, at + row).some((name) => name)) : lines;
  const box = make("div", "memory");
  for (const at of kept) {
    box.append(make("span", "at mono", `${place.array}[${at}]`));
    for (let i = at; i < at + row; i++) {
      const made = i < values.length ? cell(values[i], names[i], slots[i], span > 1) : make("span");
      made.classList.add("span" + span);
      if (touched.has(i)) made.classList.add("touched");
      box.append(made);
    }
  }
  const rest = lines.length - kept.length;
  if (rest) box.append(make("span", "at rest", `… ${rest} more lines of 16 bytes: padding`));
  return box;
}

// --- panes ---------------------------------------------------------------------------------------------------------

function showCode(step) {
  for (const line of document.querySelectorAll("#code .now, #code .call")) {
    line.classList.remove("now", "call");
    line.replaceChildren(line.firstChild, line.dataset.text);
  }
  step.sites.forEach((site, depth) => {
    const line = $(`line-${site.file}-${site.line}`);
    if (!line) return;
    const last = depth === step.sites.length - 1;
    line.classList.add(last ? "now" : "call");
    if (!last) return;
    const text = line.dataset.text;  // columns count UTF-8 bytes; kernels are ASCII where they call
    line.replaceChildren(line.firstChild, text.slice(0, site.start), make("mark", "", text.slice(site.start, site.stop)),
      text.slice(site.stop));
    const pane = $("code");
    pane.scrollTop = line.offsetTop - pane.offsetTop - pane.clientHeight / 2;
  });
}

function showWords(step) {
  const where = step.sites.map((site) => `${site.function}, line ${site.line}`).join(" → ");
  const title = make("p", "mono");
  title.append(make("strong", "", `${current}  ${step.instruction}`), make("span", "soft", "  " + where));
  $("why").replaceChildren(title, make("p", "soft", step.definition), make("p", "", step.why.replaceAll(" -> ", "\u00a0\u2192\u00a0")));
  $("why").className = step.lossy.length ? "lossy" : "";
}

function showSums(step) {
  const kept = step.lanes.map((text, lane) => ({ text, lane })).filter((x) => x.text && !x.text.startsWith("padding"));
  const items = kept.map(({ text, lane }) => make("li", step.lossy.includes(lane) ? "lossy" : "", `${lane}  ${text}`));
  $("sums").replaceChildren(...items);
  $("arithmetic").hidden = items.length === 0;
}

function show(number) {
  current = Math.max(0, Math.min(steps.length - 1, number));
  const step = steps[current];
  document.body.dataset.step = current;
  $("slider").value = current;
  $("slider").setAttribute("aria-valuetext", `${current}: ${step.instruction}`);
  $("number").textContent = `step ${current} of 0 … ${steps.length - 1}`;
  showWords(step);
  showCode(step);
  showSums(step);
  const shown = step.result && step.result.dtype !== "scalar" ? [register(current, "makes")] : [];
  const inputs = step.operands.filter((x) => "register" in x).map((x) => register(x.register, "takes"));
  $("registers").replaceChildren(...inputs, ...shown);
  const places = step.operands.filter((x) => "array" in x);
  $("memory").replaceChildren(...(places.length ? places.map((place) => memory(place, current))
    : [make("p", "soft", "not touched by this step")]));
  document.querySelector("#steps [aria-current]")?.removeAttribute("aria-current");
  const entry = $("steps").children[current].firstChild;
  entry.setAttribute("aria-current", "step");
  $("steps").scrollTop = entry.offsetTop - $("steps").offsetTop - $("steps").clientHeight / 2;
  history.replaceState(null, "", "#step=" + current);
}

// --- moving about --------------------------------------------------------------------------------------------------

function move(by, wanted) {
  for (let i = current + by; i >= 0 && i < steps.length; i += by) {
    if (wanted(steps[i])) return show(i);
  }
}

const passable = (step) => !$("skip").checked || step.matters;
const actions = {
  ArrowRight: () => move(1, passable), ArrowLeft: () => move(-1, passable),
  Home: () => show(0), End: () => show(steps.length - 1), l: () => move(1, (step) => step.lossy.length),
};

function fromAddress() {
  const found = /^#step=(\d+)$/.exec(location.hash);
  show(found ? Number(found[1]) : 0);
}

function build() {
  const { M, N, K } = story.shape;
  document.querySelector("h1").textContent = story.kernel;
  $("shape").textContent = `${steps.length} steps for M = ${M} output channels, N = ${N} tokens, ` +
    `K = ${K} input channels. A register is called by the step that made it. Arrow keys step.`;
  $("slider").max = steps.length - 1;
  $("about").textContent = story.about;
  $("layout").textContent = story.layout;
  for (const part of story.functions) {
    $("code").append(make("div", "file", part.file));
    part.lines.forEach((text, i) => {
      const line = make("div", "src mono");
      line.id = `line-${part.file}-${part.first + i}`;
      line.dataset.text = text;
      line.append(make("span", "no", part.first + i), text);
      $("code").append(line);
    });
  }
  steps.forEach((step, i) => {
    const entry = make("button", (step.matters ? "" : "idle ") + (step.lossy.length ? "lossy" : ""),
      `${i} ${step.instruction}${step.lossy.length ? " ✂" : ""}`);
    entry.addEventListener("click", () => show(i));
    const item = make("li");
    item.append(entry);
    $("steps").append(item);
  });
  const used = new Set(Object.values(story.arrays).flatMap((array) => array.slots || []));
  for (const place of document.querySelectorAll(".key span")) place.hidden = !used.has(Number(place.textContent));
  buildOutputs();
}

function buildOutputs() {
  const head = make("tr");
  for (const title of ["result", "kernel", "exact", "from"]) head.append(make("th", "", title));
  $("outputs").append(head);
  for (const output of story.outputs) {
    const row = make("tr", "mono");
    const lost = output.value === output.exact ? "" : "lost";
    row.append(make("td", "", output.name), make("td", lost, output.value), make("td", "", output.exact),
      make("td", "sum", output.sum));
    $("outputs").append(row);
  }
}

build();
fromAddress();
window.addEventListener("hashchange", fromAddress);
$("slider").addEventListener("input", () => show(Number($("slider").value)));
for (const [id, key] of [["first", "Home"], ["back", "ArrowLeft"], ["forward", "ArrowRight"], ["last", "End"], ["lossy", "l"]])
  $(id).addEventListener("click", actions[key]);
$("lossy").hidden = !steps.some((step) => step.lossy.length);
document.addEventListener("keydown", (event) => {
  const action = actions[event.key];
  if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  action();
});
