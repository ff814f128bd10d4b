"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, classes, text) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- one cell --------------------------------------------------------------------------------------------------------

const outside = (cell) => (cell.outside || 0) > 0;
const judged = (cell) => cell.state === "judged";
const differ = (cell) => (cell.different || 0) / (cell.of || 1);

function share(cell) {  // 0 to 1: of a bound as it is; of codes by powers of ten, from one in 100,000
  if (!cell.codes) return Math.min(Number(cell.worst || 0), 1);
  return differ(cell) ? Math.min(Math.max((Math.log10(differ(cell)) + 5) / 5, 0.08), 1) : 0;
}

function paint(element, cell) {
  if (!judged(cell)) element.classList.add("none");
  else if (outside(cell)) element.classList.add("outside");
  else {
    element.classList.add(cell.codes ? "codes" : "float");
    element.style.setProperty("--share", `${(100 * share(cell)).toFixed(1)}%`);
  }
  return element;
}

const percent = (part) => (part === 0 ? "0 %" : part < 1e-6 ? "< 0.0001 %" : `${Number((100 * part).toPrecision(2))} %`);
const short = (x) => (typeof x === "string" ? x : Number(Number(x).toPrecision(3)).toString().replace(/^\d{6,}$/, () => Number(x).toExponential(2)));

function shown(cell) {
  if (!judged(cell)) return "";
  if (outside(cell)) return cell.reason ? "misfit" : `${cell.outside.toLocaleString("en")} outside`;
  return cell.codes ? percent(differ(cell)) : (Number(cell.worst || 0)).toFixed(2);
}

function told(row, column, cell) {
  const lines = [`${row.tensor}`, `${row.op} ${row.node}`, data.columns[column]];
  const followed = cell.followed ? "\njudged with the next that is shown" : "";
  if (!judged(cell)) return [...lines, `${cell.state}: ${cell.reason}`].join("\n") + followed;
  if (cell.reason) return [...lines, cell.reason].join("\n");
  const at = cell.at && cell.at.length ? ` at [${cell.at.join(", ")}]` : "";
  lines.push(`${(cell.outside || 0).toLocaleString("en")} of ${cell.of.toLocaleString("en")} outside`);
  lines.push(`largest error: ${short(cell.worst || 0)} times what is allowed${at}`);
  if (cell.codes) lines.push(`${(cell.different || 0).toLocaleString("en")} codes are not ours`);
  lines.push(`values up to ${short(cell.size || 0)}, bound up to ${short(cell.bound || 0)}`);
  if ((cell.steps || 1) > 1) lines.push(`judged over ${cell.steps} nodes: those between are not shown, or fused`);
  return lines.join("\n");
}

// --- tooltip ---------------------------------------------------------------------------------------------------------

