// The sections below the head, each from the report's members that it shows.

import { median } from "d3-array";
import { draw_bars, draw_differences } from "./chart_bars.js";
import { draw_days, draw_peaks } from "./chart_days.js";
import { draw_hours } from "./chart_hours.js";
import { draw_rhythm } from "./chart_rhythm.js";
import { draw_slices } from "./chart_slices.js";
import { h } from "./dom.js";
import { figure, key_of } from "./figure.js";
import {
  axis_money,
  change,
  compact,
  count,
  day_long,
  days_between,
  dollars,
  duration,
  minutes,
  money,
  nanos,
  NOTHING,
  percent,
  plural,
  price,
  relative,
  share,
  slice_name,
  WEEK,
} from "./format.js";
import { acd, asr, busy, failed, spend, spend_about, sum } from "./measures.js";
import { letter, STATES } from "./states.js";

const HOUR = 3_600_000;
/** A difference within a sentence: no line ends behind its sign. */
const unbroken = (amount) => money(amount, true).replace("$", "\u2060$");
const empty = (words) => h("p", { class: "empty" }, words);

export function section(id, title, about, ...children) {
  return h(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    h(
      "div",
      { class: "section-head" },
      h("h2", { id: `${id}-title` }, title),
      about && h("p", null, about),
    ),
    children,
  );
}

export function by_day(report, days) {
  if (!days.some(({ parts }) => parts.some(({ calls }) => calls > 0)))
    return empty("There are no calls in this period.");
  const panels = [
    {
      title: "Calls",
      unit: "calls",
      of: ({ calls }) => calls,
      format: ({ calls }) => count(calls),
      axis: compact,
      is_whole: true,
    },
    {
      title: "Minutes",
      unit: "minutes",
      of: ({ duration_seconds }) => duration_seconds / 60,
      format: (sums) => minutes(sums.duration_seconds),
      axis: compact,
    },
    {
      title: "Spend",
      unit: "spend",
      of: spend_about,
      format: (sums) => money(spend(sums)),
      axis: axis_money,
    },
  ];
  const ordered = days
    .map(({ day, parts }) => ({ day, ...sum(parts) }))
    .sort((a, b) => b.calls - a.calls);
  const odd = days.filter(({ parts }) => parts.some(({ state }) => state !== "closed"));
  const summary =
    `Most calls on ${day_long(ordered[0].day)} (${count(ordered[0].calls)}), fewest on ${day_long(ordered.at(-1).day)} (${count(ordered.at(-1).calls)}). ` +
    (odd.length
      ? `${plural(odd.length, "day is", "days are")} not closed and marked with a letter.`
      : "Every day is complete.");
  const states = [...new Set(odd.flatMap(({ parts }) => parts.map(({ state }) => state)))].filter(
    (state) => state !== "closed",
  );
  return figure({
    id: "by-day-chart",
    title: "Calls, minutes and spend by day",
    summary,
    key: [
      key_of([
        ...report.directions.map((direction) => [direction, direction]),
        ...(days.some(({ week }) => week) ? [["shadow", "same weekday a week before"]] : []),
      ]),
      states.length > 0 &&
        h(
          "ul",
          { class: "key" },
          states.map((state) =>
            h(
              "li",
              null,
              h("b", { class: `letter ${state}` }, letter(state)),
              STATES[state] ? `${STATES[state][1]}: ${STATES[state][2]}` : state,
            ),
          ),
        ),
    ],
    draw: (width) => draw_days({ days, panels, directions: report.directions, sum }, width),
    table: {
      columns: [
        ["Day"],
        ["Direction"],
        ["Calls", true],
        ["Answered", true],
        ["Failed", true],
        ["Busy", true],
        ["Minutes", true],
        ["Spend", true],
        ["Calls a week before", true],
        ["State"],
      ],
      rows: () =>
        days.flatMap(({ parts }) =>
          parts.map((d) => [
            d.day,
            d.direction,
            count(d.calls),
            count(d.answered),
            count(d.failed),
            count(d.busy),
            minutes(d.duration_seconds),
            money(spend(d)),
            d.week_before ? count(d.week_before.calls) : NOTHING,
            d.state,
          ]),
        ),
    },
  });
}

