// A chart with its title, its summary, its values on hover or by arrow keys, and its table.

import { h } from "./dom.js";

const figures = [];
const NARROWEST = 260;
/** The width of A4 between the page's margins, and the space between two figures, in CSS pixels. */
const PAPER = 690,
  GUTTER = 14;

/**
 * `draw(width)` returns `{ svg, steps, columns, mark }`: each step has a place `x`, `y` (`y` may be
 * left out) and `tip()`, which returns a title and lines `[class, label, value]`. `columns` is the
 * number of steps to the next row of a grid. `mark(step)` shows in the chart which one is meant.
 * `table` is `{ columns, rows() }`, of which a column is `[title, is_number]`.
 */
export function figure({ id, title, summary, note, key, controls, draw, table }) {
  const heading = h("h3", { id }, title);
  const plot = h("div", { class: "plot" });
  const tip = h("div", { class: "tip", hidden: true });
  const spoken = h("p", { class: "only-spoken", "aria-live": "polite" });
  const element = h(
    "figure",
    { "aria-labelledby": id },
    h("figcaption", null, heading, h("p", { class: "summary" }, summary)),
    controls,
    h("div", { class: "keys" }, key),
    h("div", { class: "stage" }, plot, tip),
    spoken,
    note && h("p", { class: "remark" }, note),
    table && details(title, table),
  );

  let drawn_for = null,
    chart = null,
    at = -1;
  function redraw(width) {
    drawn_for = width;
    chart = draw(Math.max(NARROWEST, Math.floor(width)));
    chart.svg.setAttribute("role", "img");
    chart.svg.setAttribute("aria-label", `${title}. ${summary}`);
    leave();
    plot.replaceChildren(chart.svg);
    const has_values = chart.steps?.length > 0;
    for (const [name, value] of [
      ["tabindex", 0],
      ["role", "group"],
      ["aria-label", `${title}: read values with the arrow keys`],
    ]) {
      if (has_values) plot.setAttribute(name, value);
      else plot.removeAttribute(name);
    }
  }
  function leave() {
    at = -1;
    tip.hidden = true;
    chart?.mark?.(null);
  }
  function show(index, speak) {
    const step = chart.steps[index];
    if (!step) return leave();
    if (at !== index) {
      at = index;
      const [name, lines] = step.tip();
      tip.replaceChildren(
        h("strong", null, name),
        h(
          "dl",
          null,
          lines.map(([kind, label, value]) =>
            h(
              "div",
              null,
              h("dt", null, kind && h("i", { class: `swatch ${kind}` }), label),
              h("dd", null, value),
            ),
          ),
        ),
      );
      if (speak) {
        const values = lines.map(([, label, value]) => `${label} ${value}`);
        spoken.textContent = `${name}. ${values.join(", ")}.`;
      }
      chart.mark?.(step);
    }
    tip.hidden = false;
    // The drawing may be scaled.
    const scale = plot.clientWidth / chart.svg.viewBox.baseVal.width;
    const x = step.x * scale,
      left = x + 14 + tip.offsetWidth > plot.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
    tip.style.left = `${Math.max(0, left)}px`;
    const top = step.y === undefined ? 8 : step.y * scale - tip.offsetHeight / 2;
    tip.style.top = `${Math.max(0, top)}px`;
  }
  function nearest(event) {
    const box = chart.svg.getBoundingClientRect();
    const scale = chart.svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale,
      y = (event.clientY - box.top) * scale;
    let best = -1,
      least = Infinity;
    chart.steps.forEach((step, i) => {
      const away = (step.x - x) ** 2 + (step.y === undefined ? 0 : (step.y - y) ** 2);
      if (away < least) [best, least] = [i, away];
    });
    return best;
  }
  plot.addEventListener("pointermove", (event) => chart?.steps?.length && show(nearest(event)));
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const last = (chart?.steps?.length ?? 0) - 1;
    if (last < 0) return;
    const row = chart.columns ?? 7;
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at < 0 ? last : at - 1,
      ArrowDown: at + row,
      ArrowUp: at - row,
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Escape") leave();
    if (to === undefined) return;
    event.preventDefault();
    show(Math.min(last, Math.max(0, to)), true);
  });

  const self = {
    plot,
    redraw: (width) => redraw(width ?? drawn_for ?? PAPER),
    width: () => drawn_for,
  };
  figures.push(self);
  element.redraw = () => self.redraw();
  return element;
}

/** Draws all figures for their widths, and again whenever these change. */
export function draw_figures() {
  const fit = ({ plot, redraw, width }) => {
    if (plot.clientWidth > 0 && plot.clientWidth !== width()) redraw(plot.clientWidth);
  };
  figures.forEach(fit);
  const by_plot = new Map(figures.map((f) => [f.plot, f]));
  let is_printing = false;
  const watch = new ResizeObserver((entries) => {
    if (!is_printing) entries.forEach(({ target }) => fit(by_plot.get(target)));
  });
  figures.forEach(({ plot }) => watch.observe(plot));
  addEventListener("beforeprint", () => {
    is_printing = true;
    for (const { plot, redraw } of figures) {
      redraw(plot.closest(".columns") ? (PAPER - GUTTER) / 2 : PAPER);
    }
  });
  addEventListener("afterprint", () => {
    is_printing = false;
    figures.forEach(fit);
  });
}

/** A table behind a line that opens it. Its rows are made when it is opened for the first time. */
export function details(title, { columns, rows }) {
  const element = h(
    "details",
    null,
    h(
      "summary",
      null,
      `Table: ${/^[A-Z]{2}/.test(title) ? title : title[0].toLowerCase() + title.slice(1)}`,
    ),
  );
  element.addEventListener("toggle", () => {
    if (!element.open || element.children.length > 1) return;
    const cell = (value, i) =>
      i === 0
        ? h("th", { scope: "row" }, value)
        : h("td", { class: columns[i][1] && "number" }, value);
    element.append(
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}: table` },
        h(
          "table",
          null,
          h(
            "thead",
            null,
            h(
              "tr",
              null,
              columns.map(([name, is_number]) =>
                h("th", { scope: "col", class: is_number && "number" }, name),
              ),
            ),
          ),
          h(
            "tbody",
            null,
            rows().map((row) => h("tr", null, row.map(cell))),
          ),
        ),
      ),
    );
  });
  return element;
}

/** What the colours and shapes mean: pairs of a swatch's class and words. */
export function key_of(entries) {
  return h(
    "ul",
    { class: "key" },
    entries.map(([kind, words]) => h("li", null, h("i", { class: `swatch ${kind}` }), words)),
  );
}
