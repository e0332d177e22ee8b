// The state of each slice: a cell each, a strip of them for each direction.

import { canvas } from "./axes.js";
import { s } from "./dom.js";
import { day_short, slice_name } from "./format.js";
import { letter, STATES } from "./states.js";

/** `days` in order; `of(day, direction)` is a slice or nothing; `tip(slice)` its lines. */
export function draw_slices({ days, directions, of, tip }, width) {
  const left = 64,
    is_month = days[0]?.length === 7;
  const cell = is_month
    ? 64
    : Math.max(15, Math.min(40, Math.floor((width - left) / Math.max(1, days.length))));
  const fits = Math.max(1, Math.floor((width - left) / cell));
  // Whole weeks in a line, so that weekdays stand below each other.
  const a_line = !is_month && fits < days.length && fits >= 7 ? fits - (fits % 7) : fits;
  const tall = Math.min(cell, 26),
    block = 20 + directions.length * (tall + 3) + 10;
  const lines = Math.max(1, Math.ceil(days.length / a_line));
  const svg = canvas(width, lines * block);
  const steps = [];
  const ring = s("rect", {
    class: "cell-ring",
    width: cell - 3,
    height: tall,
    rx: 3,
    visibility: "hidden",
  });
  for (let at = 0; at < lines; at++) {
    const some = days.slice(at * a_line, (at + 1) * a_line),
      top = at * block;
    some.forEach((day, i) => {
      const named = is_month || i % 7 === 0;
      if (named && (is_month || left + i * cell + 40 < width + 8))
        svg.append(
          s(
            "text",
            { class: "tick", x: left + i * cell, y: top + 13 },
            is_month ? slice_name(day) : day_short(day),
          ),
        );
    });
    directions.forEach((direction, d) => {
      const y = top + 20 + d * (tall + 3);
      svg.append(s("text", { class: "tick", x: 0, y: y + tall / 2 + 4 }, direction));
      some.forEach((day, i) => {
        const slice = of(day, direction);
        if (!slice) return;
        const x = left + i * cell;
        svg.append(
          s("rect", {
            class: `slice ${STATES[slice.state] ? slice.state : "unknown"}`,
            x,
            y,
            width: cell - 3,
            height: tall,
            rx: 3,
          }),
          s(
            "text",
            {
              class: `slice-letter ${slice.state}`,
              x: x + (cell - 3) / 2,
              y: y + tall / 2 + 4,
              "text-anchor": "middle",
            },
            letter(slice.state),
          ),
        );
        steps.push({
          x: x + (cell - 3) / 2,
          y: y + tall / 2,
          tip: () => [`${slice_name(day)}, ${direction}`, tip(slice)],
        });
      });
    });
  }
  svg.append(ring);
  return {
    svg,
    steps,
    columns: a_line,
    mark: (step) => {
      ring.setAttribute("visibility", step ? "visible" : "hidden");
      if (!step) return;
      ring.setAttribute("x", step.x - (cell - 3) / 2);
      ring.setAttribute("y", step.y - tall / 2);
    },
  };
}
