// The block view: every allocation a band over time, stacked in the order of their birth, as large as its bytes.

// For each pixel column the allocations alive at its moment, oldest first. `paint(column, alive, count, moment)` leaves
// out those that have died, closes the gaps, and gives back how many are left; `repeat(column)` is a column at which
// nothing has changed.
function eachColumn(device, moments, stride, paint, repeat) {
  const {born, died} = device, first = moments[0];
  let alive = new Int32Array(1024), count = 0, next = after(born, first);
  const push = i => {
    if (count === alive.length) { const larger = new Int32Array(2 * count); larger.set(alive); alive = larger; }
    alive[count++] = i;
  };
  for (let i = 0; i < next; i++) if (died[i] > first) push(i);
  for (let column = 0; column < moments.length; column += stride) {
    const moment = moments[column];
    if (column && moment === moments[column - stride]) { repeat(column); continue; }
    for (; next < device.count && born[next] <= moment; next++) if (died[next] > moment) push(next);
    count = paint(column, alive, count, moment);
  }
}

// Four shades of each band's colour, so that neighbours can be told apart; faded is what a search leaves out.
function colorsOf(device) {
  const key = [state.by, state.q, css("--paper")].join("\n");
  if (device.painted?.key === key) return device.painted.colors;
  const bands = bandsOf(device, state.by), matches = matching(device), paper = css("--paper");
  const shades = bands.colors.flatMap(color => SHADES.map(amount => shade(color, amount)));
  const plain = shades.map(pixelColor), faded = shades.map(color => pixelColor(mixed(color, paper, .82)));
  const colors = new Uint32Array(device.count);
  for (let i = 0; i < colors.length; i++) colors[i] = (matches && !matches[i] ? faded : plain)[bands.of[i] * 4 + shadeOf(i)];
  device.painted = {key, colors};
  return colors;
}

function mixed(color, other, weight) {
  const read = (text, at) => parseInt(text.slice(at, at + 2), 16);
  return "#" + [1, 3, 5].map(at => Math.round(read(color, at) * (1 - weight) + read(other, at) * weight).toString(16).padStart(2, "0")).join("");
}

const SHADES = [-.12, 0, .14, .28];
const shadeOf = i => Math.imul(i, 2654435761) >>> 30;
const darker = color => (color >>> 1 & 0x7f7f7f) + (color >>> 3 & 0x1f1f1f) | 0xff000000;
const CHOSEN = pixelColor("#ff2d00");
const FRAME_MS = 8; // what the bands may take of a frame of a motion; else columns are left out until it rests

function drawBlocks(canvas, device, {hovered = -1, hurry = false} = {}) {
  const raster = newRaster(canvas), columns = columnsAcross(device, raster.width);
  const [low, high] = windowOf(device, columns), begun = performance.now();
  const stride = hurry ? Math.max(1, Math.min(8, Math.ceil(device.columnMs * columns.count / FRAME_MS))) : 1;
  const paintColumn = columnPainter(device, raster, low, raster.height / (high - low), hovered);
  eachColumn(device, columns.moments, stride, paintColumn, x => repeatColumn(raster, x - stride, stride + 1));
  if (stride > 1) for (let x = 0; x < raster.width; x += stride) repeatColumn(raster, x, stride);
  device.columnMs = (performance.now() - begun) / columns.count * stride;
  showRaster(raster);
  const width = canvas.clientWidth, height = canvas.clientHeight, {paint} = raster, ink = css("--ink");
  drawGrid(paint, low, high, size => height * (1 - (size - low) / (high - low)), width, ink);
  if (state.m !== null) {
    const x = newAxis(device, state, width).pixel(state.m + .5);
    if (x >= 0 && x <= width) { paint.fillStyle = ink; paint.fillRect(x - .5, 0, 1.5, height); }
  }
  sayEmulated(paint, device.recording, width, ink);
  return stride > 1;
}

// Paints the alive allocations of one column from the bottom up; what is thinner than a pixel gives way to the next.
function columnPainter(device, raster, low, scale, hovered) {
  const {size, died} = device, {height} = raster, colors = colorsOf(device), chosen = state.block ?? -1;
  return (x, alive, count, moment) => {
    let offset = -low, bottom = height, kept = 0;
    for (let k = 0; k < count; k++) {
      const i = alive[k];
      if (died[i] <= moment) continue;
      alive[kept++] = i;
      offset += size[i];
      if (offset <= 0 || bottom <= 0) continue;
      let y = Math.round(height - offset * scale);
      if (y >= bottom) { if (i !== chosen) continue; y = bottom - 1; }
      const color = i === chosen ? CHOSEN : i === hovered ? darker(colors[i]) : colors[i];
      fillColumn(raster, x, y, bottom, color);
      if (bottom - y >= 4 && y >= 0) fillColumn(raster, x, y, y + 1, darker(color));
      bottom = y;
    }
    return kept;
  };
}

// The bytes from the bottom to the top of the picture.
const windowOf = (device, columns) => state.y || wholeWindow(columns);

