// Opens reports in a browser: `node test.mjs` those of fixture.mjs, `node test.mjs FILE…` others.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";
import { fill, fixture, KINDS } from "./fixture.mjs";
import { change, days_between, money, nanos, percent, Zone } from "./src/format.js";

const here = import.meta.dirname;
const axe = readFileSync(join(here, "node_modules/axe-core/axe.min.js"), "utf8");
const SCREENS = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };
const SHAPES = "svg[role=img] :is(rect, path, circle, line)";

// Amounts are rounded once, from their digits.
for (const [text, shown] of [
  ["0", "$0.00"],
  ["0.004999999", "$0.00"],
  ["0.005", "$0.01"],
  ["-0.005", "−$0.01"],
  ["-0.004", "$0.00"],
  ["1.005", "$1.01"],
  ["999.995", "$1,000.00"],
  ["190612.07", "$190,612.07"],
  ["9007199254740993.125", "$9,007,199,254,740,993.13"],
])
  assert.equal(money(text), shown);
assert.equal(money("0.1", true), "+$0.10");
assert.equal(
  money(
    Array(10)
      .fill("0.1")
      .map(nanos)
      .reduce((a, b) => a + b),
  ),
  "$1.00",
);
assert.equal(percent(null), "–");
assert.deepEqual([0.042, -0.3, 0.0001, 12, null].map(change), [
  "▲ 4.2 %",
  "▼ 30.0 %",
  "unchanged",
  "▲ ×13",
  "–",
]);
// A day begins when its zone says so, also where clocks change at midnight.
for (const name of [
  "UTC",
  "Europe/Berlin",
  "America/St_Johns",
  "America/Santiago",
  "Asia/Kathmandu",
  "Africa/Cairo",
  "Pacific/Apia",
]) {
  const zone = new Zone(name);
  for (const day of days_between("2026-01-01", "2026-12-31")) {
    const begin = zone.midnight(day);
    assert.equal(zone.parts(begin).day, day, `${day} in ${name}`);
    assert.notEqual(zone.parts(begin - 60_000).day, day, `${day} in ${name}`);
  }
}
assert.equal(new Zone("No/Where").name, "UTC");

const browser = await launch();

async function open(file, options) {
  const page = await browser.newPage(options);
  const problems = [],
    requests = [];
  page.on("console", (message) => problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => requests.push(request.url()));
  const url = pathToFileURL(file).href;
  await page.goto(url);
  return { page, problems, requests, url };
}

