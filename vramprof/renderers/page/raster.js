// Pictures made of pixels: each column is a stack of bands, written straight into an image. The cost is the size of
// the picture and not the length of the recording.

function pixelColor(color) {
  const value = parseInt(color.slice(1, 7), 16);
  return (255 << 24 | (value & 255) << 16 | (value >> 8 & 255) << 8 | value >> 16) >>> 0;
}

// A canvas at the device's own resolution, and an image to write to, column by column: a column's pixels lie together.
function newRaster(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const known = canvas.raster;
  if (known && known.width === width && known.height === height && known.ratio === ratio) { known.columns.fill(0); return known; }
  canvas.width = width; canvas.height = height;
  const image = new ImageData(width, height);
  return canvas.raster = {canvas, paint: canvas.getContext("2d"), ratio, width, height, image,
    pixels: new Uint32Array(image.data.buffer), columns: new Uint32Array(width * height)};
}

// Fill rows [top, bottom) of column x.
function fillColumn({columns, height}, x, top, bottom, color) {
  const from = x * height + Math.max(0, top), to = x * height + Math.min(height, bottom);
  for (let at = from; at < to; at++) columns[at] = color;
}

// The same column again to its right, `times` in all.
function repeatColumn({columns, width, height}, x, times) {
  for (let next = x + 1; next < Math.min(width, x + times); next++) columns.copyWithin(next * height, x * height, (x + 1) * height);
}

function showRaster({paint, image, pixels, columns, width, height, ratio}) {
  for (let block = 0; block < width; block += 16) {
    const end = Math.min(width, block + 16);
    for (let y = 0; y < height; y++) for (let x = block; x < end; x++) pixels[y * width + x] = columns[x * height + y];
  }
  paint.putImageData(image, 0, 0);
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
}

// Round sizes for the grid lines: at most `most` of them up to `top`.
function ticks(low, high, most) {
  let step = 512;
  while ((high - low) / step > most) step *= 2;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

function drawGrid(paint, low, high, y, width, ink) {
  paint.font = "11px system-ui, sans-serif";
  paint.textBaseline = "alphabetic";
  for (const at of ticks(low, high, 6)) {
    paint.globalAlpha = .16; paint.fillStyle = ink; paint.fillRect(0, Math.round(y(at)), width, 1);
    paint.globalAlpha = 1;
    if (at) haloed(paint, bytes(at), 4, y(at) - 3, ink);
  }
}

// Text that is read on any band.
function haloed(paint, text, x, y, ink, align = "left") {
  paint.textAlign = align;
  paint.lineWidth = 3; paint.lineJoin = "round";
  paint.strokeStyle = css("--paper"); paint.strokeText(text, x, y);
  paint.fillStyle = ink; paint.fillText(text, x, y);
  paint.textAlign = "left";
}

// Every picture of a recording without a GPU says so.
function sayEmulated(paint, recording, width, ink, y = 14) {
  if (!recording.emulated) return;
  paint.font = "600 12px system-ui, sans-serif";
  haloed(paint, "EMULATED", width - 6, y, ink, "right");
}
