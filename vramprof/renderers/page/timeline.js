// Memory over time: bands of a grouping, reserved, the process in NVML and the card's limit, steps and phases.

const PHASES = {forward: "#3a9d5d", recompute: "#8cc63f", backward: "#d98a1f", optimizer: "#a05fb5"};
const LANE = 13;

// The first picture, and the small ones: from the overview that was computed when the page was written.
function drawOverview(canvas, {told, recording}, {top = 0, label = true, across = null} = {}) {
  const raster = newRaster(canvas), {moment, reserved, by_category: parts} = told.overview;
  const names = Object.keys(parts), last = moment[moment.length - 1] + 1, highest = top || Math.max(1, ...reserved) * 1.06;
  const best = new Int32Array(raster.width).fill(-1), total = i => names.reduce((sum, name) => sum + parts[name][i], 0);
  const place = across || (at => at / last);
  moment.forEach((at, i) => {
    const x = Math.min(raster.width - 1, Math.floor(place(at) * raster.width));
    if (best[x] < 0 || total(i) > total(best[x])) best[x] = i;
  });
  const colors = names.map(name => pixelColor(data.colors[name]));
  for (let x = 0, held = 0; x < raster.width; x++) {
    if (best[x] >= 0) held = best[x];
    let bottom = raster.height, sum = 0;
    names.forEach((name, band) => {
      sum += parts[name][held];
      const y = Math.round(raster.height * (1 - sum / highest));
      fillColumn(raster, x, y, bottom, colors[band]);
      bottom = y;
    });
  }
  showRaster(raster);
  const width = canvas.clientWidth, height = canvas.clientHeight, ink = css("--ink"), {paint} = raster;
  stepLine(paint, moment.map(at => place(at) * width), reserved.map(size => height * (1 - size / highest)), width, ink);
  if (label) sayEmulated(paint, recording, width, ink);
}

function stepLine(paint, xs, ys, end, color, dash = []) {
  paint.strokeStyle = color; paint.lineWidth = 1.2; paint.setLineDash(dash);
  paint.beginPath();
  xs.forEach((x, i) => { if (i) paint.lineTo(x, ys[i - 1]); paint.lineTo(x, ys[i]); });
  if (xs.length) paint.lineTo(end, ys[ys.length - 1]);
  paint.stroke();
  paint.setLineDash([]);
}

function drawTimeline(canvas, device) {
  const raster = newRaster(canvas), columns = columnsAcross(device, raster.width), bands = bandsOf(device, state.by);
  const lanes = device.columns.span_kind.length ? 2 * LANE : 0, floor = raster.height - lanes * raster.ratio;
  const top = topOf(device, columns), colors = bands.colors.map(pixelColor);
  for (let x = 0; x < columns.count; x++) {
    let bottom = floor, sum = 0;
    for (let band = 0; band < columns.width; band++) {
      sum += columns.values[x * columns.width + band];
      const y = Math.round(floor * (1 - sum / top));
      if (y < bottom) { fillColumn(raster, x, y, bottom, colors[band]); bottom = y; }
    }
  }
  showRaster(raster);
  const width = canvas.clientWidth, height = canvas.clientHeight - lanes, {paint} = raster, ink = css("--ink");
  const y = size => height * (1 - size / top), css_axis = newAxis(device, state, width);
  drawGrid(paint, 0, top, y, width, ink);
  drawReserved(paint, columns, y, raster, ink);
  drawProcess(paint, device, css_axis, y, width);
  drawLimit(paint, device, top, y, width);
  if (lanes) drawLanes(paint, device, css_axis, height, width);
  drawMarks(paint, device, css_axis, height, width, ink);
  sayEmulated(paint, device.recording, width, ink);
}

// The picture's height in bytes: what it must show, and the card's limit if that is near or asked for.
function topOf(device, columns) {
  let most = 1;
  for (const size of columns.reserved) most = Math.max(most, size);
  for (const size of device.columns.sample_process) most = Math.max(most, size);
  const limit = device.told.total_bytes;
  if (limit && (state.card || limit < 1.5 * most)) most = Math.max(most, limit);
  return most * 1.08;
}

function drawReserved(paint, columns, y, raster, ink) {
  const xs = [], ys = [];
  for (let x = 0; x < columns.count; x++) { xs.push(x / raster.ratio); ys.push(y(columns.reserved[x])); }
  stepLine(paint, xs, ys, raster.width / raster.ratio, ink);
  if (ys.length) { paint.font = "11px system-ui, sans-serif"; haloed(paint, "reserved", 64, ys[Math.min(80, ys.length - 1)] - 4, ink); }
}

