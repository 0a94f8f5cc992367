// Groupings: which band of the timeline an allocation belongs to, by category, module, line or whatever else is told.

const MOST_GROUPS = 12;
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#5e4fa2", "#b8a01f", "#66a61e", "#a6567a", "#3f9ba0", "#8c6d3b"];
const REST = "#b5b5b5";

function openGroupings(device) {
  const found = {}, lines = new Map(), lineNumber = new Int32Array(device.columns.stack_end.length + 1);
  for (let stack = -1; stack < lineNumber.length - 1; stack++) {
    const line = lineOf(device, stack);
    if (!lines.has(line)) lines.set(line, lines.size);
    lineNumber[stack + 1] = lines.get(line);
  }
  for (const [name, names] of Object.entries(device.head.groupings)) {
    found[name] = {title: name, names, number: Int32Array.from(device.columns[name])};
  }
  found.line = {title: "line", names: [...lines.keys()], number: device.stack.map(stack => lineNumber[stack + 1])};
  if (found.module) {
    const whole = found.module;
    found.path = {...whole, title: "module, whole path"};
    found.module = shortened(whole);
  }
  return found;
}

// Module paths cut to the deepest level that still tells few enough groups apart; rows of a list count as one.
function shortened(whole) {
  let best = null;
  for (let depth = 1; depth <= 8; depth++) {
    const cut = whole.names.map(name => name.replace(/\.\d+(?=\.|$)/g, ".*").split(".").slice(0, depth).join("."));
    const names = [...new Set(cut)];
    if (best && names.length > MOST_GROUPS) break;
    const position = new Map(names.map((name, i) => [name, i]));
    best = {title: "module", names, table: cut.map(name => position.get(name))};
  }
  return {...best, number: whole.number.map(number => best.table[number])};
}

// The bands of a grouping: categories in their own colours and order; else the largest at the peak, and the rest.
function bandsOf(device, by) {
  const grouping = device.groupings[by] || device.groupings.category;
  if (grouping.bands) return grouping.bands;
  const totals = new Float64Array(grouping.names.length);
  for (const i of aliveAt(device, device.told.peak.moment)) totals[grouping.number[i]] += device.size[i];
  const isCategory = grouping === device.groupings.category;
  const ranked = [...totals.keys()].filter(number => isCategory || totals[number]).sort((a, b) => totals[b] - totals[a]);
  const chosen = isCategory ? [...totals.keys()] : ranked.slice(0, MOST_GROUPS);
  const band = new Int32Array(grouping.names.length).fill(chosen.length);
  chosen.forEach((number, position) => { band[number] = position; });
  const names = chosen.map(number => grouping.names[number]);
  const colors = names.map((name, position) => (isCategory && data.colors[name]) || (by === "phase" && {...PHASES, outside: "#8d99a5"}[name]) || HUES[position % HUES.length]);
  if (!isCategory) { names.push("everything else"); colors.push(REST); }
  grouping.bands = {names, colors, of: grouping.number.map(number => band[number])};
  return grouping.bands;
}

// What every moment holds, band by band, with a level of detail: per bucket of events the state at its begin and at
// its highest moment, so that a picture of any length costs no more than its width.
const BUCKET = 64;

function seriesOf(device, by) {
  const bands = bandsOf(device, by);
  if (bands.series) return bands.series;
  const width = bands.names.length, buckets = Math.floor(device.last / BUCKET) + 1;
  const series = {width, begin: new Float64Array(buckets * width), best: new Float64Array(buckets * width),
    bestMoment: new Int32Array(buckets), bestTotal: new Float64Array(buckets).fill(-1), reserved: new Float64Array(buckets)};
  const cursor = newCursor(device, bands);
  for (let moment = 0; moment <= device.last; moment++) {
    cursor.to(moment);
    const bucket = Math.floor(moment / BUCKET);
    if (moment % BUCKET === 0) series.begin.set(cursor.values, bucket * width);
    if (cursor.total > series.bestTotal[bucket]) {
      series.bestTotal[bucket] = cursor.total;
      series.bestMoment[bucket] = moment;
      series.best.set(cursor.values, bucket * width);
    }
    series.reserved[bucket] = Math.max(series.reserved[bucket], device.reserved[moment]);
  }
  return bands.series = series;
}

