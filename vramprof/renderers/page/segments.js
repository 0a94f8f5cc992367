// The segment map of a moment: each segment that torch holds as a bar of its own, wrapped; what is free in it is seen.

const SEGMENT_LINE = 13;

// Neighbouring pieces of an expandable segment are one: blocks lie across them.
function segmentsAt({columns}, moment) {
  const {segment_address: address, segment_size: size, segment_born: born, segment_died: died, segment_mapped: mapped} = columns;
  const found = [];
  for (const s of [...address.keys()].filter(s => born[s] <= moment && moment < died[s]).sort((a, b) => address[a] - address[b])) {
    const before = found.at(-1);
    if (before && mapped[s] && before.mapped && before.address + before.size === address[s]) before.size += size[s];
    else found.push({address: address[s], size: size[s], mapped: mapped[s], blocks: []});
  }
  return found;
}

function fill(device, segments, blocks) {
  const starts = segments.map(segment => segment.address);
  for (const i of blocks) {
    const segment = segments[after(starts, device.columns.address[i]) - 1];
    if (segment && device.columns.address[i] < segment.address + segment.size) segment.blocks.push(i);
  }
}

function freePieces(device, segment) {
  const pieces = [];
  let at = segment.address;
  for (const i of segment.blocks.sort((a, b) => device.columns.address[a] - device.columns.address[b])) {
    if (device.columns.address[i] > at) pieces.push(device.columns.address[i] - at);
    at = device.columns.address[i] + device.size[i];
  }
  if (at < segment.address + segment.size) pieces.push(segment.address + segment.size - at);
  return pieces;
}

function showSegments(device, alive, moment, box) {
  make("h3", "Segments", box);
  const segments = segmentsAt(device, moment);
  fill(device, segments, alive);
  const held = segments.reduce((sum, segment) => sum + segment.size, 0), free = segments.flatMap(segment => freePieces(device, segment));
  const idle = free.reduce((sum, size) => sum + size, 0);
  make("p", `${bytes(held)} reserved in ${counted(segments.length, "segment")}; ${bytes(idle)} free in ${counted(free.length, "piece")}` +
    (free.length ? `, the largest ${bytes(free.reduce((most, size) => Math.max(most, size), 0))}` : ""), box, {class: "faint numbers", id: "segment-words"});
  if (!held) return;
  const picture = make("div.picture", null, box), canvas = make("canvas", null, picture, {tabindex: "0", role: "img", "aria-label": "map of the segments"});
  const tip = make("div.tip", null, picture);
  tip.hidden = true;
  canvas.redraw = () => drawSegments(canvas, device, segments, held);
  canvas.redraw();
  canvas.addEventListener("pointermove", event => {
    const {segment, block} = segmentUnder(canvas, device, event.offsetX, event.offsetY);
    tip.hidden = !segment;
    if (!segment) return;
    tip.replaceChildren();
    if (block >= 0) blockTip(device, block, moment, tip);
    else make("b", "free", tip);
    make("div", `in a segment of ${bytes(segment.size)} at 0x${segment.address.toString(16)}`, tip, {class: "faint"});
    placeTip(tip, canvas, event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", event => {
    const {block} = segmentUnder(canvas, device, event.offsetX, event.offsetY);
    if (block >= 0) change({block});
  });
}

// Lines of equal bytes: as many as give the small segments a few pixels, at most 24.
function drawSegments(canvas, device, segments, held) {
  const width = Math.max(1, canvas.clientWidth), lines = Math.max(1, Math.min(24, Math.ceil(segments.length / 2) + 3));
  const perPixel = held / (width * lines * .97 || 1), gap = 2, places = [];
  let x = 0, line = 0;
  for (const segment of segments) {
    let done = 0;
    while (done < segment.size) {
      const room = (width - x) * perPixel, part = Math.min(segment.size - done, Math.max(room, perPixel));
      places.push({segment, x, line, from: segment.address + done, to: segment.address + done + part});
      x += Math.max(1, part / perPixel);
      done += part;
      if (x >= width - 1) { x = 0; line++; }
    }
    x += gap;
    if (x >= width - 1) { x = 0; line++; }
  }
  canvas.style.height = `${(line + 1) * SEGMENT_LINE + 4}px`;
  canvas.places = {places, perPixel};
  const {paint, ratio} = newRaster(canvas);
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.clearRect(0, 0, width, canvas.clientHeight);
  const bands = bandsOf(device, state.by), edge = css("--faint"), paper = css("--panel");
  for (const place of places) {
    const top = place.line * SEGMENT_LINE + 1, wide = Math.max(1, (place.to - place.from) / perPixel);
    paint.fillStyle = paper; paint.fillRect(place.x, top, wide, SEGMENT_LINE - 3);
    paint.strokeStyle = edge; paint.lineWidth = .6; paint.strokeRect(place.x + .3, top + .3, Math.max(.4, wide - .6), SEGMENT_LINE - 3.6);
    for (const i of place.segment.blocks) {
      const from = Math.max(place.from, device.columns.address[i]), to = Math.min(place.to, device.columns.address[i] + device.size[i]);
      if (to <= from) continue;
      paint.fillStyle = i === state.block ? "#ff2d00" : shade(bands.colors[bands.of[i]], SHADES[shadeOf(i)]);
      paint.fillRect(place.x + (from - place.from) / perPixel, top, Math.max(.5, (to - from) / perPixel), SEGMENT_LINE - 3);
    }
  }
  sayEmulated(paint, device.recording, width, css("--ink"), canvas.clientHeight - 6);
}

function segmentUnder(canvas, device, x, y) {
  const {places, perPixel} = canvas.places, line = Math.floor(y / SEGMENT_LINE);
  const place = places.find(one => one.line === line && x >= one.x && x < one.x + Math.max(2, (one.to - one.from) / perPixel));
  if (!place) return {};
  const address = place.from + (x - place.x) * perPixel;
  const block = place.segment.blocks.find(i => address >= device.columns.address[i] && address < device.columns.address[i] + device.size[i]);
  return {segment: place.segment, block: block === undefined ? -1 : block};
}
