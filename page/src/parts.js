// Parts that several sections have.

import { h } from "./dom.js";
import { count, plural } from "./format.js";

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

/** Instead of charts. */
export const empty = (words) => h("p", { class: "empty" }, words);

const SHOWN_AT_ONCE = 12;
/** A list of any length: what is beyond its first items is behind a line that opens it. */
export function list_of(name, kind, items) {
  const list = (some) => h(name, { class: kind }, some);
  const rest = items.slice(SHOWN_AT_ONCE);
  return [
    list(items.slice(0, SHOWN_AT_ONCE)),
    rest.length > 0 &&
      h("details", null, h("summary", null, `${count(rest.length)} more`), list(rest)),
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
      `Made by cdrlake ${report.version} in one pass over ${plural(files, "file")}: `,
      `${plural(rows, "call")} in ${seconds.toFixed(2)} s of computing.`,
    ),
    h(
      "p",
      null,
      "How to read it: the chapter “The report” of the documentation. ",
      "The numbers are in this file, in the element with the id “report”, as JSON. ",
      "It loads nothing from anywhere.",
    ),
  );
}
