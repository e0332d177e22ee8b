// Whether the lake has everything.

import { draw_slices } from "./chart_slices.js";
import { h } from "./dom.js";
import { figure } from "./figure.js";
import { count, money, NOTHING, plural, slice_name } from "./format.js";
import { empty, list_of } from "./parts.js";
import { letter, STATES } from "./states.js";

/** A day, or a month. */
const period_of = ({ day, month }) => day ?? month;

export function trust(report, zone) {
  const { list, slices, findings, matching, rejected } = report.trust;
  if (list.length === 0) return empty("There are no slices in this period.");
  const of = new Map(list.map((slice) => [period_of(slice) + slice.direction, slice]));
  const days = [...new Set(list.map(period_of))].sort();
  const fetched = list
    .map(({ fetched_at }) => fetched_at)
    .filter(Boolean)
    .sort();
  const changed = list.flatMap((slice) => slice.changes.map((c) => ({ ...c, slice })));
  const counts = Object.entries(STATES)
    .map(([state]) => [state, slices[state] ?? 0])
    .filter(([, n]) => n > 0);
  const by_state = counts.map(([state, n]) => `${count(n)} ${STATES[state][1]}`).join(", ");
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
    ["Slices that changed later", count(list.filter((slice) => slice.changed > 0).length)],
  ];
  const line = ({ slice, at, ...c }) =>
    h(
      "li",
      null,
      `${slice_name(period_of(slice))}, ${slice.direction}: `,
      `${count(c.rows_before)} → ${count(c.rows_after)} rows, `,
      `${money(c.charge_before_usd)} → ${money(c.charge_after_usd)}, on ${zone.stamp(at)}.`,
    );
  return [
    figure({
      id: "slices-chart",
      title: report.slice === "month" ? "The state of each month" : "The state of each day",
      summary: `${plural(list.length, "slice")}: ${by_state}.`,
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
            period_of(slice),
            slice.direction,
            slice.state,
            count(slice.rows),
            slice.provider_count === null ? NOTHING : count(slice.provider_count),
            slice.reconcile ?? NOTHING,
            count(slice.rejected),
            zone.stamp(slice.fetched_at),
            count(slice.changed),
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
          ? list_of(
              "ul",
              "lines",
              findings.map(({ text }) => h("li", null, text)),
            )
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
        changed.length > 0 && list_of("ul", "lines", changed.map(line)),
      ),
    ),
  ];
}
