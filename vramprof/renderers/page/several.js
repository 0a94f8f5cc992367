// Several recordings or devices on one page: small multiples on one scale, the odd one out, and the difference of two.

function showSeveral(box) {
  if (subjects.length < 2) return;
  const isPair = data.kind === "compare";
  make("h2", isPair ? "Side by side" : "All devices", box);
  const odd = isPair ? new Set() : oddOnes(subjects.map(subject => subject.told.peak_allocated_bytes));
  const top = Math.max(...subjects.map(({told}) => told.peak_reserved_bytes), 1) * 1.06;
  const grid = make(isPair ? "div.pair" : "div.many", null, box, {id: "several"});
  subjects.forEach((subject, number) => {
    const {told, recording} = subject;
    const card = make(`button.card${number === state.s ? ".chosen" : ""}${odd.has(number) ? ".odd" : ""}`, null, grid,
      {onclick: () => change({s: number, x: null, y: null, m: null, block: null})});
    card.dataset.subject = number;
    make("div.label", subjectName(subject), card);
    const words = `${bytes(told.peak_allocated_bytes)} peak, ${bytes(told.peak_reserved_bytes)} reserved`;
    make("div.numbers", odd.has(number) ? `${words} · odd one out` : words, card);
    if (recording.emulated) make("div.emulated", recording.origin === "predicted" ? "EMULATED, predicted" : "EMULATED", card);
    const canvas = make("canvas.small", null, card);
    canvas.redraw = () => drawOverview(canvas, subject, {top});
  });
  for (const canvas of grid.querySelectorAll("canvas")) canvas.redraw(); // now that each has its width
  if (isPair) { showDifference(box); showAligned(box); }
}

function subjectName({recording, told}) {
  const label = [recording.label, `GPU ${told.index} ${told.name}`.trim()];
  return label.filter(Boolean).join(" · ");
}

// Peaks far from the median: more than five times the median distance from it, and more than 2 %.
function oddOnes(peaks) {
  const middle = values => [...values].sort((a, b) => a - b)[values.length >> 1];
  const median = middle(peaks), spread = middle(peaks.map(peak => Math.abs(peak - median)));
  return new Set(peaks.length < 3 ? [] : [...peaks.keys()].filter(i => Math.abs(peaks[i] - median) > Math.max(5 * spread, .02 * median)));
}

// By category at the peak: the second less the first, for each device that both have.
function showDifference(box) {
  const [before, after] = data.recordings;
  for (const told of before.devices) {
    const other = after.devices.find(one => one.index === told.index);
    if (!other) continue;
    make("h3", `GPU ${told.index}: difference at the peak, by category`, box);
    const rows = Object.keys(told.peak.by_category).map(name => [name, told.peak.by_category[name], other.peak.by_category[name]]);
    differenceTable(box, "category", [
      ...rows.filter(([, a, b]) => a || b),
      ["allocated", told.peak.allocated_bytes, other.peak.allocated_bytes],
      ["reserved", told.peak_reserved_bytes, other.peak_reserved_bytes],
    ]).id = `difference-${told.index}`;
  }
}

// Rows of [name, bytes before, bytes after].
function differenceTable(box, title, rows) {
  const table = make("table", null, make("div.scroll", null, box)), head = make("tr", null, make("thead", null, table));
  const labels = data.recordings.map(recording => recording.label);
  for (const [at, text] of [title, ...labels, "difference", ""].entries()) make(at ? "th.n" : "th", text, head);
  const body = make("tbody", null, table);
  for (const [name, a, b] of rows) {
    const line = make("tr", null, body), cell = make("td", null, line);
    if (data.colors[name]) keyed(name, data.colors[name], cell); else make("b", name, cell);
    for (const size of [a, b]) make("td.n", bytes(size), line, {title: `${grouped(size)} bytes`});
    make("td.n", (b > a ? "+" : "") + bytes(b - a), line, {title: `${grouped(b - a)} bytes`});
    make("td.n", a ? `${b >= a ? "+" : ""}${(100 * (b - a) / a).toFixed(1)} %` : "", line);
  }
  return table;
}
