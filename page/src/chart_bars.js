// Horizontal bars with their names above them.

import { scaleLinear } from "d3-scale";
import { canvas, fitting, width_of } from "./axes.js";
import { s } from "./dom.js";

/** `rows`: `{ name, value, before, amount, about, tip() }`; `before` is marked on the bar. */
export function draw_bars({ rows }, width) {
  const row = 56,
    top = 4;
  const most = Math.max(...rows.map(({ value, before }) => Math.max(value, before ?? 0)), 0);
  const x = scaleLinear([0, most || 1], [0, width - 2]);
  const svg = canvas(width, top + Math.max(1, rows.length) * row);
  const groups = rows.map(({ name, value, before, amount, about }, i) => {
    const y = top + i * row;
    return s(
      "g",
      { class: "row" },
      s(
        "text",
        { class: "row-name", x: 0, y: y + 13 },
        fitting(name, width - width_of(amount, 13, 600) - 14),
      ),
      s("text", { class: "row-value", x: width, y: y + 13, "text-anchor": "end" }, amount),
      s("rect", { class: "track", x: 0, y: y + 20, width, height: 10, rx: 2 }),
      s("rect", {
        class: "bar money",
        x: 0,
        y: y + 20,
        width: Math.max(1.5, x(value)),
        height: 10,
        rx: 2,
      }),
      before !== null &&
        s("line", { class: "before", x1: x(before), x2: x(before), y1: y + 17, y2: y + 33 }),
      s("text", { class: "row-about", x: 0, y: y + 45 }, fitting(about, width, 11.5)),
    );
  });
  svg.append(...groups);
  return {
    svg,
    columns: 1,
    steps: rows.map(({ tip }, i) => ({ i, x: width * 0.4, y: top + i * row + 25, tip })),
    mark: (step) => groups.forEach((group, i) => group.classList.toggle("meant", step?.i === i)),
  };
}

/** Bars to both sides of a middle. `rows`: `{ name, amount, parts: [[class, value], …], tip() }`. */
export function draw_differences({ rows }, width) {
  const row = 46,
    top = 4;
  const most = Math.max(
    ...rows.flatMap(({ parts }) => parts.map(([, value]) => Math.abs(value))),
    0,
  );
  const x = scaleLinear([-(most || 1), most || 1], [2, width - 2]);
  const height = top + rows.length * row;
  const svg = canvas(
    width,
    height,
    s("line", { class: "axis", x1: x(0), x2: x(0), y1: top + 18, y2: height - 6 }),
  );
  const groups = rows.map(({ name, amount, parts }, i) => {
    const y = top + i * row;
    return s(
      "g",
      { class: "row" },
      s(
        "text",
        { class: "row-name", x: 0, y: y + 13 },
        fitting(name, width - width_of(amount, 13, 600) - 14),
      ),
      s("text", { class: "row-value", x: width, y: y + 13, "text-anchor": "end" }, amount),
      parts.map(([kind, value], at) =>
        s("rect", {
          class: `bar ${kind}`,
          x: Math.min(x(0), x(value)),
          y: y + 20 + at * 9,
          width: Math.max(1, Math.abs(x(value) - x(0))),
          height: 8,
          rx: 1.5,
        }),
      ),
    );
  });
  svg.append(...groups);
  return {
    svg,
    columns: 1,
    steps: rows.map(({ tip }, i) => ({ i, x: width * 0.4, y: top + i * row + 25, tip })),
    mark: (step) => groups.forEach((group, i) => group.classList.toggle("meant", step?.i === i)),
  };
}
