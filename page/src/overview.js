// The head: what the report is about, whether something is wrong, and the numbers of the period.

import { max, min } from "d3-array";
import { h, s } from "./dom.js";
import {
  change,
  count,
  day_short,
  day_year,
  duration,
  minutes,
  money,
  nanos,
  NOTHING,
  percent,
  plural,
  relative,
} from "./format.js";
import { acd, asr, spend, spend_about, sum } from "./measures.js";
import { STATES } from "./states.js";

export function head(report, zone) {
  const facts = [
    ...(report.account === null ? [] : [["Account", report.account]]),
    ["Lake", report.lake],
    ["Made", zone.stamp(report.made_at)],
    ["Time zone", zone.name],
  ];
  return h(
    "header",
    { class: "head" },
    h(
      "div",
      null,
      h("p", { class: "brand" }, "cdrlake"),
      h("h1", null, "Call report"),
      h(
        "p",
        { class: "period" },
        report.from === report.to
          ? day_year(report.from)
          : `${day_year(report.from)} to ${day_year(report.to)}`,
      ),
    ),
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
    ),
  );
}

const SIGNS = {
  good: "M9 12.5l2.2 2.2L15.5 10",
  note: "M12 11v5M12 8v.2",
  bad: "M12 7.5v5.5M12 16v.2",
};
function sign(level) {
  return s(
    "svg",
    { class: "sign", viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" },
    level === "bad"
      ? s("path", { class: "ground", d: "M12 2.5l10.5 18.5h-21z" })
      : s("circle", { class: "ground", cx: 12, cy: 12, r: 10 }),
    s("path", { class: "glyph", d: SIGNS[level] }),
  );
}

/** Findings of these kinds leave calls out of the charts, or may. */
const INCOMPLETE = [
  "missing",
  "failed",
  "interrupted",
  "damaged",
  "mismatch",
  "unreadable",
  "altered",
];
/** Level, heading and sentence about the slices. */
function trust_verdict({ trust }) {
  const all = trust.list.length;
  const counts = Object.entries(trust.slices).filter(([, n]) => n > 0);
  const of_all = counts
    .map(([state, n]) => `${count(n)} ${STATES[state]?.[1] ?? state}`)
    .join(", ");
  if (all === 0 || trust.slices.missing === all)
    return ["bad", "No data", "Nothing of this period has been fetched yet."];
  const first = trust.findings.find(({ kind }) => INCOMPLETE.includes(kind)) ?? trust.findings[0];
  if (!first) {
    return trust.matching === all
      ? [
          "good",
          "Complete",
          all === 1
            ? "The slice is fetched, and its count matches the provider’s."
            : `All ${count(all)} slices are fetched, and their counts match the provider’s.`,
        ]
      : [
          "good",
          "Complete",
          `Of ${plural(all, "slice")}: ${of_all}. ` +
            `${plural(trust.matching, "count matches", "counts match")} the provider’s.`,
        ];
  }
  const rest = trust.findings.length - 1;
  const [level, name] = INCOMPLETE.includes(first.kind)
    ? ["bad", "Not complete"]
    : trust.findings.some(({ kind }) => kind === "open")
      ? ["note", "Not settled yet"]
      : ["note", "Complete, with remarks"];
  return [
    level,
    name,
    `Of ${plural(all, "slice")}: ${of_all}. ${first.text}` +
      (rest > 0 ? ` And ${plural(rest, "more finding")}.` : ""),
  ];
}

function disruption_verdict({ disruptions: { list, hours_compared } }) {
  if (list.length) {
    return [
      "bad",
      plural(list.length, "disruption"),
      `${list[0].text}${list.length > 1 ? ` And ${count(list.length - 1)} more.` : ""}`,
    ];
  }
  return hours_compared > 0
    ? [
        "good",
        "No disruption",
        `${plural(hours_compared, "hour")} compared with the same hour of other days; ` +
          "none is out of line.",
      ]
    : [
        "note",
        "Nothing to compare",
        "No hour has enough calls, or there are no earlier hours to compare it with.",
      ];
}

export function verdict(report) {
  const line = ([level, name, words], target, more) =>
    h(
      "div",
      { class: `verdict ${level}` },
      sign(level),
      h("div", null, h("h2", null, name), h("p", null, words, " ", h("a", { href: target }, more))),
    );
  return h(
    "div",
    { class: "verdicts" },
    line(disruption_verdict(report), "#disruptions", "See the hours"),
    line(trust_verdict(report), "#trust", "See the slices"),
  );
}

/** The shape of a number over the days; the charts below have its values. */
function spark(values) {
  const known = values.filter((value) => value !== null);
  if (known.length < 2) return null;
  const low = min(known),
    high = max(known),
    wide = 120,
    tall = 26;
  const x = (i) => (i * wide) / (values.length - 1);
  const y = (value) =>
    high > low ? tall - 2 - ((value - low) / (high - low)) * (tall - 4) : tall / 2;
  let path = "",
    is_drawing = false;
  values.forEach((value, i) => {
    if (value !== null)
      path += `${is_drawing ? "L" : "M"}${x(i).toFixed(1)},${y(value).toFixed(1)}`;
    is_drawing = value !== null;
  });
  return s(
    "svg",
    { viewBox: `0 0 ${wide} ${tall}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { d: path }),
  );
}

export function tiles(report, days) {
  const all = report.totals.find(({ direction }) => direction === null) ?? {
    ...sum([]),
    before: null,
  };
  const by_direction = report.totals.filter(({ direction }) => direction !== null);
  const has_before = all.before !== null && report.before !== null;
  const fee = nanos(all.forward_fee_usd ?? "0");
  const fees = fee === 0n ? "" : `; fees for forwarding are ${money(fee)} more`;
  const entries = [
    {
      name: "Calls",
      about: "all attempts, answered or not",
      of: ({ calls }) => calls,
      format: count,
    },
    {
      name: "Minutes",
      about: "time talked",
      of: ({ duration_seconds }) => duration_seconds,
      format: minutes,
    },
    {
      name: "Spend",
      about: `charges in US dollars${fees}`,
      of: spend_about,
      text: (sums) => money(spend(sums)),
    },
    {
      name: "ASR",
      of: asr,
      format: percent,
      points: true,
      about: "answer-seizure ratio: the share of calls answered",
    },
    {
      name: "ACD",
      of: acd,
      format: duration,
      about: "average call duration: minutes talked, divided by answered calls",
    },
  ];
  const shown = (entry, sums) =>
    entry.text
      ? entry.text(sums)
      : entry.of(sums) === null
        ? NOTHING
        : entry.format(entry.of(sums));
  const moved = (entry) => {
    if (!has_before) return null;
    const now = entry.of(all),
      before = entry.of(all.before);
    if (now === null || before === null) return NOTHING;
    if (!entry.points)
      return [h("b", null, change(relative(now, before))), ` from ${shown(entry, all.before)}`];
    const points = (now - before) * 100;
    const words =
      Math.abs(points) < 0.05
        ? "unchanged"
        : `${points > 0 ? "▲" : "▼"} ${Math.abs(points).toFixed(1)} points`;
    return [h("b", null, words), ` from ${shown(entry, all.before)}`];
  };
  const value_of_day = (entry) =>
    days.map(({ parts }) => (parts.some(({ calls }) => calls > 0) ? entry.of(sum(parts)) : null));
  return [
    h(
      "ul",
      { class: "tiles" },
      entries.map((entry) =>
        h(
          "li",
          { class: "tile" },
          h("h3", null, entry.name),
          h("p", { class: "big" }, shown(entry, all)),
          h("p", { class: "about" }, entry.about),
          h("p", { class: "moved" }, moved(entry)),
          h("div", { class: "spark" }, spark(value_of_day(entry))),
          by_direction.length > 1 &&
            h(
              "p",
              { class: "split" },
              by_direction.map((sums) =>
                h(
                  "span",
                  null,
                  h("i", { class: `swatch ${sums.direction}` }),
                  `${sums.direction} `,
                  h("b", null, shown(entry, sums)),
                ),
              ),
            ),
        ),
      ),
    ),
    h(
      "p",
      { class: "remark" },
      has_before
        ? "Changes compare with as many days before: " +
            `${day_short(report.before.from)} to ${day_short(report.before.to)}.`
        : "Nothing is compared with the period before: the lake does not have both whole.",
    ),
  ];
}
