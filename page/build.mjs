// Builds src/cli/report/page.html from page/src: `node build.mjs`, or with --check only compares.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";

const here = import.meta.dirname;
const target = join(here, "../src/cli/report/page.html");
const TARGETS = ["chrome111", "firefox115", "safari16.4"];
const read = (...path) => readFileSync(join(here, ...path), "utf8");

async function bundle(name) {
  return build({
    entryPoints: [join(here, "src", name)],
    absWorkingDir: here,
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: "iife",
    target: TARGETS,
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
  });
}

const { dependencies } = JSON.parse(read("package.json"));
const script = await bundle("main.js");
const style = await bundle("style.css");

// Every package in the bundle has an exact version, so that the next build is the same.
const [output] = Object.values(script.metafile.outputs);
const packages = new Set();
for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
  const name = /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1];
  if (name && bytesInOutput > 0) packages.add(name);
}
const by_text = new Map();
for (const name of [...packages].sort()) {
  const { version } = JSON.parse(read("node_modules", name, "package.json"));
  if (dependencies[name] !== version) {
    throw new Error(
      `${name} ${version} is in the bundle, but page/package.json has ${dependencies[name]}`,
    );
  }
  const text = read("node_modules", name, "LICENSE").trim();
  by_text.set(text, [...(by_text.get(text) ?? []), `${name} ${version}`]);
}
const notices = [...by_text].map(([text, names]) => `${names.join(", ")}\n\n${text}`).join("\n\n");

const text_of = ({ outputFiles: [{ text }] }) => text.trim();
const hash = (text) => `sha256-${createHash("sha256").update(text).digest("base64")}`;
const values = {
  script: text_of(script),
  style: text_of(style),
  notices,
  "script-hash": hash(text_of(script)),
  "style-hash": hash(text_of(style)),
};
const page = read("src/index.html").replace(/\{\{([a-z-]+)\}\}/g, (_, name) => values[name]);
if (page.split("/*data*/").length !== 2) throw new Error("/*data*/ must stand in the page once");
if (/<\/script|<!--/i.test(values.script) || notices.includes("--"))
  throw new Error("a part would end its element");

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== page) {
    throw new Error(
      "src/cli/report/page.html is not what page/src builds: run `npm run build` in page/",
    );
  }
} else {
  writeFileSync(target, page);
  console.log(`${target}: ${(Buffer.byteLength(page) / 1024).toFixed(0)} KiB`);
}
