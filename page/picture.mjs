// Writes a picture of a report's first screen: node picture.mjs REPORT.html PICTURE.png
//
// The page has the system's font; the picture is made with Inter, so that it does not depend on the
// machine (Debian: fonts-inter).

import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const [report, picture] = process.argv.slice(2);
const browser = await launch();
const page = await browser.newPage({
  viewport: { width: 1280, height: 1010 },
  colorScheme: "light",
});
await page.goto(pathToFileURL(report).href);
await page.evaluate(async () => {
  document.body.style.fontFamily = "Inter";
  await document.fonts.ready;
});
await page.screenshot({ path: picture });
await browser.close();
