// What is alive at a moment, as rows to sort and to search: by line, module, stack, category, or block by block.

const ROW_WAYS = [["line", "line"], ["path", "module"], ["stack", "stack"], ["category", "category"], ["block", "block"]];
let shownRows = 100;

function tableRows(device, alive) {
  const matches = matching(device), meant = matches ? alive.filter(i => matches[i]) : alive;
  if (state.rows === "block") return meant.map(i => ({i, name: blockName(device, i), size: device.size[i], count: 1}));
  const rows = new Map(), grouping = device.groupings[state.rows];
  for (const i of meant) {
    const key = grouping ? grouping.number[i] : device.stack[i];
    const row = rows.get(key);
    if (row) { row.size += device.size[i]; row.count++; }
    else rows.set(key, {i, name: grouping ? grouping.names[key] : lineOf(device, key), size: device.size[i], count: 1});
  }
  return [...rows.values()];
}

const blockName = (device, i) => `${nameOf(device, "category", i)} · ${nameOf(device, "path", i)} · ${lineOf(device, device.stack[i])}`;

const ORDERS = {
  name: (a, b) => a.name.localeCompare(b.name),
  size: (a, b) => a.size - b.size,
  count: (a, b) => a.count - b.count,
  born: (a, b) => a.i - b.i,
};

function showTable(device, alive, total, box) {
  make("h3", "Blocks", box);
  const controls = make("div.controls", null, box);
  choice("by", rowWays(device), state.rows, controls, rows => { shownRows = 100; change({rows}); });
  const words = make("span.faint.numbers", null, controls, {id: "rows-found"});
  const rows = tableRows(device, alive), order = ORDERS[state.sort] || ORDERS.size, sign = state.up ? 1 : -1;
  rows.sort((a, b) => sign * order(a, b) || b.size - a.size);
  const meant = rows.reduce((sum, row) => sum + row.size, 0);
  words.textContent = `${counted(rows.length, "row")}, ${bytes(meant)}${state.q.trim() ? ` match “${state.q.trim()}”` : ""}`;
  const table = make("table", null, make("div.scroll", null, box), {id: "rows"}), head = make("tr", null, make("thead", null, table));
  const what = rowWays(device).find(way => way[0] === state.rows);
  heading(head, "name", what ? what[1] : "line", "");
  if (state.rows === "block") heading(head, "born", "allocated at event", "n");
  else heading(head, "count", "blocks", "n");
  heading(head, "size", "size", "n");
  make("th.n", "share", head);
  const body = make("tbody", null, table);
  for (const row of rows.slice(0, shownRows)) tableRow(device, row, total, body);
  if (rows.length > shownRows) {
    make("button.more", `Show ${grouped(Math.min(400, rows.length - shownRows))} more`, box, {onclick: () => { shownRows += 400; change({}); }});
  }
}

const rowWays = device => [...ROW_WAYS, ...Object.keys(device.groupings).filter(by => !["category", "module", "path", "line"].includes(by)).map(by => [by, by])];

function heading(head, by, text, kind) {
  const isSorted = state.sort === by, arrow = isSorted ? state.up ? " ▴" : " ▾" : "";
  const cell = make(`th.${kind || "t"}`, null, head, {"aria-sort": isSorted ? state.up ? "ascending" : "descending" : "none"});
  make("button", text + arrow, cell, {onclick: () => change(isSorted ? {up: 1 - state.up} : {sort: by, up: by === "name" ? 1 : 0})});
}

function tableRow(device, row, total, body) {
  const line = make(`tr.row${state.rows === "block" && state.block === row.i ? ".chosen" : ""}`, null, body, {tabindex: "0"});
  const cell = make("td", null, line);
  if (state.rows === "stack" && device.stack[row.i] >= 0) {
    const more = make("details", null, cell);
    make("summary", row.name, more);
    make("pre", framesOf(device, device.stack[row.i]).map(frame => `${frame[0]}:${frame[1]} ${frame[2]}`).join("\n"), more);
  } else if (state.rows === "category") keyed(row.name, data.colors[row.name], cell);
  else cell.textContent = row.name;
  make("td.n", state.rows === "block" ? grouped(device.born[row.i]) : grouped(row.count), line);
  make("td.n", bytes(row.size), line, {title: `${grouped(row.size)} bytes`});
  make("td.n", share(row.size, total), line);
  const open = () => state.rows === "block" ? change({block: row.i}) : state.rows === "stack" ? null : search(row.name);
  line.addEventListener("click", open);
  line.addEventListener("keydown", event => { if (event.key === "Enter") open(); });
}

// A row of a group becomes the search, and its blocks become the rows.
function search(name) {
  const words = state.rows === "line" ? name.split(" ")[0] : name;
  change({q: words, rows: "block"});
}
