// What is being looked at. It is the fragment of the address, so that a link shows the same view again.

const data = JSON.parse(document.getElementById("data").textContent);
const subjects = data.recordings.flatMap(recording => recording.devices.map(told => ({recording, told})));

const FRESH = {s: 0, axis: "event", x: null, y: null, m: null, by: "category", rows: "line", flame: "module", zoom: "", q: "", block: null, sort: "size", up: 0, card: 0};
const state = {...FRESH};
const NUMBERS = new Set(["s", "m", "block", "up", "card"]);

function readFragment() {
  Object.assign(state, FRESH);
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    if (name === "x" || name === "y") {
      const ends = text.split(",").map(Number);
      if (ends.length === 2 && ends.every(Number.isFinite) && ends[0] < ends[1]) state[name] = ends;
    } else if (NUMBERS.has(name)) { if (/^\d+$/.test(text)) state[name] = Number(text); }
    else if (name in FRESH) state[name] = text;
  }
  state.s = Math.min(state.s, Math.max(0, subjects.length - 1));
}

function fragment() {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value === null || value === FRESH[name]) continue;
    parts.set(name, Array.isArray(value) ? value.map(end => +end.toFixed(2)).join(",") : String(value));
  }
  return parts.toString();
}

let writing = 0;
function writeFragment() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    try { history.replaceState(null, "", "#" + fragment()); } catch { /* inside a notebook's frame there is no address */ }
  }, 150);
}
