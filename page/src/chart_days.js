// Calls, minutes and spend by day: one panel each over the same days.

import { max } from "d3-array";
import { scaleBand, scaleLinear } from "d3-scale";
import { canvas, day_labels, standing_bar, stripes, value_lines } from "./axes.js";
import { s } from "./dom.js";
import { compact, day_long } from "./format.js";
import { is_unknown, letter, worst } from "./states.js";

/** A bar is not wider, however few days there are. */
const WIDEST = 44;

/**
 * `days`: `{ day, parts: [{ direction, state, … }], week: sums | null }`.
 * `panels`: `{ title, unit, of(sums), format(sums), axis }`; `of` is a number, for lengths.
 */
export function draw_days({ days, panels, directions, sum }, width) {
  const left = 46,
    right = 6,
    top = 26,
    gap = 36,
    tall = width < 560 ? 92 : width < 700 ? 84 : 112;
  const names = days.map(({ day }) => day);
  const x = scaleBand(names, [left, width - right])
    .paddingInner(days.length > 120 ? 0 : 0.22)
    .paddingOuter(0.1);
  const height = top + panels.length * (tall + gap) - gap + 24;
  const band = x.bandwidth();
  const thin = Math.min(band, WIDEST);
  const middle = (day) => x(day) + band / 2;
  const svg = canvas(width, height, stripes("unknown-day"));
  const bottom = top + panels.length * (tall + gap) - gap;

  // Columns behind the bars.
  for (const { day, parts } of days) {
    const states = parts.map(({ state }) => state);
    if (!states.some((state) => state !== "closed")) continue;
    const state = worst(states);
    if (states.some(is_unknown)) {
      svg.append(
        s("rect", {
          class: "unknown",
          fill: "url(#unknown-day)",
          x: x(day),
          y: top,
          width: band,
          height: bottom - top,
        }),
      );
    }
    if (thin > 7)
      svg.append(
        s(
          "text",
          {
            class: `state-letter ${state}`,
            x: middle(day),
            y: top - 4,
            "text-anchor": "middle",
          },
          letter(state),
        ),
      );
  }
  const cursor = s("rect", {
    class: "cursor",
    y: top,
    width: x.step(),
    height: bottom - top,
    visibility: "hidden",
  });
  svg.append(cursor);

  panels.forEach((panel, i) => {
    const y0 = top + i * (tall + gap),
      y1 = y0 + tall;
    const most = max(days, ({ parts, week }) =>
      Math.max(panel.of(sum(parts)), week ? panel.of(week) : 0),
    );
    const y = scaleLinear([0, most || 1], [y1, y0]).nice(3);
    svg.append(s("text", { class: "panel", x: 0, y: y0 - (i ? 14 : 12) }, panel.title));
    svg.append(
      ...value_lines(y, {
        from: left,
        to: width - right,
        format: panel.axis,
        is_whole: panel.is_whole,
      }),
    );
    const group = s("g", null);
    for (const { day, parts, week } of days) {
      if (week && panel.of(week) > 0) {
        const value = y(panel.of(week));
        group.append(
          s("path", {
            class: "shadow",
            d: standing_bar(middle(day) - thin / 2, value, thin, y1 - value),
          }),
        );
      }
      let base = 0;
      const inset = days.length > 120 ? 0 : thin * 0.16;
      parts.forEach((part, at) => {
        const value = panel.of(part);
        if (!(value > 0)) return;
        const low = y(base),
          high = y(base + value);
        const is_top = parts.slice(at + 1).every((p) => !(panel.of(p) > 0));
        group.append(
          s("path", {
            class: `bar ${directions[at]}`,
            d: standing_bar(
              middle(day) - thin / 2 + inset,
              high,
              thin - 2 * inset,
              low - high - (base > 0 ? 0.75 : 0),
              is_top ? 2 : 0,
            ),
          }),
        );
        base += value;
      });
    }
    svg.append(
      group,
      s("line", { class: "axis", x1: left, x2: width - right, y1: y1 + 0.5, y2: y1 + 0.5 }),
    );
  });
  svg.append(...day_labels(names, middle, bottom + 18, width - left));

  const steps = days.map(({ day, parts, week }) => ({
    x: middle(day),
    tip: () => [
      day_long(day),
      [
        ...parts.flatMap((part) =>
          panels.map((panel) => [
            part.direction,
            `${part.direction}: ${panel.unit}`,
            panel.format(part),
          ]),
        ),
        ...(week
          ? panels.map((panel) => ["shadow", `week before: ${panel.unit}`, panel.format(week)])
          : []),
        ...parts
          .filter(({ state }) => state !== "closed")
          .map(({ direction, state }) => [null, direction, state]),
      ],
    ],
  }));
  const mark = (step) => {
    cursor.setAttribute("visibility", step ? "visible" : "hidden");
    if (step) cursor.setAttribute("x", step.x - x.step() / 2);
  };
  return { svg, steps, mark };
}

/** One number a day, with the largest one named. */
export function draw_peaks({ days, label }, width) {
  const left = 40,
    right = 6,
    top = 26,
    tall = width > 330 && width < 420 ? 204 : 168;
  const names = days.map(({ day }) => day);
  const x = scaleBand(names, [left, width - right])
    .paddingInner(days.length > 60 ? 0 : 0.3)
    .paddingOuter(0.1);
  const thin = Math.min(x.bandwidth(), WIDEST);
  const middle = (day) => x(day) + x.bandwidth() / 2;
  const most = days.reduce((a, b) => (b.calls > a.calls ? b : a), { calls: 0 });
  const y = scaleLinear([0, most.calls || 1], [top + tall, top]).nice(4);
  const svg = canvas(
    width,
    top + tall + 24,
    value_lines(y, { from: left, to: width - right, about: 4, format: compact, is_whole: true }),
  );
  const bars = days.map(({ day, calls }) =>
    s("path", {
      class: `bar both${day === most.day ? " most" : ""}`,
      d: standing_bar(middle(day) - thin / 2, y(calls), thin, top + tall - y(calls)),
    }),
  );
  svg.append(
    ...bars,
    s("line", {
      class: "axis",
      x1: left,
      x2: width - right,
      y1: top + tall + 0.5,
      y2: top + tall + 0.5,
    }),
  );
  if (most.calls > 0) {
    const at = middle(most.day);
    const anchor = at < width * 0.3 ? "start" : at > width * 0.7 ? "end" : "middle";
    svg.append(
      s(
        "text",
        { class: "value", x: at, y: y(most.calls) - 7, "text-anchor": anchor },
        label(most),
      ),
    );
  }
  svg.append(...day_labels(names, middle, top + tall + 18, width - left));
  return {
    svg,
    steps: days.map((peak, i) => ({
      i,
      x: middle(peak.day),
      tip: () => [day_long(peak.day), [["both", "at once", label(peak)]]],
    })),
    mark: (step) => bars.forEach((bar, i) => bar.classList.toggle("meant", step?.i === i)),
  };
}
