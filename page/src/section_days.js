// Calls, minutes and spend by day.

import { draw_days } from "./chart_days.js";
import { h } from "./dom.js";
import { figure, key_of } from "./figure.js";
import { axis_money, compact, count, day_long, minutes, money, NOTHING, plural } from "./format.js";
import { spend, spend_about, sum } from "./measures.js";
import { empty } from "./parts.js";
import { is_unknown, letter, STATES } from "./states.js";

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
  const odd = days.filter(({ parts }) => parts.some(({ state }) => state !== "closed"));
  const ordered = days
    .filter(({ parts }) => !parts.some(({ state }) => is_unknown(state)))
    .map(({ day, parts }) => ({ day, ...sum(parts) }))
    .sort((a, b) => b.calls - a.calls);
  const named = ({ day, calls }) => `${day_long(day)} (${count(calls)})`;
  const extremes =
    ordered.length > 1
      ? `Most calls on ${named(ordered[0])}, fewest on ${named(ordered.at(-1))}. `
      : "";
  const summary =
    extremes +
    (odd.length
      ? `${plural(odd.length, "day that is not closed has", "days that are not closed have")} a letter.`
      : days.length > 1
        ? "Every day is complete."
        : "The day is complete.");
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