// Walks forward over the moments and keeps the sum of each band.
function newCursor(device, bands, moment = -1, values = new Float64Array(bands.names.length)) {
  const cursor = {values: values.slice(), total: values.reduce((sum, value) => sum + value, 0), moment};
  const {born, died, deaths, size} = device, of = bands.of;
  let birth = after(born, moment), death = firstDeath(device, moment);
  cursor.to = target => {
    for (; birth < device.count && born[birth] <= target; birth++) {
      if (died[birth] > born[birth]) { cursor.values[of[birth]] += size[birth]; cursor.total += size[birth]; }
    }
    for (; death < deaths.length && died[deaths[death]] <= target; death++) {
      cursor.values[of[deaths[death]]] -= size[deaths[death]]; cursor.total -= size[deaths[death]];
    }
    cursor.moment = target;
  };
  return cursor;
}

function firstDeath({deaths, died}, moment) {
  let low = 0, high = deaths.length;
  while (low < high) { const middle = (low + high) >> 1; if (died[deaths[middle]] <= moment) low = middle + 1; else high = middle; }
  return low;
}

// For each pixel column, whose moments begin at edges[i]: its highest moment and what the bands held then.
function columnsOf(device, by, edges) {
  const series = seriesOf(device, by), bands = bandsOf(device, by), width = series.width, count = edges.length - 1;
  const moments = new Int32Array(count), values = new Float64Array(count * width), reserved = new Float64Array(count);
  const coarse = (edges[count] - edges[0]) / count >= BUCKET;
  const bucket = Math.floor(edges[0] / BUCKET);
  const cursor = coarse ? null : newCursor(device, bands, bucket * BUCKET, series.begin.subarray(bucket * width, (bucket + 1) * width));
  for (let i = 0; i < count; i++) {
    if (coarse) coarseColumn(series, edges, i, {moments, values, reserved});
    else if (i && edges[i] === edges[i - 1] && edges[i + 1] <= edges[i] + 1) {
      moments[i] = moments[i - 1]; reserved[i] = reserved[i - 1];
      values.copyWithin(i * width, (i - 1) * width, i * width);
    } else fineColumn(device, cursor, edges, i, {moments, values, reserved}, width);
  }
  return {moments, values, reserved, width, count};
}

// The columns of the present window; both pictures and what is under the pointer share them.
function columnsAcross(device, width) {
  const key = [state.by, state.axis, width, ...state.x].join(" ");
  if (device.across?.key !== key) device.across = {key, columns: columnsOf(device, state.by, newAxis(device, state, width).edges())};
  return device.across.columns;
}

function coarseColumn(series, edges, i, out) {
  const first = Math.floor(edges[i] / BUCKET), last = Math.max(first, Math.floor((edges[i + 1] - 1) / BUCKET));
  let best = first;
  for (let bucket = first; bucket <= last && bucket < series.bestTotal.length; bucket++) {
    if (series.bestTotal[bucket] > series.bestTotal[best]) best = bucket;
    out.reserved[i] = Math.max(out.reserved[i], series.reserved[bucket]);
  }
  out.moments[i] = series.bestMoment[best];
  out.values.set(series.best.subarray(best * series.width, (best + 1) * series.width), i * series.width);
}

function fineColumn(device, cursor, edges, i, out, width) {
  let most = -1;
  const end = Math.max(edges[i] + 1, edges[i + 1]);
  for (let moment = edges[i]; moment < end && moment <= device.last; moment++) {
    cursor.to(moment);
    out.reserved[i] = Math.max(out.reserved[i], device.reserved[moment]);
    if (cursor.total > most) {
      most = cursor.total;
      out.moments[i] = moment;
      out.values.set(cursor.values, i * width);
    }
  }
}
