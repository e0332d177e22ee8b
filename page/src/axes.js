// What several charts draw the same way.

import { ticks } from "d3-array";
import { s } from "./dom.js";
import { day_short, weekday } from "./format.js";

export function canvas(width, height, ...children) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, children);
}

/** Horizontal lines with their values left of them. */
export function value_lines(scale, { from, to, about = 3, format, is_whole = false }) {
  const [low, high] = scale.domain();
  return ticks(low, high, about)
    .filter((value) => !is_whole || Number.isInteger(value))
    .map((value) => {
      const y = Math.round(scale(value)) + 0.5;
      return s(
        "g",
        null,
        s("line", { class: "grid", x1: from, x2: to, y1: y, y2: y }),
        s("text", { class: "tick", x: from - 6, y: y + 3.5, "text-anchor": "end" }, format(value)),
      );
    });
}

/** The days below an axis: Mondays if they have room, else the first days of months. */
export function day_labels(days, x_of, y, width) {
  const mondays = days.filter((day) => weekday(day) === "Mon");
  const firsts = days.filter((day) => day.endsWith("-01"));
  const fits = (some) => some.length > 0 && some.length * 58 < width;
  const named =
    days.length < 9 && days.length * 58 < width
      ? days
      : fits(mondays)
        ? mondays
        : fits(firsts)
          ? firsts
          : days.filter((_, i) => i % Math.ceil(days.length / 4) === 0);
  return named.map((day) =>
    s("text", { class: "tick", x: x_of(day), y, "text-anchor": "middle" }, day_short(day)),
  );
}

/** A rectangle with a rounded top, for a bar that stands on the axis. */
export function standing_bar(x, y, width, height, radius = 2) {
  const r = Math.max(0, Math.min(radius, width / 2, height));
  const foot = y + height;
  return `M${x},${foot}V${y + r}q0,${-r} ${r},${-r}h${width - 2 * r}q${r},0 ${r},${r}V${foot}Z`;
}

/** Stripes for what is not known. */
export function stripes(id) {
  return s(
    "defs",
    null,
    s(
      "pattern",
      { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("rect", { class: "stripe-ground", width: 6, height: 6 }),
      s("rect", { class: "stripe", width: 1.5, height: 6 }),
    ),
  );
}

const ruler = document.createElement("canvas").getContext("2d");
/** The width of a text in the page's font. */
export function width_of(text, size = 13, weight = 400) {
  ruler.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

/** As much of a text as fits. */
export function fitting(text, width, size = 13) {
  if (width_of(text, size) <= width) return text;
  const letters = Array.from(text).slice(0, 200);
  while (letters.length > 1 && width_of(letters.join("") + "…", size) > width) letters.pop();
  return letters.join("").trimEnd() + "…";
}
