// Shows the report that is embedded in the page.

import { h } from "./dom.js";
import { draw_figures } from "./figure.js";
import { day_short, Zone } from "./format.js";
import { sum } from "./measures.js";
import { head, tiles, verdict } from "./overview.js";
import { foot, section } from "./parts.js";
import { by_day } from "./section_days.js";
import { disruptions } from "./section_disruptions.js";
import { spending } from "./section_money.js";
import { rhythm } from "./section_rhythm.js";
import { trust } from "./section_trust.js";

/** The days in order, with the parts of both directions, and the sums of the week before. */
function days_of(report, add) {
  const days = new Map();
  for (const part of report.days) {
    if (!days.has(part.day)) days.set(part.day, { day: part.day, parts: [] });
    days.get(part.day).parts.push(part);
  }
  return [...days.values()].map((day) => ({
    ...day,
    week: day.parts.every(({ week_before }) => week_before)
      ? add(day.parts.map(({ week_before }) => week_before))
      : null,
  }));
}

/** What can be shown is shown, even if something else cannot. */
function attempt(what) {
  try {
    return what();
  } catch (error) {
    console.error(error);
    return h("p", { class: "empty" }, "This part of the report could not be shown.");
  }
}

function show(report) {
  const zone = new Zone(report.timezone);
  const days = days_of(report, sum);
  document.title = `Call report, ${day_short(report.from)} to ${day_short(report.to)}`;
  const parts = [
    ["by-day", "By day", "How much, and when.", () => by_day(report, days)],
    [
      "disruptions",
      "Disruptions",
      "Hours that are out of line with the same hour of other days.",
      () => disruptions(report, days, zone),
    ],
    [
      "rhythm",
      "Rhythm",
      `When calls are made, in the time zone ${zone.name}.`,
      () => rhythm(report, days, zone),
    ],
    ["money", "Money", "Where it goes, in US dollars, and what changed.", () => spending(report)],
    ["trust", "Trust", "Whether the lake has everything.", () => trust(report, zone)],
  ];
  document.getElementById("page").replaceChildren(
    h("a", { class: "skip", href: "#main" }, "Skip to the report"),
    h(
      "nav",
      { "aria-label": "Sections" },
      h(
        "ul",
        null,
        parts.map(([id, title]) => h("li", null, h("a", { href: `#${id}` }, title))),
      ),
    ),
    attempt(() => head(report, zone)),
    h(
      "main",
      { id: "main", tabindex: "-1" },
      h(
        "section",
        { "aria-label": "Overview" },
        attempt(() => verdict(report)),
        attempt(() => tiles(report, days)),
      ),
      parts.map(([id, title, about, content]) => section(id, title, about, attempt(content))),
    ),
    attempt(() => foot(report)),
  );
  draw_figures();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show(JSON.parse(document.getElementById("report").textContent));
