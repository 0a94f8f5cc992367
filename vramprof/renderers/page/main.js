// Puts the page together, redraws what changed, and listens: pointer, wheel, touch and keys.

const page = document.getElementById("page");
const parts = {};
let device = null, hovered = -1, queued = false, momentKey = "", opened = -1;

function change(patch) {
  Object.assign(state, patch);
  writeFragment();
  redraw();
}

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; render(); });
}

function showHead() {
  const head = document.getElementById("head");
  if (data.emulated) make("div.notice.emulated", "EMULATED: no GPU was used; torch's allocator ran on an emulated device. It is a prediction, not a measurement.", head);
  if (!data.emulated && data.recordings.some(one => one.origin === "predicted")) make("div.notice.emulated", "PREDICTED: this was computed, not measured.", head);
  for (const recording of data.recordings) for (const gap of recording.gaps) make("div.notice", `${gap.source}: ${gap.reason}`, head);
  const line = make("div.top", null, head);
  make("h1", "vramprof", line);
  for (const {command, torch_version: torch, origin, label} of data.recordings.slice(0, data.kind === "compare" ? 2 : 1)) {
    make("span.faint", [label, command.join(" "), torch && `torch ${torch}`, `origin ${origin}`].filter(Boolean).join(" · "), line);
  }
}

function showSummary({told, recording}, box) {
  box.replaceChildren();
  const error = told.error_bytes ? ` ± ${bytes(Math.abs(told.error_bytes))}` : "";
  make("h2", subjectName({told, recording}), box);
  const line = make("div.top", null, box);
  make("span.big", `${bytes(told.peak_allocated_bytes)}${error}`, line, {id: "peak"});
  make("span", `allocated at the peak · ${bytes(told.peak_reserved_bytes)} reserved` + (told.total_bytes ? ` of ${bytes(told.total_bytes)}` : "") +
    (told.outside_torch_bytes === null ? "" : ` · ${bytes(told.outside_torch_bytes)} outside torch`), line);
}

function build() {
  showHead();
  parts.several = make("section", null, page);
  if (!subjects.length) { make("p", "No GPU memory was recorded.", page); return; }
  parts.summary = make("section", null, page);
  parts.findings = make("section", null, page);
  parts.controls = make("div.controls", null, page);
  parts.strip = picture("canvas.strip", "the whole recording; drag to move the window");
  parts.timeline = picture("canvas.timeline", "memory over time", timelineTip);
  parts.legend = make("div.legend", null, page);
  make("h2", "Every block", page);
  make("p.hint", "Drag to move, wheel or pinch to zoom (Shift: bytes), double-click to zoom to a block. Keys: ← → moment, ↑ ↓ block, + − zoom, Z to the block, P peak, 0 everything, / search.", page);
  parts.bands = picture("canvas.bands", "every allocation as a band");
  parts.detail = make("div.detail", null, page, {id: "detail"});
  parts.detail.hidden = true;
  parts.moment = make("section", null, page, {id: "moment"});
  parts.rest = make("section", null, page);
  listen(parts.strip.canvas, false);
  listen(parts.timeline.canvas, false);
  listen(parts.bands.canvas, true);
}

function picture(what, label) {
  const box = make("div.picture", null, page), canvas = make(what, null, box, {tabindex: "0", role: "img", "aria-label": label});
  const tip = make("div.tip", null, box);
  tip.hidden = true;
  return {canvas, tip};
}

function showControls() {
  const box = parts.controls;
  box.replaceChildren();
  const ways = Object.entries(device.groupings).map(([by, {title}]) => [by, title]);
  choice("bands by", ways, state.by, box, by => change({by}));
  if (device.time[device.last]) choice("across", [["event", "events"], ["time", "time"]], state.axis, box, axis => change({axis}));
  const label = make("label", "search", box), field = make("input", null, label, {type: "search", id: "search", placeholder: "module, line, category"});
  field.value = state.q;
  field.addEventListener("input", () => change({q: field.value}));
  for (const [text, title, act] of [["−", "zoom out", () => zoomBy(2)], ["+", "zoom in", () => zoomBy(.5)], ["Everything", "the whole recording", everything], ["Peak", "go to the peak", toPeak]]) {
    make("button", text, box, {title, "aria-label": title, onclick: act});
  }
  if (device.told.total_bytes) {
    const limit = make("label", null, box), tick = make("input", null, limit, {type: "checkbox"});
    limit.append("up to the card's limit");
    tick.checked = Boolean(state.card);
    tick.addEventListener("change", () => change({card: tick.checked ? 1 : 0}));
  }
}

