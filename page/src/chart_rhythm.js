// Hours of the day by weekday, as colours.

import { extent } from "d3-array";
import { scaleBand } from "d3-scale";
import { canvas } from "./axes.js";
import { s } from "./dom.js";
import { WEEK } from "./format.js";

/** `cells`: `{ weekday, hour, value, hours, … }`; `value` is `null` where nothing is known. */
export function draw_rhythm({ cells, format, tip }, width) {
  const left = 36,
    top = 20;
  const x = scaleBand(range(24), [left, width]).paddingInner(width < 560 ? 0.1 : 0.07);
  const row = Math.max(22, Math.min(34, x.step()));
  const y = scaleBand(range(7), [top, top + 7 * row]).paddingInner(width < 560 ? 0.1 : 0.09);
  const [low = 0, high = 0] = extent(cells, ({ value }) => value ?? undefined);
  const part = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  const foot = top + 7 * row + 14;
  const svg = canvas(width, foot + 26);
  for (let hour = 0; hour < 24; hour += 3) {
    svg.append(
      s(
        "text",
        { class: "tick", x: x(hour) + x.bandwidth() / 2, y: 13, "text-anchor": "middle" },
        `${String(hour).padStart(2, "0")}`,
      ),
    );
  }
  WEEK.forEach((name, i) =>
    svg.append(s("text", { class: "tick", x: 0, y: y(i) + y.bandwidth() / 2 + 4 }, name)),
  );
  const ring = s("rect", {
    class: "cell-ring",
    width: x.bandwidth(),
    height: y.bandwidth(),
    rx: 3,
    visibility: "hidden",
  });
  const is_wide = x.bandwidth() > 25;
  for (const cell of cells) {
    const px = x(cell.hour),
      py = y(cell.weekday - 1);
    const known = cell.value !== null;
    svg.append(
      s("rect", {
        class: known ? "cell" : "cell unknown-cell",
        x: px,
        y: py,
        width: x.bandwidth(),
        height: y.bandwidth(),
        rx: 3,
        style: known ? { "--part": `${Math.round(part(cell.value) * 100)}%` } : {},
      }),
    );
    if (is_wide && known) {
      svg.append(
        s(
          "text",
          {
            class: `cell-text ${ink_on(part(cell.value))}`,
            x: px + x.bandwidth() / 2,
            y: py + y.bandwidth() / 2 + 3.5,
            "text-anchor": "middle",
          },
          format(cell.value, true),
        ),
      );
    }
  }
  const scale_width = Math.min(160, width * 0.3),
    scale_left = width - scale_width - 76;
  svg.append(
    s(
      "text",
      { class: "tick", x: scale_left - 6, y: foot + 11, "text-anchor": "end" },
      format(low),
    ),
    ...range(20).map((i) =>
      s("rect", {
        class: "cell",
        x: scale_left + (i * scale_width) / 20,
        y: foot,
        width: scale_width / 20 + 0.5,
        height: 12,
        style: { "--part": `${(i / 19) * 100}%` },
      }),
    ),
    s("text", { class: "tick", x: scale_left + scale_width + 6, y: foot + 11 }, format(high)),
    ring,
  );
  return {
    svg,
    columns: 24,
    steps: cells.map((cell) => ({
      x: x(cell.hour) + x.bandwidth() / 2,
      y: y(cell.weekday - 1) + y.bandwidth() / 2,
      tip: () => tip(cell),
    })),
    mark: (step) => {
      ring.setAttribute("visibility", step ? "visible" : "hidden");
      if (!step) return;
      ring.setAttribute("x", step.x - x.bandwidth() / 2);
      ring.setAttribute("y", step.y - y.bandwidth() / 2);
    },
  };
}

/** Which text is legible: of colours in the middle, black one in light and dark. */
function ink_on(part) {
  return part > 0.715 ? "on-high" : part > 0.565 ? "on-middle" : "on-low";
}

function range(count) {
  return Array.from({ length: count }, (_, i) => i);
}
