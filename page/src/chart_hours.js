// Shares by hour over the period, with the hours that are out of line.

import { extent } from "d3-array";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";
import { canvas, day_labels, value_lines } from "./axes.js";
import { s } from "./dom.js";
import { count, percent } from "./format.js";

/**
 * `series`: `{ direction, points: [{ time, calls, … }] }`, by time; a line is interrupted where
 * points are further apart than `step`. `panels`: `{ kind, title, unit, of(point) }`.
 * `marks`: `{ number, kind, direction, begin, end, value }`; their value is shown where points stand
 * for more than an hour.
 */
export function draw_hours(
  { series, panels, marks, days, begin, end, step, is_hourly, midnight, name_of },
  width,
) {
  const left = 46,
    right = width < 560 ? 8 : 66,
    gap = 40,
    tall = width < 700 ? 84 : 98;
  const lane = marks.length ? 26 : 0,
    top = 22 + lane;
  const x = scaleLinear([begin, end], [left, width - right]);
  const bottom = top + panels.length * (tall + gap) - gap;
  const svg = canvas(width, bottom + 24);

  // A band over all panels says when; its number refers to the list.
  for (const { begin: from, end: to } of marks) {
    const middle = (x(from) + x(to)) / 2,
      wide = Math.max(3, x(to) - x(from));
    svg.append(
      s("rect", {
        class: "disrupted",
        x: middle - wide / 2,
        y: lane ? 22 : 0,
        width: wide,
        height: bottom - 22,
      }),
    );
  }
  const cursor = s("line", { class: "cursor-line", y1: top, y2: bottom, visibility: "hidden" });
  svg.append(cursor);

  panels.forEach((panel, i) => {
    const y0 = top + i * (tall + gap),
      y1 = y0 + tall;
    const mine = marks.filter(({ kind }) => kind === panel.kind);
    const values = [
      ...series.flatMap(({ points }) => points.map(panel.of)),
      ...mine.map(({ value }) => value),
    ];
    const [low = 0, high = 1] = extent(values);
    const y = scaleLinear(
      [panel.from_zero ? 0 : Math.max(0, low - 0.02), Math.min(1, high + 0.02)],
      [y1, y0],
    ).nice(3);
    svg.append(s("text", { class: "panel", x: 0, y: y0 - 10 }, panel.title));
    svg.append(...value_lines(y, { from: left, to: width - right, format: (v) => percent(v, 0) }));
    const path = line(
      (p) => x(p.time + step / 2),
      (p) => y(panel.of(p)),
    ).defined((p) => p.calls !== undefined);
    const ends = [];
    for (const { direction, points } of series) {
      if (points.length === 0) continue;
      const whole = [];
      points.forEach((point, at) => {
        if (at > 0 && point.time - points[at - 1].time > step * 1.5) whole.push({});
        whole.push(point);
      });
      svg.append(s("path", { class: `line ${direction}`, d: path(whole) }));
      ends.push({ direction, y: y(panel.of(points.at(-1))) });
    }
    if (right > 20 && ends.length) {
      ends.sort((a, b) => a.y - b.y);
      ends.forEach((end, at) => {
        if (at > 0) end.y = Math.max(end.y, ends[at - 1].y + 14);
        svg.append(
          s(
            "text",
            {
              class: `name ${end.direction}`,
              x: width - right + 6,
              y: Math.min(y1 + 4, end.y + 4),
            },
            end.direction,
          ),
        );
      });
    }
    for (const mark of mine) {
      const points = series.find(({ direction }) => direction === mark.direction)?.points ?? [];
      const places = is_hourly
        ? points
            .filter(({ time }) => time >= mark.begin && time < mark.end)
            .map((point) => [point.time + step / 2, panel.of(point)])
        : [[(mark.begin + mark.end) / 2, mark.value]];
      for (const [time, value] of places) {
        const cx = x(time),
          cy = y(value);
        svg.append(
          s("circle", { class: "ring", cx, cy, r: 6.5 }),
          s("circle", { class: `dot ${mark.direction}`, cx, cy, r: 2.5 }),
        );
      }
    }
  });
  svg.append(...day_labels(days, (day) => x(midnight(day)), bottom + 18, width - left));

  // Numbers that would touch share a label.
  const labels = [];
  for (const mark of marks.toSorted((a, b) => a.begin - b.begin)) {
    const at = x((mark.begin + mark.end) / 2),
      before = labels.at(-1);
    if (before && at - before.at < 24) before.numbers.push(mark.number);
    else labels.push({ at, numbers: [mark.number] });
  }
  for (const { at, numbers } of labels) {
    const [low, high] = extent(numbers);
    const words =
      low === high
        ? String(low)
        : high - low + 1 === numbers.length
          ? `${low}–${high}`
          : `${low} …`;
    const wide = 10 + words.length * 7;
    svg.append(
      s("rect", { class: "badge", x: at - wide / 2, y: 4, width: wide, height: 18, rx: 9 }),
      s("text", { class: "badge-text", x: at, y: 17, "text-anchor": "middle" }, words),
    );
  }

  const times = [...new Set(series.flatMap(({ points }) => points.map(({ time }) => time)))].sort(
    (a, b) => a - b,
  );
  const by_time = series.map(({ direction, points }) => ({
    direction,
    of: new Map(points.map((p) => [p.time, p])),
  }));
  return {
    svg,
    steps: times.map((time) => ({
      x: x(time + step / 2),
      tip: () => [
        name_of(time),
        by_time.flatMap(({ direction, of }) => {
          const point = of.get(time);
          return point
            ? [
                [direction, `${direction}: calls`, count(point.calls)],
                ...panels.map((p) => [direction, `${direction}: ${p.unit}`, percent(p.of(point))]),
              ]
            : [];
        }),
      ],
    })),
    mark: (to) => {
      cursor.setAttribute("visibility", to ? "visible" : "hidden");
      if (to) for (const name of ["x1", "x2"]) cursor.setAttribute(name, to.x);
    },
  };
}