async function find_violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => {
    // The rows of a table are alike, and thousands of them take minutes.
    document.querySelectorAll("tbody tr:nth-child(n + 12)").forEach((row) => row.remove());
    return globalThis.axe.run();
  });
  return violations.map(
    ({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)} ${nodes[0].failureSummary}`,
  );
}

async function open_tables(page) {
  await page.evaluate(() =>
    document.querySelectorAll("details").forEach((details) => {
      details.open = true;
    }),
  );
  await page.waitForFunction(() =>
    [...document.querySelectorAll("figure details")].every((d) => d.querySelector("tbody tr")),
  );
}

/** Texts of charts that are hard to read: axe does not look at them. */
function find_faint(page) {
  return page.evaluate(() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    // Luminance by WCAG of a colour over another one.
    const luminance = (...layers) => {
      for (const layer of layers) {
        context.fillStyle = layer;
        context.fillRect(0, 0, 1, 1);
      }
      const bytes = [...context.getImageData(0, 0, 1, 1).data];
      const [r, g, b] = bytes.map((byte) => {
        const value = byte / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    for (const text of document.querySelectorAll("figure svg text")) {
      const card = getComputedStyle(text.closest("figure")).backgroundColor;
      const has_ground = text.matches(".cell-text, .slice-letter, .badge-text");
      const ground = has_ground ? getComputedStyle(text.previousElementSibling).fill : card;
      const [a, b] = [luminance(card, getComputedStyle(text).fill), luminance(card, ground)];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) {
        faint.push(`${text.getAttribute("class")} "${text.textContent}": ${contrast.toFixed(2)}`);
      }
    }
    return faint;
  });
}

/** Looks at a report on one screen, in one scheme of colours. */
async function look(file, screen, scheme) {
  const { page, problems, requests, url } = await open(file, {
    viewport: SCREENS[screen],
    colorScheme: scheme,
  });
  assert.equal(await page.getByText("could not be shown").count(), 0);
  for (const figure of await page.locator("figure").all()) {
    const name = await figure.locator("h3").textContent();
    assert.ok((await figure.locator(SHAPES).count()) > 0, `${name} has no mark`);
    assert.ok((await figure.locator("svg[role=img]").getAttribute("aria-label")).startsWith(name));
    assert.doesNotMatch(
      await figure.evaluate((f) => f.outerHTML),
      /\bNaN\b|undefined|Infinity|\[object/,
      name,
    );
  }
  const [wide, seen] = await page.evaluate(() => [
    document.documentElement.scrollWidth,
    document.documentElement.clientWidth,
  ]);
  assert.deepEqual(await find_faint(page), []);
  assert.ok(wide <= seen, `the page is ${wide} pixels wide on a screen of ${seen}`);
  await open_tables(page);
  assert.deepEqual(await find_violations(page), []);
  assert.deepEqual(problems, []);
  assert.deepEqual(requests, [url]);
  await page.close();
}

/** Walks through a report with the keyboard: every table opens, every chart says its values. */
async function walk(file) {
  const { page, problems } = await open(file, {
    viewport: SCREENS.desktop,
    reducedMotion: "reduce",
  });
  const figures = await page.locator("figure").count();
  const opened = new Set(),
    read = new Set();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  for (let presses = 0; presses < 400; presses++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const active = document.activeElement;
      return {
        name: active.localName,
        kind: active.className,
        of: active.closest("figure")?.querySelector("h3")?.id,
      };
    });
    if (at.name === "body") break;
    if (at.name === "summary" && at.of) {
      await page.keyboard.press("Enter");
      await page.waitForFunction(
        () => document.activeElement.parentElement.querySelectorAll("tbody tr").length > 0,
      );
      opened.add(at.of);
    }
    if (at.kind === "plot") {
      await page.keyboard.press("ArrowRight");
      await page.keyboard.press("ArrowRight");
      const [spoken, is_hidden] = await page.evaluate(() => {
        const figure = document.activeElement.closest("figure");
        return [
          figure.querySelector("[aria-live]").textContent,
          figure.querySelector(".tip").hidden,
        ];
      });
      assert.ok(spoken.length > 5 && !is_hidden, `${at.of} says nothing`);
      await page.keyboard.press("Escape");
      read.add(at.of);
    }
  }
  assert.equal(opened.size, figures, `${opened.size} of ${figures} tables were opened`);
  assert.equal(read.size, figures, `${read.size} of ${figures} charts were read`);
  assert.deepEqual(problems, []);
  await page.close();
}

/** Prints: light, with every chart, within a page each. */
async function print(file) {
  const { page, problems } = await open(file, { viewport: SCREENS.desktop, colorScheme: "dark" });
  const pdf = await page.pdf({ preferCSSPageSize: true });
  assert.equal(pdf.subarray(0, 5).toString(), "%PDF-");
  const pages = pdf.toString("latin1").match(/\/Type\s*\/Page\b/g).length;
  assert.ok(pages <= 9, `${pages} pages`);
  await page.emulateMedia({ media: "print" });
  assert.equal(
    await page.evaluate(() => getComputedStyle(document.body).backgroundColor),
    "rgb(255, 255, 255)",
  );
  assert.equal(
    await page.evaluate(() => getComputedStyle(document.querySelector("h1")).color),
    "rgb(23, 32, 44)",
  );
  assert.equal(await page.locator("nav").isVisible(), false);
  assert.deepEqual(problems, []);
  await page.close();
}

/** The first of these marks have lengths in proportion to the values. */
async function assert_lengths(marks, side, values) {
  const lengths = await marks.evaluateAll((all, side) => all.map((it) => it.getBBox()[side]), side);
  const scale = Math.max(...lengths.slice(0, values.length)) / Math.max(...values);
  values.forEach((value, i) => {
    // The shortest bars are longer, to be seen.
    assert.ok(
      Math.abs(lengths[i] - Math.max(value * scale, 1)) < 1,
      `${value} is ${lengths[i]} long`,
    );
  });
}

/** The page shows what is in the report: as many marks as there are days, slices and disruptions. */
async function compare(file, report) {
  const { page } = await open(file, { viewport: SCREENS.desktop });
  const shapes = (id, selector) =>
    page.locator(`figure[aria-labelledby=${id}] ${selector}`).count();
  const has_calls = report.days.some(({ calls }) => calls > 0);
  assert.equal(await shapes("slices-chart", ".slice"), report.trust.list.length);
  for (const [state, slices] of Object.entries(report.trust.slices)) {
    assert.equal(await shapes("slices-chart", `.slice.${state}`), slices, state);
  }
  assert.equal(await page.locator("ol.disruptions > li").count(), report.disruptions.list.length);
  assert.equal(await page.locator(".verdict").count(), 2);
  assert.equal(
    await page.locator(".verdict.bad", { hasText: "disruption" }).count(),
    report.disruptions.list.length ? 1 : 0,
  );
  if (has_calls) {
    assert.equal(await shapes("hours-chart", ".disrupted"), report.disruptions.list.length);
    if (!report.disruptions.list.length) assert.equal(await shapes("hours-chart", ".ring"), 0);
    for (const direction of report.directions) {
      assert.equal(
        await shapes("by-day-chart", `.bar.${direction}`),
        3 * report.days.filter((d) => d.direction === direction && d.calls > 0).length,
      );
    }
    // Bars are as long as their numbers.
    const placed = report.days.filter((d) => d.direction === "placed" && d.calls > 0);
    await assert_lengths(
      page.locator("figure[aria-labelledby=by-day-chart] .bar.placed"),
      "height",
      placed.map(({ calls }) => calls),
    );
    const costly = report.destinations.rows.filter(({ charge_usd }) => Number(charge_usd) > 0);
    await assert_lengths(
      page.locator("figure[aria-labelledby=destinations-chart] .bar.money"),
      "width",
      costly.slice(0, 8).map(({ charge_usd }) => Number(charge_usd)),
    );
    const all = report.totals.find(({ direction }) => direction === null);
    const tiles = await page.locator(".big").allTextContents();
    assert.equal(tiles[0], all.calls.toLocaleString("en-US"));
    assert.equal(tiles[2], money(all.charge_usd));
  }
  await page.close();
}

/** Names of a hostile report are text, and nothing but text. */
async function distrust(file, report) {
  const { page } = await open(file, { viewport: SCREENS.desktop });
  await open_tables(page);
  assert.equal(await page.evaluate(() => globalThis.hacked), undefined);
  assert.equal(
    await page.locator("img, iframe, script:not(#report):not(body > script)").count(),
    0,
  );
  assert.ok((await page.getByText(report.account).count()) >= 5);
  await page.close();
}

const folder = mkdtempSync(join(tmpdir(), "cdrlake-page-"));
try {
  const template = readFileSync(join(here, "../src/cli/report/page.html"), "utf8");
  const given = process.argv.slice(2).map((file) => ({ name: file, file }));
  const made = KINDS.map((kind) => {
    const file = join(folder, `${kind}.html`);
    writeFileSync(file, fill(template, fixture(kind)));
    return { name: kind, file };
  });
  for (const { name, file } of given.length ? given : made) {
    const begun = performance.now();
    const [, json] = /<script type="application\/json" id="report">(.*?)<\/script>/s.exec(
      readFileSync(file, "utf8"),
    );
    const report = JSON.parse(json);
    await look(file, "desktop", "light");
    await look(file, "phone", "dark");
    if (given.length || name === "disrupted") {
      await look(file, "desktop", "dark");
      await look(file, "phone", "light");
    }
    await walk(file);
    await print(file);
    await compare(file, report);
    if (name === "hostile") await distrust(file, report);
    console.log(`${name}: all good in ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  }
} finally {
  await browser.close();
  rmSync(folder, { recursive: true });
}