const KINDS = {
  asr: "Few answered",
  failed: "Many failed",
  busy: "Many busy",
  acd: "Short calls",
  silence: "No calls",
};
/** A share of fewer calls says little. */
const ENOUGH_CALLS = 20;
/** More hours would be a line too dense to read. */
const MOST_DAYS_BY_HOUR = 62;
const SHOWN_AT_ONCE = 12;

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
    `Over the period, ${percent(asr(whole))} of the calls were answered, ${percent(failed(whole))} failed and ${percent(busy(whole))} were busy. ` +
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
          : `By day, because ${has_many ? `the period has more than ${MOST_DAYS_BY_HOUR} days` : `most hours have fewer than ${ENOUGH_CALLS} calls`}. Disruptions are hours.`,
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
                is_hourly ? zone.moment(p.time) : day_long(zone.parts(p.time).day),
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
        h("ol", { class: "disruptions" }, items.slice(0, SHOWN_AT_ONCE)),
        items.length > SHOWN_AT_ONCE &&
          h(
            "details",
            null,
            h("summary", null, `${count(items.length - SHOWN_AT_ONCE)} more`),
            h("ol", { class: "disruptions" }, items.slice(SHOWN_AT_ONCE)),
          ),
      ),
    chart,
    h(
      "p",
      { class: "note" },
      hours_compared > 0
        ? `${plural(hours_compared, "hour")} with enough calls, each direction for itself, were compared with the same hour of the weeks before, or else of the days before. An hour is out of line if it is far from their median, measured by how much they usually vary.`
        : "No hour was compared: that needs enough calls, and earlier hours to compare with.",
    ),
  ];
}

export function rhythm(report, days, zone) {
  if (!report.rhythm.some(({ calls }) => calls > 0))
    return empty("There are no calls in this period.");
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
    `${WEEK[weekday - 1]} ${String(hour).padStart(2, "0")}:00–${String((hour + 1) % 24).padStart(2, "0")}:00`;
  const known = report.rhythm.filter(({ hours }) => hours > 0);
  const most = known.reduce(
    (a, b) => (share(b.calls, b.hours) > share(a.calls, a.hours) ? b : a),
    known[0],
  );
  const cells = () => report.rhythm.map((cell) => ({ ...cell, value: measures[chosen].of(cell) }));
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
    summary: `The busiest hour is ${when(most)}, with ${count(share(most.calls, most.hours))} calls on average.`,
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
        report.rhythm.map((cell) => [
          when(cell),
          cell.hours ? compact(cell.calls / cell.hours) : NOTHING,
          percent(asr(cell)),
          count(cell.hours),
        ]),
    },
  });
  const of = new Map(report.peaks.map((peak) => [peak.day, peak]));
  const peaks = days.map(({ day }) => of.get(day) ?? { day, calls: 0, at: null });
  const label = ({ calls, at }) =>
    at ? `${count(calls)} at ${zone.parts(Date.parse(at)).clock}` : count(calls);
  const top = peaks.reduce((a, b) => (b.calls > a.calls ? b : a), peaks[0]);
  return h(
    "div",
    { class: "columns wide-first" },
    heat,
    report.peaks.length > 0 &&
      figure({
        id: "peaks-chart",
        title: "Most calls at once, by day",
        summary: `At most ${plural(top.calls, "call")} at once, on ${day_long(top.day)}${top.at ? ` at ${zone.parts(Date.parse(top.at)).clock}` : ""}; both directions together.`,
        draw: (width) => draw_peaks({ days: peaks, label }, width),
        table: {
          columns: [
            ["Day"],
            ["Most at once", true],
            ["When"],
            ...report.directions.map((d) => [d, true]),
          ],
          rows: () =>
            days.map(({ day, parts }) => [
              day,
              count(of.get(day)?.calls ?? 0),
              zone.stamp(of.get(day)?.at),
              ...report.directions.map((d) =>
                count(parts.find((p) => p.direction === d)?.peak ?? 0),
              ),
            ]),
        },
      }),
  );
}

