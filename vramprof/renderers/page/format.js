// Words for numbers, and elements from strings: text goes in as text, never as markup.

const UNITS = [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];

function bytes(size) {
  for (const [unit, scale] of UNITS) if (Math.abs(size) >= scale) {
    const value = size / scale, digits = Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0;
    return `${value.toFixed(digits)} ${unit}`;
  }
  return `${size} B`;
}

const grouped = value => Math.round(value).toLocaleString("en-US");
const counted = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
const share = (part, whole) => whole ? `${(100 * part / whole).toFixed(1)} %` : "";

function duration(ns) {
  if (ns >= 1e9) return `${(ns / 1e9).toFixed(2)} s`;
  return ns >= 1e6 ? `${(ns / 1e6).toFixed(1)} ms` : `${(ns / 1e3).toFixed(0)} µs`;
}

// make("button.more", "text", parent, {onclick, title})
function make(what, text, parent, properties = {}) {
  const [tag, ...classes] = what.split("."), element = document.createElement(tag);
  element.className = classes.join(" ");
  if (text !== null && text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  if (parent) parent.append(element);
  return element;
}

function keyed(name, color, parent) {
  const box = make("span", null, parent);
  make("span.key", null, box).style.background = color;
  box.append(name);
  return box;
}

function choice(label, options, chosen, parent, onchange) {
  const box = make("label", label, parent), select = make("select", null, box);
  for (const [value, text] of options) make("option", text, select, {value});
  select.value = chosen;
  select.addEventListener("change", () => onchange(select.value));
  return select;
}

const place = frame => frame ? `${frame[0].replaceAll("\\", "/").split("/").slice(-2).join("/")}:${frame[1]} ${frame[2]}` : "(no Python frames)";

// A colour of the style sheet. It is asked many times a frame, so the answers are kept until the theme changes.
const themed = new Map();
function css(name) {
  if (!themed.has(name)) themed.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return themed.get(name);
}

// Lighter or darker: amount from -1 (black) to 1 (white).
function shade(color, amount) {
  const parts = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
  const toward = amount > 0 ? 255 : 0, weight = Math.abs(amount);
  return "#" + parts.map(part => Math.round(part + (toward - part) * weight).toString(16).padStart(2, "0")).join("");
}
