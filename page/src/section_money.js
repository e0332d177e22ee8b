// Where the money goes, and what changed.

import { draw_bars, draw_differences } from "./chart_bars.js";
import { h } from "./dom.js";
import { figure, key_of } from "./figure.js";
import {
  change,
  count,
  dollars,
  minutes,
  money,
  nanos,
  NOTHING,
  percent,
  price,
  relative,
  share,
} from "./format.js";
import { asr, spend, spend_about, sum } from "./measures.js";
import { empty, list_of } from "./parts.js";

/** A name from outside: its direction of writing ends with it. */
const named = (name, of) => (name === null ? `(no ${OF[of] ?? "name"})` : `\u2068${name}\u2069`);
/** A difference within a sentence: no line ends behind its sign. */
const unbroken = (amount) => money(amount, true).replace("$", "\u2060$");
const BARS = 8;
const RANKINGS = [
  ["destinations", "Destinations", "destination"],
  ["trunks", "SIP trunks", "trunk"],
  ["own_numbers", "Own numbers", "own_number"],
];
const ABOUT_NUMBERS = {
  hidden: "Own numbers are shown by their beginnings.",
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
    summary: [
      `${named(first.name, one)} costs most: ${money(first.charge_usd)}`,
      part === null ? "." : `, ${percent(part, 0)} of the spend.`,
      shown.length < distinct ? ` The first ${shown.length} of ${distinct_words}.` : "",
    ].join(""),
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
      ABOUT_NUMBERS[report.numbers] && h("p", { class: "remark" }, ABOUT_NUMBERS[report.numbers]),
    ),
    h(
      "div",
      { class: report.prices.length ? "columns two loose" : "columns" },
      changes.length > 0 &&
        figure({
          id: "changes-chart",
          title: "What changed most",
          summary:
            `${name(changes[0])} changed most: ${unbroken(changes[0].difference_usd)}, ` +
            `of which ${unbroken(changes[0].volume_usd)} by minutes ` +
            `and ${unbroken(changes[0].price_usd)} by price.`,
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
          list_of(
            "ul",
            "lines",
            report.prices.map(({ text }) => h("li", null, text)),
          ),
        ),
    ),
    report.prices.length === 0 &&
      h("p", { class: "remark" }, "No price a minute of placed calls changed in this period."),
  );
}