/** A name from outside: its direction of writing ends with it. */
const named = (name, of) => (name === null ? `(no ${OF[of] ?? "name"})` : `\u2068${name}\u2069`);
const BARS = 8;
const RANKINGS = [
  ["destinations", "Destinations", "destination"],
  ["trunks", "SIP trunks", "trunk"],
  ["own_numbers", "Own numbers", "own_number"],
];
const ABOUT_NUMBERS = {
  hidden: "Own numbers are shown with their digits hidden.",
  truncate: "Own numbers are cut off, as in the lake.",
  pseudonymize: "Own numbers are pseudonyms, as in the lake.",
};
const OF = { destination: "destination", trunk: "trunk", own_number: "own number" };

function ranking(of, title, one, { rows, other, distinct, is_exact }, whole) {
  const costly = rows.filter((row) => nanos(row.charge_usd) > 0n);
  const shown = (costly.length ? costly : rows).slice(0, BARS);
  const first = shown[0];
  const distinct_words = `${is_exact ? "" : "about "}${count(distinct)}`;
  const has_before = rows.some(({ before }) => before);
  const moved = (row) =>
    row.before
      ? change(relative(dollars(row.charge_usd), dollars(row.before.charge_usd)))
      : has_before
        ? "new"
        : NOTHING;
  const part = share(spend_about(first), spend_about(whole));
  return figure({
    id: `${of}-chart`,
    title: `${title} by spend`,
    summary:
      `${named(first.name, one)} costs most: ${money(first.charge_usd)}${part === null ? "" : `, ${percent(part, 0)} of the spend`}. ${shown.length < distinct ? `The first ${shown.length} of ${distinct_words}.` : ""}`.trim(),
    draw: (width) =>
      draw_bars(
        {
          rows: shown.map((row) => ({
            name: named(row.name, one),
            value: dollars(row.charge_usd),
            before: row.before && dollars(row.before.charge_usd),
            amount: money(row.charge_usd),
            about: [moved(row), price(row.usd_per_minute), `${minutes(row.duration_seconds)} min`]
              .filter((words) => words !== NOTHING)
              .join(" · "),
            tip: () => [
              named(row.name, one),
              [
                ["money", "spend", money(row.charge_usd)],
                [null, "price", price(row.usd_per_minute)],
                [null, "minutes", minutes(row.duration_seconds)],
                [null, "calls", count(row.calls)],
                [null, "answered", percent(asr(row))],
                ...(row.before
                  ? [
                      [null, "spend before", money(row.before.charge_usd)],
                      [null, "price before", price(row.before.usd_per_minute)],
                    ]
                  : []),
              ],
            ],
          })),
        },
        width,
      ),
    table: {
      columns: [
        ["Name"],
        ["Spend", true],
        ["Minutes", true],
        ["Price", true],
        ["Calls", true],
        ["ASR", true],
        ["Spend before", true],
        ["Price before", true],
        ["Change", true],
      ],
      rows: () => [
        ...rows.map((row) => [
          named(row.name, one),
          money(row.charge_usd),
          minutes(row.duration_seconds),
          price(row.usd_per_minute),
          count(row.calls),
          percent(asr(row)),
          row.before ? money(row.before.charge_usd) : NOTHING,
          row.before ? price(row.before.usd_per_minute) : NOTHING,
          moved(row),
        ]),
        ...(other.calls > 0
          ? [
              [
                "All others",
                money(other.charge_usd),
                minutes(other.duration_seconds),
                price(share(dollars(other.charge_usd), other.duration_seconds / 60)),
                count(other.calls),
                percent(asr(other)),
                NOTHING,
                NOTHING,
                NOTHING,
              ],
            ]
          : []),
      ],
    },
  });
}