function showLegend() {
  parts.legend.replaceChildren();
  const bands = bandsOf(device, state.by), totals = new Float64Array(bands.names.length);
  for (let i = 0; i < device.count; i++) totals[bands.of[i]] += device.size[i];
  bands.names.forEach((name, band) => { if (totals[band]) keyed(name, bands.colors[band], parts.legend); });
  if (device.columns.span_kind.length) make("span.faint", "phases:", parts.legend);
  const seen = new Set([...device.columns.span_kind].map(kind => device.head.span_names[kind]));
  for (const [name, color] of Object.entries(PHASES)) if (seen.has(name)) keyed(name, color, parts.legend);
}

function showFindings({recording, told}) {
  const box = parts.findings, mine = recording.findings.filter(finding => finding.device === told.index);
  box.replaceChildren();
  if (mine.length) make("h2", "Findings", box);
  for (const finding of mine) {
    const one = make(`div.finding.${finding.severity}`, null, box);
    make("b", `${finding.code} ${finding.title}`, one);
    make("span.faint", ` ${finding.basis}`, one);
    make("p", finding.fix.action, one);
    if (finding.fix.code) make("code", finding.fix.code, one);
    const links = make("div.controls", null, one);
    const moment = finding.moment ?? told.peak.moment;
    make("button", `Show event ${grouped(moment)}`, links, {onclick: () => change({m: moment, q: ""})});
    for (const evidence of finding.evidence.slice(0, 6)) {
      const frame = evidence.frames[0], words = `${evidence.statement}: ${evidence.unit === "bytes" ? bytes(evidence.value) : `${grouped(evidence.value)} ${evidence.unit}`}`;
      if (!frame) { make("span.faint", words, links); continue; }
      const at = `${frame.filename}:${frame.line}`;
      make("button", `${words} · ${place([frame.filename, frame.line, frame.name])}`, links, {title: at, onclick: () => change({m: moment, q: at, rows: "block"})});
    }
  }
}

function showRest({recording, told}) {
  const box = parts.rest;
  box.replaceChildren();
  if (told.steps.length) {
    make("h2", "Steps", box);
    const table = make("table", null, make("div.scroll", null, box)), head = make("tr", null, make("thead", null, table));
    ["step", "peak", "left at its end"].forEach((text, at) => make(at ? "th.n" : "th", text, head));
    const body = make("tbody", null, table);
    for (const step of told.steps.slice(0, 300)) {
      const row = make("tr", null, body);
      make("td", String(step.index), row);
      make("td.n", bytes(step.peak_allocated_bytes), row);
      make("td.n", bytes(step.end_allocated_bytes), row);
    }
    if (told.steps.length > 300) make("p.faint", `and ${grouped(told.steps.length - 300)} steps more`, box);
  }
  const settings = Object.entries(recording.allocator_settings);
  if (!settings.length) return;
  const more = make("details", null, box);
  make("summary", "Allocator settings", more);
  make("pre", settings.map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join("\n"), more);
}

async function open() {
  const subject = subjects[state.s], number = state.s;
  opened = number;
  device = null;
  const hadFocus = parts.several.contains(document.activeElement);
  parts.several.replaceChildren();
  showSeveral(parts.several);
  if (hadFocus) parts.several.querySelector(".chosen").focus();
  showSummary(subject, parts.summary);
  showFindings(subject);
  drawOverview(parts.strip.canvas, subject, {label: false});
  drawOverview(parts.timeline.canvas, subject);
  performance.mark("first-picture");
  const found = subject.device || await openDevice(subject.told, subject.recording);
  if (opened !== number) return;
  subject.device = device = found;
  device.columnMs ??= 0;
  state.x = clamped(device, state.x || [0, device.last + 1], .5);
  momentKey = "";
  showControls();
  showRest(subject);
  render();
  performance.mark("ready");
}

let hurrying = 0;
function render() {
  if (opened !== state.s) { open(); return; }
  if (!device) return;
  state.x = clamped(device, state.x || [0, device.last + 1], .5);
  drawStrip();
  drawTimeline(parts.timeline.canvas, device);
  const isRough = drawBlocks(parts.bands.canvas, device, {hovered, hurry: moving});
  clearTimeout(hurrying);
  if (isRough) hurrying = setTimeout(() => { moving = false; redraw(); }, 160);
  const field = document.getElementById("search");
  if (field && field.value !== state.q) field.value = state.q;
  const key = [state.s, state.m, state.by, state.rows, state.flame, state.zoom, state.q, state.sort, state.up, shownRows, state.block].join("\n");
  if (key !== momentKey) {
    momentKey = key;
    showLegend();
    showDetail(device, parts.detail);
    keepFocus(() => showMoment(device, parts.moment));
  }
}

// Rebuilding a panel must not take the focus from where the keyboard was.
function keepFocus(rebuild) {
  const inside = parts.moment.contains(document.activeElement) ? document.activeElement : null;
  const position = inside && [...parts.moment.querySelectorAll(inside.tagName)].indexOf(inside);
  rebuild();
  if (inside) parts.moment.querySelectorAll(inside.tagName)[position]?.focus({preventScroll: true});
}