function wholeWindow(columns) {
  let most = 512;
  for (let x = 0; x < columns.count; x++) {
    let sum = 0;
    for (let band = 0; band < columns.width; band++) sum += columns.values[x * columns.width + band];
    most = Math.max(most, sum);
  }
  return [0, most * 1.04];
}

// The allocation under a point of the picture, or -1; with the moment and the byte there.
function blockAt(device, canvas, x, y) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2), width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const columns = columnsAcross(device, width), [low, high] = windowOf(device, columns), byte = low + (1 - y / canvas.clientHeight) * (high - low);
  const moment = columns.moments[Math.max(0, Math.min(columns.count - 1, Math.floor(x * ratio)))];
  let offset = 0;
  for (const i of aliveAt(device, moment)) {
    offset += device.size[i];
    if (offset > byte) return {block: i, moment, byte};
  }
  return {block: -1, moment, byte};
}

// Which allocations the search means: by category, module, or any frame of the stack. Null without a search.
function matching(device) {
  const query = state.q.trim().toLowerCase();
  if (!query) return null;
  if (device.found && device.found.query === query) return device.found.matches;
  const says = text => text.toLowerCase().includes(query);
  const named = ["category", "path"].filter(by => device.groupings[by]).map(by => [device.groupings[by].number, device.groupings[by].names.map(says)]);
  const frames = device.head.frames.map(frame => says(`${frame[0]}:${frame[1]} ${frame[2]}`));
  const stacks = [], ends = device.columns.stack_end;
  for (let stack = 0, at = 0; stack < ends.length; stack++) {
    stacks[stack] = false;
    for (; at < ends[stack]; at++) if (frames[device.columns.stack_frames[at]]) stacks[stack] = true;
  }
  const matches = new Uint8Array(device.count);
  for (let i = 0; i < device.count; i++) {
    matches[i] = (device.stack[i] >= 0 && stacks[device.stack[i]]) || named.some(([number, isMeant]) => isMeant[number[i]]) ? 1 : 0;
  }
  device.found = {query, matches};
  return matches;
}

const nameOf = (device, by, i) => device.groupings[by] ? device.groupings[by].names[device.groupings[by].number[i]] : "";

const TIP_FRAMES = 6;

function blockTip(device, i, moment, box) {
  make("b", `${bytes(device.size[i])} ${nameOf(device, "category", i)}`, box);
  make("div", `${nameOf(device, "path", i)} · ${lineOf(device, device.stack[i])}`, box);
  make("div", momentWords(device, moment), box, {class: "faint"});
  const frames = framesOf(device, device.stack[i]), shown = frames.slice(0, TIP_FRAMES).map(place);
  if (frames.length > TIP_FRAMES) shown.push(`and ${counted(frames.length - TIP_FRAMES, "frame")} more`);
  if (shown.length) make("pre", shown.join("\n"), box);
}

function showDetail(device, box) {
  box.replaceChildren();
  const i = state.block;
  if (i === null || i >= device.count) { box.hidden = true; return; }
  box.hidden = false;
  const size = device.size[i], isKept = device.died[i] > device.last, {columns} = device;
  make("b", `Block of ${bytes(size)}`, box);
  const controls = make("span.controls", null, box);
  make("button", "Zoom to it (Z)", controls, {onclick: () => zoomToBlock(device)});
  make("button", "Close (Esc)", controls, {onclick: () => change({block: null})});
  const rows = [
    ["size", `${grouped(size)} bytes, of which ${grouped(columns.rounding[i])} are rounding`],
    ["category", `${nameOf(device, "category", i)} (${columns.measured[i] ? "seen under its name" : "inferred"})`],
    ...Object.values(device.groupings).filter(one => !["category", "module", "line"].includes(one.title))
      .map(one => [one.title.split(",")[0], one.names[one.number[i]]]),
    ["address", "0x" + columns.address[i].toString(16)],
    ["allocated", device.born[i] ? momentWords(device, device.born[i]) : "before the recording"],
    ["freed", isKept ? "not in this recording" : momentWords(device, Math.min(device.last, device.died[i]))],
  ];
  if (columns.pending[i] > 1 && !isKept) rows.push(["given back", `at event ${grouped(device.died[i] + columns.pending[i])}, when no stream used it any more`]);
  const table = make("table", null, make("div.scroll", null, box));
  for (const [name, text] of rows) {
    const row = make("tr", null, table);
    make("td", name, row, {class: "faint"});
    make("td", text, row);
  }
  const frames = framesOf(device, device.stack[i]);
  if (frames.length) make("pre", frames.map(frame => `${frame[0]}:${frame[1]} ${frame[2]}`).join("\n"), box);
}

// The block's whole life with a little around it, and its bytes with a little above and below.
function zoomToBlock(device) {
  const i = state.block;
  if (i === null) return;
  const end = Math.min(device.last + 1, device.died[i]), margin = Math.max(4, (end - device.born[i]) * .1);
  let offset = 0;
  for (const other of aliveAt(device, device.born[i])) { if (other === i) break; offset += device.size[other]; }
  const around = Math.max(device.size[i] * 1.5, 2048);
  change({x: clamped(device, [device.born[i] - margin, end + margin], .5), y: [Math.max(0, offset - around), offset + device.size[i] + around]});
}
