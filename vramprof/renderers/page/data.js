// Opens a device's binary block (vramprof/renderers/columns.py writes it) and gives its columns as typed arrays.

async function openBlock(text) {
  const stream = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(raw.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + length)));
  const columns = {};
  let at = 4 + length;
  for (const [name, about] of Object.entries(head.columns)) {
    columns[name] = readColumn(raw.subarray(at, at + about.width * about.count), about);
    at += about.width * about.count;
  }
  return {head, columns};
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), found = new Uint8Array(letters.length);
  for (let i = 0; i < found.length; i++) found[i] = letters.charCodeAt(i);
  return found;
}

// Bytes of equal significance lie together, the lowest first; the highest carries the sign.
function readColumn(raw, {width, count, unit, delta}) {
  const values = new Float64Array(count);
  let before = 0;
  for (let i = 0; i < count; i++) {
    let value = raw[(width - 1) * count + i] << 24 >> 24;
    for (let part = width - 2; part >= 0; part--) value = value * 256 + raw[part * count + i];
    if (delta) before = value += before;
    values[i] = value * unit;
  }
  return values;
}

// One device of one recording. An allocation is alive at moment m if born[i] <= m < died[i]; a moment is a number of
// events applied, from 0 to `last`; allocations are in the order of their birth.
async function openDevice(told, recording) {
  const {head, columns} = await openBlock(document.getElementById(`block-${told.block}`).textContent);
  const device = {
    told, recording, columns, head,
    count: columns.born.length,
    last: columns.time.length - 1,
    born: Int32Array.from(columns.born),
    died: Int32Array.from(columns.born, (born, i) => born + columns.lifetime[i]),
    size: columns.size,
    time: columns.time,
    reserved: columns.reserved,
    stack: Int32Array.from(columns.stack),
  };
  for (let i = 1; i <= device.last; i++) if (device.time[i] < device.time[i - 1]) device.time[i] = device.time[i - 1];
  device.deaths = byDeath(device);
  device.groupings = openGroupings(device);
  return device;
}

// Allocations in the order of their death, by counting; those that never die are left out.
function byDeath({count, last, born, died}) {
  const starts = new Int32Array(last + 2);
  for (let i = 0; i < count; i++) if (died[i] <= last && died[i] > born[i]) starts[died[i] + 1]++;
  for (let m = 1; m < starts.length; m++) starts[m] += starts[m - 1];
  const order = new Int32Array(starts[last + 1]);
  for (let i = 0; i < count; i++) if (died[i] <= last && died[i] > born[i]) order[starts[died[i]]++] = i;
  return order;
}

function framesOf(device, stack) {
  if (stack < 0) return [];
  const ends = device.columns.stack_end, found = [];
  for (let i = stack ? ends[stack - 1] : 0; i < ends[stack]; i++) found.push(device.head.frames[device.columns.stack_frames[i]]);
  return found;
}

const lineOf = (device, stack) => place(stack < 0 ? undefined : device.head.frames[device.columns.stack_user[stack]]);

// Position of the first entry greater than `value` in a sorted array.
function after(sorted, value) {
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] <= value) low = middle + 1; else high = middle; }
  return low;
}

function aliveAt(device, moment) {
  const found = [], end = after(device.born, moment);
  for (let i = 0; i < end; i++) if (device.died[i] > moment) found.push(i);
  return found;
}