function hover(element, text) {
  element.addEventListener("mouseenter", () => { $("tip").textContent = text(); $("tip").hidden = false; });
  element.addEventListener("mousemove", (event) => {
    const { offsetWidth: w, offsetHeight: h } = $("tip");
    $("tip").style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - w - 8))}px`;
    $("tip").style.top = `${event.clientY + h + 24 > innerHeight ? Math.max(4, event.clientY - h - 10) : event.clientY + 14}px`;
  });
  element.addEventListener("mouseleave", () => { $("tip").hidden = true; });
}

// --- rows ------------------------------------------------------------------------------------------------------------

function rowOf(row) {
  const line = make("tr", "node");
  const name = make("th");
  name.scope = "row";
  name.append(make("span", "op", `${row.op}  `), row.tensor);
  hover(name, () => `${row.tensor}\n${row.op} ${row.node}`);
  line.append(name);
  row.cells.forEach((cell, column) => {
    const made = paint(make("td", "cell", shown(cell)), cell);
    hover(made, () => told(row, column, cell));
    line.append(made);
  });
  return line;
}

function summary(rows, column) {
  const cells = rows.map((row) => row.cells[column]);
  const bad = cells.filter(outside).length;
  const seen = cells.filter(judged);
  if (bad) return make("div", "sum bad", `${bad} of ${seen.length} outside`);
  if (!seen.length) return make("div", "sum", "nothing judged");
  const codes = seen.filter((cell) => cell.codes);
  const floats = seen.filter((cell) => !cell.codes).map((cell) => Number(cell.worst || 0));
  const parts = floats.length ? [`≤ ${Math.max(...floats).toFixed(2)}`] : [];
  const of = codes.reduce((sum, cell) => sum + cell.of, 0);
  const different = codes.reduce((sum, cell) => sum + (cell.different || 0), 0);
  if (of) parts.push(different ? `${percent(different / of)} of codes not ours` : "all codes ours");
  return make("div", "sum", parts.join(", "));
}

function groupOf(group) {
  const body = make("tbody");
  const head = make("tr", "group");
  const name = make("th");
  name.scope = "rowgroup";
  const button = make("button");
  name.append(button);
  head.append(name);
  body.append(head);
  let lines = null;
  const set = (open) => {
    if (open && !lines) lines = group.rows.map(rowOf);
    if (lines) for (const line of lines) open ? body.append(line) : line.remove();
    button.setAttribute("aria-expanded", open);
    button.replaceChildren(`${open ? "▾" : "▸"} ${group.name} `, make("small", "", `${group.rows.length} tensors`));
    filter();
  };
  const filter = () => (lines || []).forEach((line, i) => { line.hidden = $("only").checked && !group.rows[i].cells.some(outside); });
  const goto = (i) => {
    set(true);
    lines[i].hidden = false;
    lines[i].scrollIntoView({ block: "center" });
    document.querySelector(".found")?.classList.remove("found");
    lines[i].firstChild.classList.add("found");
  };
  data.columns.forEach((_, column) => {
    const place = make("td");
    const strip = make("div", "strip");
    group.rows.forEach((row, i) => {
      const mark = paint(make("i"), row.cells[column]);
      hover(mark, () => told(row, column, row.cells[column]));
      mark.addEventListener("click", () => goto(i));
      strip.append(mark);
    });
    place.append(strip, summary(group.rows, column));
    head.append(place);
  });
  button.addEventListener("click", () => set(button.getAttribute("aria-expanded") !== "true"));
  set(false);
  return { body, set, filter, goto, group };
}

function cardOf(card) {
  const right = card.verdict === "inside its bounds";
  const box = make("article", `card ${right ? (card.lines.length ? "odd" : "") : "bad"}`);
  const why = make("div");
  why.append(make("p", "", card.said));
  for (const line of card.lines) why.append(make("p", "why mono", line));
  for (const line of card.notes) why.append(make("p", "soft", `note: ${line}`));
  const facts = make("div", "facts soft");
  for (const line of card.facts) facts.append(make("p", "", line));
  box.append(make("strong", "", card.name), make("span", "verdict", card.verdict), why, facts);
  return box;
}

function conditions(cards) {
  const table = make("table");
  const head = make("tr");
  head.append(make("th"), ...cards.map((card) => make("th", "", card.name)));
  table.append(head);
  cards[0]?.conditions.forEach(([name], i) => {
    const line = make("tr");
    line.append(make("th", "", name), ...cards.map((card) => make("td", "", card.conditions[i][1])));
    table.append(line);
  });
  return table;
}

// --- all -------------------------------------------------------------------------------------------------------------

document.querySelector("h1").textContent = data.model;
$("about").textContent = data.about;
$("digest").textContent = `SHA-256 ${data.sha256}`;
$("cards").append(...data.cards.map(cardOf));
$("conditions").append(conditions(data.cards.filter((card) => card.conditions.length)));
const columns = make("colgroup");
columns.append(make("col", "name"), ...data.columns.map(() => make("col")));
const header = make("tr");
header.append(make("th", "", "tensor, in order of computation"), ...data.columns.map((name) => make("th", "", name)));
for (const place of header.children) place.scope = "col";
const top_ = make("thead");
top_.append(header);
const groups = data.groups.map(groupOf);
$("map").append(columns, top_, ...groups.map((each) => each.body));
const worst = groups.find(({ group }) => group.rows.some((row) => row.cells.some(outside)));
if (worst && groups.length <= 4) worst.set(true);  // of a deeper model, all at once first
$("open").addEventListener("click", () => groups.forEach((each) => each.set(true)));
$("close").addEventListener("click", () => groups.forEach((each) => each.set(false)));
$("only").addEventListener("change", () => groups.forEach((each) => each.filter()));
