// The horizontal axis: by event (every moment as wide as the next) or by time. A window is a pair of moments,
// fractions included; both pictures share it.

const toUnit = (device, axis, moment) => axis === "time" ? timeAt(device, moment) : moment;
const fromUnit = (device, axis, unit) => axis === "time" ? momentAt(device, unit) : unit;

function timeAt(device, moment) {
  const floor = Math.max(0, Math.min(device.last, Math.floor(moment))), next = Math.min(device.last, floor + 1);
  return device.time[floor] + (device.time[next] - device.time[floor]) * Math.min(1, moment - floor);
}

function momentAt(device, time) {
  const floor = Math.max(0, after(device.time, time) - 1), next = Math.min(device.last, floor + 1);
  const step = device.time[next] - device.time[floor];
  return floor + (step > 0 ? Math.max(0, Math.min(1, (time - device.time[floor]) / step)) : 0);
}

function newAxis(device, state, width) {
  const [begin, end] = state.x, from = toUnit(device, state.axis, begin), to = toUnit(device, state.axis, end);
  const span = Math.max(to - from, state.axis === "time" ? 1 : 1e-6);
  return {
    width,
    unit: pixel => from + pixel / width * span,
    moment: pixel => fromUnit(device, state.axis, from + pixel / width * span),
    pixel: moment => (toUnit(device, state.axis, moment) - from) / span * width,
    edges() {
      const edges = new Int32Array(width + 1);
      for (let i = 0; i <= width; i++) edges[i] = Math.max(0, Math.min(device.last, Math.floor(this.moment(i))));
      return edges;
    },
  };
}

// The window after zooming by `factor` about a pixel, and after moving by pixels; never past the ends.
function zoomed(device, state, width, pixel, factor) {
  const axis = newAxis(device, state, width), about = axis.unit(pixel);
  const ends = [axis.unit(0), axis.unit(width)].map(unit => fromUnit(device, state.axis, about + (unit - about) * factor));
  return clamped(device, ends, pixel / width);
}

function moved(device, state, width, pixels) {
  const axis = newAxis(device, state, width), low = toUnit(device, state.axis, 0), high = toUnit(device, state.axis, device.last + 1);
  const by = Math.max(low - axis.unit(0), Math.min(high - axis.unit(width), axis.unit(pixels) - axis.unit(0)));
  return clamped(device, [axis.unit(0) + by, axis.unit(width) + by].map(unit => fromUnit(device, state.axis, unit)), .5);
}

function clamped(device, [begin, end], about) {
  const least = Math.min(4, device.last + 1);
  if (end - begin < least) { const middle = begin + (end - begin) * about; begin = middle - least * about; end = begin + least; }
  begin = Math.max(0, Math.min(begin, device.last + 1 - least));
  return [begin, Math.min(device.last + 1, Math.max(end, begin + least))];
}
