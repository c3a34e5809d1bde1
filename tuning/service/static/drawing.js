// Tables and curves. Text is inserted as text, never as markup.

export function element(name, text = "", attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export const number = (value) =>
  typeof value === "number" ? String(Number(value.toPrecision(4))) : value === null || value === undefined ? "" : String(value);

// rows: arrays of cells; a cell is a value or an element. A click on a column head sorts by it; the caller keeps `order`.
export function table(target, heads, rows, order, marked) {
  if (order.column !== null) {
    const key = (row) => (row.cells[order.column] instanceof Node ? row.cells[order.column].textContent : row.cells[order.column]);
    const empty = (value) => value === null || value === undefined || value === "";
    rows.sort((one, other) => {
      const [a, b] = [key(one), key(other)];
      if (empty(a) || empty(b)) return empty(a) - empty(b); // missing values are last in both directions
      const numbers = typeof a === "number" && typeof b === "number";
      return order.sign * (numbers ? a - b : String(a).localeCompare(String(b)));
    });
  }
  const head = element("tr");
  heads.forEach((text, column) => {
    const cell = element("th");
    const arrow = order.column === column ? (order.sign > 0 ? " ↑" : " ↓") : "";
    const button = element("button", text + arrow);
    button.addEventListener("click", () => {
      order.sign = order.column === column ? -order.sign : 1;
      order.column = column;
      table(target, heads, rows, order, marked);
    });
    cell.append(button);
    head.append(cell);
  });
  const body = rows.map((row) => {
    const line = element("tr", "", row.key === marked ? { class: "marked" } : {});
    for (const cell of row.cells) {
      const shown = element("td", cell instanceof Node ? "" : number(cell), typeof cell === "number" ? { class: "number" } : {});
      if (cell instanceof Node) shown.append(cell);
      line.append(shown);
    }
    return line;
  });
  target.replaceChildren(head, ...body);
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// curves: {trial: [[step, value], ...]}; the winner is drawn last, with a thick line.
export function plot(target, curves, steps, label, winner) {
  const points = Object.values(curves).flat().filter(([, value]) => typeof value === "number");
  target.replaceChildren();
  if (!points.length) return;
  const [width, height, left, bottom] = [640, 260, 52, 40];
  const values = points.map(([, value]) => value);
  const low = Math.min(...values);
  const high = Math.max(...values, low + 1e-9);
  const x = (step) => left + (step / steps) * (width - left - 12);
  const y = (value) => 12 + ((high - value) / (high - low)) * (height - bottom - 12);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} by step` });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const value = low + part * (high - low);
    svg.append(drawn("line", { x1: left, x2: width - 12, y1: y(value), y2: y(value), class: "grid" }));
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, class: "left" }, number(value)));
    svg.append(drawn("text", { x: x(part * steps), y: height - 22, class: "below" }, number(Math.round(part * steps))));
  }
  svg.append(drawn("text", { x: width / 2, y: height - 5, class: "below" }, `${label} by step`));
  const order = Object.keys(curves).sort((one) => (Number(one) === winner ? 1 : -1));
  for (const trial of order) {
    const line = curves[trial].filter(([, value]) => typeof value === "number");
    const kind = Number(trial) === winner ? "curve winner" : "curve";
    const path = line.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const group = drawn("g", { class: kind });
    group.append(drawn("title", {}, `trial ${trial}`), drawn("polyline", { points: path }));
    for (const [step, value] of line) group.append(drawn("circle", { cx: x(step), cy: y(value), r: 2.5 }));
    svg.append(group);
  }
  target.append(svg);
}
