// When calls are made, and how many at once.

import { draw_peaks } from "./chart_days.js";
import { draw_rhythm } from "./chart_rhythm.js";
import { h } from "./dom.js";
import { figure } from "./figure.js";
import { compact, count, day_long, NOTHING, percent, plural, share, WEEK } from "./format.js";
import { asr } from "./measures.js";
import { empty } from "./parts.js";

const clock = (hour) => `${String(hour).padStart(2, "0")}:00`;

export function rhythm(report, days, zone) {
  if (!days.some(({ parts }) => parts.some(({ calls }) => calls > 0)))
    return empty("There are no calls in this period.");
  const of = new Map(report.peaks.map((peak) => [peak.day, peak]));
  const peaks = days.map(({ day }) => of.get(day) ?? { day, calls: 0, at: null });
  const label = ({ calls, at }) =>
    at ? `${count(calls)} at ${zone.parts(Date.parse(at)).clock}` : count(calls);
  const top = peaks.reduce((a, b) => (b.calls > a.calls ? b : a), peaks[0]);
  return h(
    "div",
    { class: "columns wide-first" },
    report.rhythm.some(({ calls }) => calls > 0)
      ? week_chart(report)
      : empty(
          "No day with calls is whole in every direction, so no hour of the week has an average.",
        ),
    report.peaks.length > 0 &&
      figure({
        id: "peaks-chart",
        title: "Most calls at once, by day",
        summary: [
          `At most ${plural(top.calls, "call")} at once, on ${day_long(top.day)}`,
          top.at ? ` at ${zone.parts(Date.parse(top.at)).clock}` : "",
          "; both directions together.",
        ].join(""),
        draw: (width) => draw_peaks({ days: peaks, label }, width),
        table: {
          columns: [["Day"], ["Most at once", true], ["When"]],
          rows: () => peaks.map(({ day, calls, at }) => [day, count(calls), zone.stamp(at)]),
        },
      }),
  );
}

/** The average hours of a week. */
function week_chart(report) {
  const measures = {
    calls: {
      name: "Calls an hour",
      of: ({ calls, hours }) => share(calls, hours),
      format: (v, is_short) => (is_short ? compact(v) : `${v < 10 ? compact(v) : count(v)} calls`),
    },
    asr: {
      name: "ASR",
      of: asr,
      format: (v, is_short) => percent(v, 0).replace(is_short ? " %" : "", ""),
    },
  };
  let chosen = "calls";
  const when = ({ weekday, hour }) =>
    `${WEEK[weekday - 1]} ${clock(hour)}–${clock((hour + 1) % 24)}`;
  const known = report.rhythm.filter(({ hours }) => hours > 0);
  const most = known.reduce(
    (a, b) => (share(b.calls, b.hours) > share(a.calls, a.hours) ? b : a),
    known[0],
  );
  const found = new Map(report.rhythm.map((cell) => [cell.weekday * 24 + cell.hour, cell]));
  const week = Array.from({ length: 7 * 24 }, (_, i) => {
    const [weekday, hour] = [Math.floor(i / 24) + 1, i % 24];
    return found.get(weekday * 24 + hour) ?? { weekday, hour, calls: 0, answered: 0, hours: 0 };
  });
  const cells = () => week.map((cell) => ({ ...cell, value: measures[chosen].of(cell) }));
  const tip = (cell) => [
    when(cell),
    [
      [null, "calls an hour", cell.hours ? compact(cell.calls / cell.hours) : NOTHING],
      [null, "answered", percent(asr(cell))],
      [null, "hours fetched", count(cell.hours)],
    ],
  ];
  const heat = figure({
    id: "rhythm-chart",
    title: "A week, hour by hour",
    summary:
      `The busiest hour is ${when(most)}, ` +
      `with ${count(share(most.calls, most.hours))} calls on average.`,
    controls: h(
      "fieldset",
      { class: "switch" },
      h("legend", null, "Colour shows"),
      Object.entries(measures).map(([name, { name: words }]) => {
        const input = h("input", {
          type: "radio",
          name: "rhythm",
          value: name,
          checked: name === chosen,
        });
        input.addEventListener("change", () => {
          chosen = name;
          heat.redraw();
        });
        return h("label", null, input, h("span", null, words));
      }),
    ),
    draw: (width) => draw_rhythm({ cells: cells(), format: measures[chosen].format, tip }, width),
    table: {
      columns: [["Hour of the week"], ["Calls an hour", true], ["ASR", true], ["Hours", true]],
      rows: () =>
        week.map((cell) => [
          when(cell),
          cell.hours ? compact(cell.calls / cell.hours) : NOTHING,
          percent(asr(cell)),
          count(cell.hours),
        ]),
    },
  });
  return heat;
}
