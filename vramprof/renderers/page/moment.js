// What is alive at the chosen moment: by category, as a flame graph, as a table, and where in the segments it lies.

function showMoment(device, box) {
  box.replaceChildren();
  const moment = state.m === null ? device.told.peak.moment : Math.min(state.m, device.last);
  const alive = aliveAt(device, moment), total = alive.reduce((sum, i) => sum + device.size[i], 0);
  const isPeak = moment === device.told.peak.moment;
  make("h2", `Alive at ${isPeak ? "the peak" : "this moment"}: ${bytes(total)} in ${counted(alive.length, "block")}`, box);
  make("p", `${momentWords(device, moment)}${device.recording.emulated ? " · EMULATED" : ""}`, box, {class: "faint numbers", id: "moment-words"});
  categoryBar(device, alive, total, box);
  const two = make("div.two", null, box), left = make("section", null, two), right = make("section", null, two);
  showFlame(device, alive, total, left);
  showSegments(device, alive, moment, right);
  showTable(device, alive, total, make("section", null, box));
}

function categoryBar(device, alive, total, box) {
  const grouping = device.groupings.category, sums = new Float64Array(grouping.names.length);
  for (const i of alive) sums[grouping.number[i]] += device.size[i];
  const bar = make("div.bar", null, box, {role: "img", "aria-label": "categories"}), legend = make("div.legend.numbers", null, box, {id: "categories"});
  const rows = grouping.names.map((name, number) => [name, sums[number]]).filter(row => row[1]).sort((a, b) => b[1] - a[1]);
  for (const [name, size] of rows) {
    const part = make("span", null, bar, {title: `${name} ${bytes(size)}`});
    part.style.cssText = `width:${100 * size / total}%;background:${data.colors[name]}`;
    const entry = keyed(`${name} ${bytes(size)} (${share(size, total)})`, data.colors[name], legend);
    entry.title = `${grouped(size)} bytes`;
    entry.dataset.category = name;
    entry.dataset.bytes = size;
  }
}
