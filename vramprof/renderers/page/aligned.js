// Two recordings one above the other on one axis, aligned by step: a step of the one lies under the same step of the
// other, however many events each has. A point at either is marked in both, with the difference by category there.

function showAligned(box) {
  const [before, after] = data.recordings;
  for (const told of before.devices) {
    const other = after.devices.find(one => one.index === told.index);
    if (other) alignedPair(box, [{told, recording: before}, {told: other, recording: after}]);
  }
}

function alignedPair(box, pair) {
  const byStep = pair.every(({told}) => told.overview.steps.length), slots = byStep ? slotsOf(pair) : [];
  make("h3", `GPU ${pair[0].told.index}: over ${byStep ? "the same steps" : "the whole of each"}`, box);
  make("p.hint", "Point at a moment, or use ← and →, to see both there and what differs.", box);
  const both = make("div.aligned", null, box, {id: `aligned-${pair[0].told.index}`, tabindex: "0", role: "group", "aria-label": "both recordings over the same steps"});
  const top = Math.max(...pair.map(({told}) => told.peak_reserved_bytes), 1) * 1.06;
  let at = null;
  const views = pair.map(subject => {
    make("div.label", subjectName(subject), both);
    const canvas = make("canvas.small", null, both), across = acrossOf(subject.told.overview, slots);
    canvas.redraw = () => { drawOverview(canvas, subject, {top, across}); drawSlots(canvas, slots, at); };
    return {canvas, across, overview: subject.told.overview};
  });
  const words = make("div", null, both, {"aria-live": "polite"});
  const point = share => {
    at = Math.max(0, Math.min(1, share));
    for (const {canvas} of views) canvas.redraw();
    differenceAt(words, views.map(({overview, across}) => heldAt(overview, across, at)), slotWords(slots, at));
  };
  for (const {canvas} of views) {
    canvas.addEventListener("pointermove", event => point(event.offsetX / canvas.clientWidth));
    canvas.addEventListener("pointerdown", event => point(event.offsetX / canvas.clientWidth));
  }
  both.addEventListener("keydown", event => {
    const by = {ArrowLeft: -.005, ArrowRight: .005}[event.key];
    if (by) { event.preventDefault(); event.stopPropagation(); point((at ?? .5) + by); }
  });
  for (const {canvas} of views) canvas.redraw();
}

// Before the first step, every step that either has, and after the last.
function slotsOf(pair) {
  const numbers = new Set(pair.flatMap(({told}) => told.overview.steps.map(step => step[0])));
  return ["before", ...[...numbers].sort((a, b) => a - b), "after"];
}

// Where a moment lies, from 0 to 1: its slot, and how far it is into it.
function acrossOf(overview, slots) {
  const last = overview.moment.at(-1) + 1, steps = overview.steps;
  if (!slots.length) return moment => moment / last;
  const place = new Map(slots.map((slot, i) => [slot, i]));
  const into = (slot, begin, end, moment) => (place.get(slot) + Math.min(1, (moment - begin) / Math.max(end - begin, 1))) / slots.length;
  return moment => {
    const found = steps.findLastIndex(step => step[1] <= moment);
    if (found < 0) return into("before", 0, steps[0][1], moment);
    const [index, begin, end] = steps[found], next = steps[found + 1];
    if (moment < end || next) return into(index, begin, next ? next[1] : end, moment);
    return into("after", end, last, moment);
  };
}

function drawSlots(canvas, slots, at) {
  const paint = canvas.getContext("2d"), width = canvas.clientWidth, height = canvas.clientHeight, ink = css("--ink");
  paint.font = "11px system-ui, sans-serif";
  slots.forEach((slot, i) => {
    const x = i / slots.length * width, room = width / slots.length;
    if (i) { paint.fillStyle = css("--line"); paint.fillRect(x, 0, 1, height); }
    if (typeof slot === "number" && room > 44) haloed(paint, `step ${slot}`, x + 4, height - 5, ink);
  });
  if (at !== null) { paint.fillStyle = ink; paint.fillRect(at * width - .75, 0, 1.5, height); }
}

function slotWords(slots, at) {
  const slot = slots[Math.min(slots.length - 1, Math.floor(at * slots.length))];
  if (slot === undefined) return `${Math.round(100 * at)} % of each`;
  const into = Math.round(100 * (at * slots.length % 1));
  return typeof slot === "number" ? `step ${slot}, ${into} % of it` : `${slot} the ${slot === "before" ? "first" : "last"} step`;
}

// By category, the overview's newest moment that is not past the point.
function heldAt(overview, across, at) {
  let found = 0;
  overview.moment.forEach((moment, i) => { if (across(moment) <= at) found = i; });
  return Object.fromEntries(Object.entries(overview.by_category).map(([name, values]) => [name, values[found]]));
}

function differenceAt(box, [before, after], words) {
  box.replaceChildren();
  const sum = held => Object.values(held).reduce((total, size) => total + size, 0);
  const rows = Object.keys(data.colors).map(name => [name, before[name] || 0, after[name] || 0]).filter(([, a, b]) => a || b);
  rows.sort((x, y) => Math.abs(y[2] - y[1]) - Math.abs(x[2] - x[1]));
  differenceTable(box, words, [...rows, ["allocated", sum(before), sum(after)]]);
}