function drawProcess(paint, device, axis, y, width) {
  const {sample_moment: moments, sample_process: sizes} = device.columns;
  if (!moments.length) return;
  const color = css("--alert"), xs = [...moments].map(moment => axis.pixel(moment)), ys = [...sizes].map(y);
  paint.save(); paint.beginPath(); paint.rect(0, 0, width, paint.canvas.height); paint.clip();
  stepLine(paint, xs, ys, width, color);
  paint.restore();
  const seen = Math.max(0, xs.findLastIndex(x => x <= 130));
  paint.font = "11px system-ui, sans-serif";
  haloed(paint, "process (NVML)", 130, ys[seen] - 4, color);
}

function drawLimit(paint, device, top, y, width) {
  const limit = device.told.total_bytes, color = css("--alert");
  if (!limit) return;
  paint.font = "11px system-ui, sans-serif";
  if (limit > top) { haloed(paint, `card ${bytes(limit)} ↑`, width - 80, 14, color, "right"); return; }
  stepLine(paint, [0], [y(limit)], width, color, [6, 4]);
  haloed(paint, `card ${bytes(limit)}`, width - 80, y(limit) - 4, color, "right");
}

function drawLanes(paint, device, axis, top, width) {
  const {span_kind: kinds, span_begin: begins, span_end: ends, span_step: steps} = device.columns;
  const done = new Float64Array(device.head.span_names.length).fill(-1);
  paint.font = "10px system-ui, sans-serif";
  for (let i = 0; i < kinds.length; i++) {
    const name = device.head.span_names[kinds[i]], lane = name === "step" ? 1 : 0;
    const from = Math.max(0, axis.pixel(begins[i])), to = Math.min(width, axis.pixel(ends[i]));
    if (to <= done[kinds[i]] + .25 || from >= width) continue;
    paint.fillStyle = lane ? (steps[i] % 2 ? "#8d99a5" : "#b4bec8") : PHASES[name];
    paint.fillRect(from, top + lane * LANE + 1, Math.max(.5, to - from), LANE - 1);
    const text = lane ? `step ${steps[i]}` : name;
    if (to - from > paint.measureText(text).width + 6) { paint.fillStyle = "#111"; paint.fillText(text, from + 3, top + lane * LANE + 10.5); }
    done[kinds[i]] = Math.max(done[kinds[i]], to);
  }
}

// The chosen moment, the peak, and out-of-memory errors.
function drawMarks(paint, device, axis, height, width, ink) {
  paint.font = "11px system-ui, sans-serif";
  for (const [i, moment] of device.columns.oom_moment.entries()) {
    const x = axis.pixel(moment);
    if (x < 0 || x > width) continue;
    paint.fillStyle = css("--alert"); paint.fillRect(x - 1, 0, 2, height);
    haloed(paint, `out of memory: ${bytes(device.columns.oom_size[i])} asked`, x - 5, 28, css("--alert"), "right");
  }
  const peak = axis.pixel(device.told.peak.moment + .5);
  if (peak >= 0 && peak <= width) haloed(paint, "▾ peak", peak - 4, 26, ink);
  if (state.m === null) return;
  const x = axis.pixel(state.m + .5);
  if (x >= 0 && x <= width) { paint.fillStyle = ink; paint.fillRect(x - .5, 0, 1.5, height); }
}

function spanAt(device, moment, isStep) {
  const {span_kind: kinds, span_begin: begins, span_end: ends, span_step: steps} = device.columns;
  let found = "";
  for (let i = 0; i < kinds.length && begins[i] <= moment; i++) {
    const name = device.head.span_names[kinds[i]];
    if ((name === "step") === isStep && moment <= ends[i]) found = isStep ? `step ${steps[i]}` : name;
  }
  return found;
}

function momentWords(device, moment) {
  const parts = [`event ${grouped(moment)} of ${grouped(device.last)}`];
  if (device.time[device.last]) parts.push(`at ${duration(device.time[moment])}`);
  return [...parts, spanAt(device, moment, true), spanAt(device, moment, false)].filter(Boolean).join(" · ");
}

function timelineTip(device, moment, box) {
  const bands = bandsOf(device, state.by), cursor = newCursor(device, bands);
  cursor.to(moment);
  make("div", momentWords(device, moment), box, {class: "faint"});
  make("b", `${bytes(cursor.total)} allocated, ${bytes(device.reserved[moment])} reserved`, box);
  const rows = bands.names.map((name, band) => [name, bands.colors[band], cursor.values[band]]);
  for (const [name, color, size] of rows.filter(row => row[2]).sort((a, b) => b[2] - a[2]).slice(0, 10)) {
    const line = make("div.numbers", null, box);
    keyed(`${name} `, color, line);
    line.append(bytes(size));
  }
}