export function spending(report) {
  const whole = sum(report.totals.filter(({ direction }) => direction === null));
  const rankings = RANKINGS.filter(([of]) => report[of]?.rows.length > 0);
  if (rankings.length === 0) return empty("There are no calls in this period.");
  const changes = report.changes.slice(0, BARS);
  const name = ({ of, name }) =>
    name === null ? named(name, of) : `${named(name)} (${OF[of] ?? of})`;
  return h(
    "div",
    { class: "spending" },
    h(
      "div",
      { class: "columns three" },
      rankings.map(([of, title, one]) => ranking(of, title, one, report[of], whole)),
    ),
    h(
      "div",
      { class: "below-columns" },
      report.before &&
        rankings.some(([of]) => report[of].rows.some(({ before }) => before)) &&
        key_of([["before", "the same in the period before"]]),
      ABOUT_NUMBERS[report.numbers] && h("p", { class: "note" }, ABOUT_NUMBERS[report.numbers]),
    ),
    h(
      "div",
      { class: report.prices.length ? "columns two loose" : "columns" },
      changes.length > 0 &&
        figure({
          id: "changes-chart",
          title: "What changed most",
          summary: `${name(changes[0])} changed most: ${unbroken(changes[0].difference_usd)}, of which ${unbroken(changes[0].volume_usd)} by minutes and ${unbroken(changes[0].price_usd)} by price.`,
          key: key_of([
            ["volume", "by more or fewer minutes"],
            ["price", "by the price a minute"],
          ]),
          draw: (width) =>
            draw_differences(
              {
                rows: changes.map((c) => ({
                  name: name(c),
                  amount: money(c.difference_usd, true),
                  parts: [
                    ["volume", dollars(c.volume_usd)],
                    ["price", dollars(c.price_usd)],
                  ],
                  tip: () => [
                    name(c),
                    [
                      [null, "difference", money(c.difference_usd, true)],
                      ["volume", "by minutes", money(c.volume_usd, true)],
                      ["price", "by price", money(c.price_usd, true)],
                      [null, "spend", money(c.charge_usd)],
                      [null, "before", money(c.charge_before_usd)],
                    ],
                  ],
                })),
              },
              width,
            ),
          table: {
            columns: [
              ["Of"],
              ["Kind"],
              ["Spend", true],
              ["Before", true],
              ["Difference", true],
              ["By minutes", true],
              ["By price", true],
            ],
            rows: () =>
              report.changes.map((c) => [
                named(c.name, c.of),
                OF[c.of] ?? c.of,
                money(c.charge_usd),
                money(c.charge_before_usd),
                money(c.difference_usd, true),
                money(c.volume_usd, true),
                money(c.price_usd, true),
              ]),
          },
        }),
      report.prices.length > 0 &&
        h(
          "div",
          { class: "card" },
          h("h3", null, "Prices a minute that changed"),
          h(
            "ul",
            { class: "lines" },
            report.prices.map(({ text }) => h("li", null, text)),
          ),
        ),
    ),
    report.prices.length === 0 &&
      h("p", { class: "note" }, "No price a minute of placed calls changed in this period."),
  );
}

