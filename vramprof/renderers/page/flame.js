// The flame graph of a moment: bytes by module path, by stack (outermost frame on top, all of it or your own lines) or by category and module.

const FLAME_WAYS = [["module", "module path"], ["lines", "your lines"], ["stack", "whole stack"], ["category", "category, module"]];

function wayDown(device, i, way) {
  if (way === "stack" || way === "lines") {
    const frames = framesOf(device, device.stack[i]).reverse().filter(frame => way === "stack" || frame[3]);
    return frames.length ? frames.map(place) : [way === "stack" ? "(no frames)" : "(no frames of yours)"];
  }
  const path = nameOf(device, "path", i) || "(none)", category = nameOf(device, "category", i);
  const modules = path.startsWith("(") ? [path] : path.split(".");
  return way === "category" ? [category, ...modules] : [...modules, category];
}

function flameTree(device, alive, way) {
  const root = {name: "all", size: 0, children: new Map()}, sums = new Map();
  for (const i of alive) {  // few ways down, many blocks
    const key = way === "stack" || way === "lines" ? device.stack[i] : `${device.groupings.path ? device.groupings.path.number[i] : 0}/${device.groupings.category.number[i]}`;
    const known = sums.get(key);
    if (known) known.size += device.size[i]; else sums.set(key, {i, size: device.size[i]});
  }
  for (const {i, size} of sums.values()) {
    let node = root;
    root.size += size;
    for (const name of wayDown(device, i, way)) {
      if (!node.children.has(name)) node.children.set(name, {name, size: 0, children: new Map()});
      node = node.children.get(name);
      node.size += size;
    }
  }
  return root;
}

function showFlame(device, alive, total, box) {
  make("h3", "Flame graph", box);
  const controls = make("div.controls", null, box);
  choice("by", FLAME_WAYS, state.flame, controls, flame => change({flame, zoom: ""}));
  const tree = flameTree(device, alive, state.flame);
  const path = [];
  let node = tree;
  for (const name of state.zoom ? JSON.parse(state.zoom) : []) {
    if (!node.children.has(name)) break;
    node = node.children.get(name);
    path.push(name);
  }
  if (path.length) make("button", "Whole graph", controls, {onclick: () => change({zoom: ""})});
  const frame = make("div.flame", null, box, {id: "flame"}), query = state.q.trim().toLowerCase();
  let deepest = 0, drawn = 0;
  const draw = (one, depth, left, way) => {
    const width = 100 * one.size / node.size;
    if (width < .25 || drawn > 3000) return;
    drawn++;
    deepest = Math.max(deepest, depth);
    const words = `${one.name} ${bytes(one.size)} (${share(one.size, total)})`;
    const cell = make("button", one.name, frame, {title: words, "aria-label": words, onclick: () => change({zoom: JSON.stringify(way)})});
    cell.style.cssText = `left:${left}%;width:${width}%;top:${depth * 19}px;background:${flameColor(one.name)}`;
    if (query && !one.name.toLowerCase().includes(query)) cell.style.opacity = .45;
    let at = left;
    for (const child of [...one.children.values()].sort((a, b) => b.size - a.size)) {
      draw(child, depth + 1, at, [...way, child.name]);
      at += 100 * child.size / node.size;
    }
  };
  draw(node, 0, 0, path);
  frame.style.height = `${Math.min(420, (deepest + 1) * 19 + 2)}px`;
}

function flameColor(name) {
  if (data.colors[name]) return shade(data.colors[name], .35);
  let hash = 7;
  for (const letter of name.replace(/\d+/g, "#")) hash = Math.imul(hash, 31) + letter.codePointAt(0) | 0;
  return `hsl(${20 + Math.abs(hash) % 36} ${62 + Math.abs(hash >> 8) % 24}% ${68 + Math.abs(hash >> 16) % 12}%)`;
}