function drawStrip() {
  const {canvas} = parts.strip, subject = subjects[state.s];
  drawOverview(canvas, subject, {label: false});
  const paint = canvas.getContext("2d"), width = canvas.clientWidth, height = canvas.clientHeight;
  const [from, to] = state.x.map(moment => moment / (device.last + 1) * width);
  paint.fillStyle = css("--paper"); paint.globalAlpha = .65;
  paint.fillRect(0, 0, from, height); paint.fillRect(to, 0, width - to, height);
  paint.globalAlpha = 1; paint.strokeStyle = css("--ink"); paint.lineWidth = 1;
  paint.strokeRect(from + .5, .5, Math.max(2, to - from - 1), height - 1);
}

const everything = () => change({x: [0, device.last + 1], y: null});
const toPeak = () => goTo(device.told.peak.moment);

// Choose a moment, and bring it into the window.
function goTo(moment) {
  const m = Math.max(0, Math.min(device.last, Math.round(moment))), [begin, end] = state.x, half = (end - begin) / 2;
  change(m >= begin && m < end ? {m} : {m, x: clamped(device, [m - half, m + half], .5)});
}

function zoomBy(factor) {
  const width = parts.timeline.canvas.clientWidth, about = state.m === null ? width / 2 : newAxis(device, state, width).pixel(state.m + .5);
  change({x: zoomed(device, state, width, about >= 0 && about <= width ? about : width / 2, factor)});
}

let moving = false;
function moveWindow(canvas, pixels) {
  moving = true;
  if (canvas === parts.strip.canvas) {
    const by = pixels / canvas.clientWidth * (device.last + 1), [begin, end] = state.x;
    const held = Math.max(-begin, Math.min(device.last + 1 - end, by));
    change({x: [begin + held, end + held]});
  } else change({x: moved(device, state, canvas.clientWidth, -pixels)});
}

// Bytes zoom about the one under the pointer; null is everything again.
function zoomBytes(canvas, y, factor) {
  const columns = columnsAcross(device, canvas.raster.width);
  const [low, high] = windowOf(device, columns), [, all] = wholeWindow(columns);
  const about = low + (1 - y / canvas.clientHeight) * (high - low);
  const ends = [Math.max(0, about - (about - low) * factor), Math.min(all, about + (high - about) * factor)];
  moving = true;
  change({y: ends[1] - ends[0] >= all * .999 ? null : ends[1] - ends[0] < 256 ? [low, high] : ends});
}

function moveBytes(canvas, pixels) {
  if (!state.y) return;
  const [low, high] = state.y, by = Math.max(-low, pixels / canvas.clientHeight * (high - low));
  change({y: [low + by, high + by]});
}

function listen(canvas, isBands) {
  const pointers = new Map(), tip = canvas.nextElementSibling;
  let start = null, travelled = 0, pinch = 0;
  canvas.addEventListener("pointerdown", event => {
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    start = event; travelled = 0;
    if (pointers.size === 2) pinch = span(pointers);
  });
  canvas.addEventListener("pointermove", event => {
    if (!device) return;
    if (!pointers.has(event.pointerId)) { hover(canvas, tip, event, isBands); return; }
    const before = pointers.get(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const now = span(pointers), middle = [...pointers.values()].reduce((sum, one) => sum + one.offsetX / 2, 0);
      moving = true;
      if (pinch && now) change({x: zoomed(device, state, canvas.clientWidth, middle, pinch / now)});
      pinch = now; travelled = 99;
      return;
    }
    const dx = event.offsetX - before.offsetX, dy = event.offsetY - before.offsetY;
    travelled += Math.abs(dx) + Math.abs(dy);
    if (travelled < 4) return;
    tip.hidden = true;
    if (dx) moveWindow(canvas, dx);
    if (isBands && dy) moveBytes(canvas, dy);
  });
  const release = event => {
    const wasTap = pointers.delete(event.pointerId) && !pointers.size && travelled < 4 && event.type === "pointerup" && start;
    if (wasTap && device) click(canvas, event, isBands);
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; if (hovered >= 0) { hovered = -1; redraw(); } });
  canvas.addEventListener("dblclick", event => {
    if (!device || canvas === parts.strip.canvas) return;
    if (isBands && state.block !== null) zoomToBlock(device);
    else change({x: zoomed(device, state, canvas.clientWidth, event.offsetX, .25)});
  });
  canvas.addEventListener("wheel", event => {
    if (!device) return;
    const isMeant = event.ctrlKey || event.metaKey || event.shiftKey || document.activeElement === canvas;
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY) && !event.shiftKey) { event.preventDefault(); moveWindow(canvas, -event.deltaX); return; }
    if (!isMeant || canvas === parts.strip.canvas) return; // the page scrolls until the picture was clicked
    event.preventDefault();
    const factor = Math.exp(Math.max(-1, Math.min(1, (event.deltaY || event.deltaX) / 300)));
    if (event.shiftKey && isBands) { zoomBytes(canvas, event.offsetY, factor); return; }
    moving = true;
    change({x: zoomed(device, state, canvas.clientWidth, event.offsetX, factor)});
  }, {passive: false});
  canvas.addEventListener("keydown", event => { if (device && keys(event.key, canvas)) event.preventDefault(); });
}