export function trust(report, zone) {
  const { list, slices, findings, matching, rejected } = report.trust;
  if (list.length === 0) return empty("There are no slices in this period.");
  const of = new Map(list.map((slice) => [slice.day + slice.direction, slice]));
  const days = [...new Set(list.map(({ day }) => day))].sort();
  const fetched = list
    .map(({ fetched_at }) => fetched_at)
    .filter(Boolean)
    .sort();
  const changed = list.flatMap((slice) => slice.changes.map((c) => ({ ...c, slice })));
  const counts = Object.entries(STATES)
    .map(([state]) => [state, slices[state] ?? 0])
    .filter(([, n]) => n > 0);
  const tip = (slice) => [
    [null, "state", slice.state],
    [null, "rows", count(slice.rows)],
    [
      null,
      "provider’s count",
      slice.provider_count === null ? NOTHING : count(slice.provider_count),
    ],
    ...(slice.rejected ? [[null, "rejected", count(slice.rejected)]] : []),
    [null, "fetched", zone.stamp(slice.fetched_at)],
  ];
  const facts = [
    ["Counts that match the provider’s", `${count(matching)} of ${count(list.length)}`],
    ["Records rejected", count(rejected)],
    [
      "Fetched",
      fetched.length ? `${zone.stamp(fetched[0])} to ${zone.stamp(fetched.at(-1))}` : "never",
    ],
    ["Slices that changed later", count(new Set(changed.map(({ slice }) => slice)).size)],
  ];
  return [
    figure({
      id: "slices-chart",
      title: report.slice === "month" ? "The state of each month" : "The state of each day",
      summary: `${plural(list.length, "slice")}: ${counts.map(([state, n]) => `${count(n)} ${STATES[state][1]}`).join(", ")}.`,
      key: h(
        "ul",
        { class: "key" },
        counts.map(([state]) =>
          h(
            "li",
            null,
            h("b", { class: `letter ${state}` }, letter(state)),
            `${STATES[state][1]}: ${STATES[state][2]}`,
          ),
        ),
      ),
      draw: (width) =>
        draw_slices(
          {
            days,
            directions: report.directions,
            of: (day, direction) => of.get(day + direction),
            tip,
          },
          width,
        ),
      table: {
        columns: [
          [report.slice === "month" ? "Month" : "Day"],
          ["Direction"],
          ["State"],
          ["Rows", true],
          ["Provider’s count", true],
          ["Reconciled"],
          ["Rejected", true],
          ["Fetched"],
          ["Changes", true],
        ],
        rows: () =>
          list.map((slice) => [
            slice.day,
            slice.direction,
            slice.state,
            count(slice.rows),
            slice.provider_count === null ? NOTHING : count(slice.provider_count),
            slice.reconcile ?? NOTHING,
            count(slice.rejected),
            zone.stamp(slice.fetched_at),
            count(slice.changes.length),
          ]),
      },
    }),
    h(
      "div",
      { class: "columns two" },
      h(
        "div",
        { class: "card" },
        h("h3", null, "What to know before believing the charts"),
        findings.length
          ? [
              h(
                "ul",
                { class: "lines" },
                findings.slice(0, SHOWN_AT_ONCE).map(({ text }) => h("li", null, text)),
              ),
              findings.length > SHOWN_AT_ONCE &&
                h(
                  "details",
                  null,
                  h("summary", null, `${count(findings.length - SHOWN_AT_ONCE)} more`),
                  h(
                    "ul",
                    { class: "lines" },
                    findings.slice(SHOWN_AT_ONCE).map(({ text }) => h("li", null, text)),
                  ),
                ),
            ]
          : h("p", { class: "summary" }, "Nothing: all is fetched, and nothing was rejected."),
      ),
      h(
        "div",
        { class: "card" },
        h("h3", null, "Counts and changes"),
        h(
          "dl",
          { class: "facts" },
          facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
        ),
        changed.length > 0 &&
          h(
            "ul",
            { class: "lines" },
            changed
              .slice(0, SHOWN_AT_ONCE)
              .map(({ slice, at, rows_before, rows_after, charge_before_usd, charge_after_usd }) =>
                h(
                  "li",
                  null,
                  `${slice_name(slice.day)}, ${slice.direction}: ${count(rows_before)} → ${count(rows_after)} rows, ${money(charge_before_usd)} → ${money(charge_after_usd)}, on ${zone.stamp(at)}.`,
                ),
              ),
          ),
      ),
    ),
  ];
}

export function foot(report) {
  const { rows, seconds, files } = report.pass;
  return h(
    "footer",
    null,
    h(
      "p",
      null,
      `Made by cdrlake ${report.version} in one pass over ${plural(files, "file")}: ${plural(rows, "call")} in ${seconds.toFixed(2)} s.`,
    ),
    h(
      "p",
      null,
      "How to read it: the chapters “Queries” and “Troubleshooting” of the documentation. The numbers are in this file, in the element with the id “report”, as JSON. It loads nothing from anywhere.",
    ),
  );
}
