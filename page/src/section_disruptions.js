// Hours that are out of line.

import { median } from "d3-array";
import { draw_hours } from "./chart_hours.js";
import { h } from "./dom.js";
import { figure, key_of } from "./figure.js";
import { count, day_long, days_between, duration, percent, plural } from "./format.js";
import { acd, asr, busy, failed, sum } from "./measures.js";
import { empty, list_of } from "./parts.js";

const HOUR = 3_600_000;
const KINDS = {
  asr: "Few answered",
  failed: "Many failed",
  busy: "Many busy",
  acd: "Short calls",
  silence: "No calls",
};
/** A share of fewer calls says little. */
const ENOUGH_CALLS = 30;
/** More hours would be a line too dense to read. */
const MOST_DAYS_BY_HOUR = 62;

export function disruptions(report, days, zone) {
  const { list, hours_compared } = report.disruptions;
  const panels = [
    { kind: "asr", title: "ASR: calls that were answered", unit: "answered", of: asr },
    { kind: "failed", title: "Calls that failed", unit: "failed", of: failed, from_zero: true },
    { kind: "busy", title: "Calls that were busy", unit: "busy", of: busy, from_zero: true },
  ];
  const marks = list.map((d, i) => ({
    number: i + 1,
    kind: d.kind,
    direction: d.direction,
    begin: Date.parse(d.begin),
    end: Date.parse(d.begin) + d.hours * HOUR,
    value: d.value,
  }));
  const has_many = (median(report.hours, ({ calls }) => calls) ?? 0) >= ENOUGH_CALLS;
  const is_hourly = has_many && days.length <= MOST_DAYS_BY_HOUR;
  const series = report.directions.map((direction) => ({
    direction,
    points: (is_hourly
      ? report.hours
          .filter((p) => p.direction === direction && p.calls >= ENOUGH_CALLS)
          .map((p) => ({ ...p, time: Date.parse(p.begin) }))
      : days.flatMap(({ day, parts }) =>
          parts
            .filter((p) => p.direction === direction && p.calls > 0)
            .map((p) => ({ ...p, time: zone.midnight(day) })),
        )
    ).sort((a, b) => a.time - b.time),
  }));
  const whole = sum(report.totals.filter(({ direction }) => direction === null));
  const has_points = series.some(({ points }) => points.length > 0);
  const begin = zone.midnight(report.from),
    end = zone.midnight(report.to) + 24 * HOUR;
  const summary =
    `Over the period, ${percent(asr(whole))} of the calls were answered, ` +
    `${percent(failed(whole))} failed and ${percent(busy(whole))} were busy. ` +
    (list.length
      ? `${plural(list.length, "disruption is", "disruptions are")} marked by a band and a number.`
      : "No hour is out of line.");
  const chart = has_points
    ? figure({
        id: "hours-chart",
        title: `Answered, failed and busy calls by ${is_hourly ? "hour" : "day"}`,
        summary,
        note: is_hourly
          ? `Hours with fewer than ${ENOUGH_CALLS} calls are left out: their shares say little.`
          : has_many
            ? `By day, because the period has more than ${MOST_DAYS_BY_HOUR} days.`
            : `By day, because most hours have fewer than ${ENOUGH_CALLS} calls.`,
        key: key_of([
          ...report.directions.map((d) => [`${d} thin`, d]),
          ...(list.length ? [["ring-swatch", "disrupted hour"]] : []),
        ]),
        draw: (width) =>
          draw_hours(
            {
              series,
              panels,
              marks,
              days: days_between(report.from, report.to),
              begin,
              end,
              step: is_hourly ? HOUR : 24 * HOUR,
              is_hourly,
              midnight: (day) => zone.midnight(day),
              name_of: (time) => (is_hourly ? zone.moment(time) : day_long(zone.parts(time).day)),
            },
            width,
          ),
        table: {
          columns: [
            [is_hourly ? "Hour" : "Day"],
            ["Direction"],
            ["Calls", true],
            ["Answered", true],
            ["Failed", true],
            ["Busy", true],
            ["ACD", true],
          ],
          rows: () =>
            series
              .flatMap(({ points }) => points.map((p) => ({ ...p })))
              .sort((a, b) => a.time - b.time)
              .map((p) => [
                is_hourly ? zone.moment(p.time) : day_long(p.day),
                p.direction,
                count(p.calls),
                percent(asr(p)),
                percent(failed(p)),
                percent(busy(p)),
                duration(acd(p)),
              ]),
        },
      })
    : empty("There are no calls in this period.");
  const item = (d, i) =>
    h(
      "li",
      null,
      h("b", { class: "badge" }, String(i + 1)),
      h("div", null, h("strong", null, KINDS[d.kind] ?? d.kind), " ", h("span", null, d.text)),
    );
  const items = list.map(item);
  return [
    items.length > 0 &&
      h(
        "div",
        { class: "card" },
        h("h3", null, "What was out of line"),
        list_of("ol", "disruptions", items),
      ),
    chart,
    h(
      "p",
      { class: "remark" },
      hours_compared > 0
        ? `${plural(hours_compared, "hour")} with enough calls, each direction for itself, were ` +
            "compared with the same hour of the weeks before, or else of the days before. An hour is " +
            "out of line if it is far from their median, measured by how much they usually vary."
        : "No hour was compared: that needs enough calls, and earlier hours to compare with.",
    ),
  ];
}