function span(pointers) {
  const [a, b] = [...pointers.values()];
  return Math.hypot(a.offsetX - b.offsetX, a.offsetY - b.offsetY);
}

function hover(canvas, tip, event, isBands) {
  if (canvas === parts.strip.canvas) return;
  tip.replaceChildren();
  tip.hidden = false;
  if (isBands) {
    const {block, moment} = blockAt(device, canvas, event.offsetX, event.offsetY);
    if (block >= 0) blockTip(device, block, moment, tip); else tip.hidden = true;
    if (block !== hovered) { hovered = block; redraw(); }
  } else timelineTip(device, columnMoment(canvas, event.offsetX), tip);
  placeTip(tip, canvas, event.offsetX, event.offsetY);
}

// The moment that the picture shows in this column: its highest.
function columnMoment(canvas, x) {
  const {width, ratio} = canvas.raster, {moments} = columnsAcross(device, width);
  return moments[Math.max(0, Math.min(width - 1, Math.floor(x * ratio)))];
}

function placeTip(tip, canvas, x, y) {
  const isRight = x > canvas.clientWidth / 2;
  tip.style.left = isRight ? "auto" : `${x + 14}px`;
  tip.style.right = isRight ? `${canvas.clientWidth - x + 14}px` : "auto";
  tip.style.top = `${Math.max(0, Math.min(y + 10, canvas.clientHeight - tip.offsetHeight))}px`;
}

function click(canvas, event, isBands) {
  canvas.focus({preventScroll: true});
  if (canvas === parts.strip.canvas) {
    const [begin, end] = state.x, middle = event.offsetX / canvas.clientWidth * (device.last + 1);
    change({x: clamped(device, [middle - (end - begin) / 2, middle + (end - begin) / 2], .5)});
    return;
  }
  if (!isBands) { change({m: columnMoment(canvas, event.offsetX)}); return; }
  const {block, moment} = blockAt(device, canvas, event.offsetX, event.offsetY);
  change({m: moment, block: block < 0 ? null : block});
}

function keys(key, canvas) {
  const width = canvas.clientWidth, [begin, end] = state.x, here = state.m ?? device.told.peak.moment;
  const step = Math.max(1, Math.round((end - begin) / width * 4));
  const acts = {
    ArrowLeft: () => goTo(here - step), ArrowRight: () => goTo(here + step),
    ArrowUp: () => neighbour(1), ArrowDown: () => neighbour(-1),
    "+": () => zoomBy(.5), "=": () => zoomBy(.5), "-": () => zoomBy(2), 0: everything, p: toPeak, P: toPeak,
    z: () => zoomToBlock(device), Z: () => zoomToBlock(device), Escape: () => change({block: null}),
    Home: () => goTo(0), End: () => goTo(device.last), PageUp: () => moveWindow(canvas, width / 2), PageDown: () => moveWindow(canvas, -width / 2),
  };
  if (!acts[key]) return false;
  acts[key]();
  return true;
}

// The next block up or down in the stack of the chosen moment.
function neighbour(direction) {
  const m = state.m ?? device.told.peak.moment, alive = aliveAt(device, m), at = alive.indexOf(state.block);
  const next = at < 0 ? (direction > 0 ? 0 : alive.length - 1) : Math.max(0, Math.min(alive.length - 1, at + direction));
  if (alive.length) change({m, block: alive[next]});
}

document.addEventListener("keydown", event => {
  if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
    event.preventDefault();
    document.getElementById("search")?.focus();
  }
});

function repaint() {
  themed.clear();
  for (const canvas of document.querySelectorAll("canvas")) canvas.redraw?.();
  if (device) render(); else if (subjects.length) drawOverview(parts.timeline.canvas, subjects[state.s]);
}

window.addEventListener("hashchange", () => { readFragment(); momentKey = ""; if (device) showControls(); redraw(); });
let width = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; repaint(); } });
for (const [name, isPaper] of [["beforeprint", true], ["afterprint", false]]) {
  window.addEventListener(name, () => { document.documentElement.classList.toggle("light", isPaper); repaint(); });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

readFragment();
build();
if (subjects.length) open();
