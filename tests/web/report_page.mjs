// Pages of reports, opened from the disk in both themes; what was seen is printed as JSON for the test to judge.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { modules, chromium, pages } = JSON.parse(readFileSync(process.argv[2]));
const engine = createRequire(`${modules}/`)("playwright-core").chromium;
const axe = readFileSync(`${modules}/axe-core/axe.min.js`, "utf8");
const browser = await engine.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
const seen = {};
try {
  for (const [name, address] of Object.entries(pages))
    for (const colorScheme of ["light", "dark"]) seen[`${name} ${colorScheme}`] = await look(address, colorScheme);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(seen));

async function look(address, colorScheme) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1200, height: 900 } });
  context.setDefaultTimeout(120_000);
  const page = await context.newPage();
  const found = {};
  const [noise, requests] = [[], []];
  page.on("console", (message) => noise.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => noise.push(error.message));
  page.on("request", (request) => request.url().startsWith("data:") || requests.push(request.url()));
  page.on("dialog", (dialog) => noise.push(dialog.message()) && dialog.dismiss());
  await page.goto(address);
  found.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  found.elements = await page.evaluate(() => document.querySelectorAll("*").length);
  found.pictures = await page.evaluate(() => [...document.images].map((image) => [image.alt, image.naturalWidth]));
  Object.assign(found, await slide(page), await point(page));
  await page.locator("summary").click();
  await page.waitForSelector("details tbody tr");
  found.rows = await page.locator("details tbody").evaluateAll((all) => all.flatMap((one) =>
    [...one.rows].map((row) => [...row.cells].map((cell) => cell.textContent))));
  // the checker itself tries styles that the page forbids
  Object.assign(found, { noise: [...noise], requests: [...requests] });
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => window.axe.run());
  found.violations = violations.map((one) => `${one.id}: ${one.nodes[0].html.slice(0, 200)}`);
  found.passes = passes.map((one) => one.id);
  // as it is before the table is opened
  await page.reload();
  found.drawn = await draw(page);
  await context.close();
  return found;
}

/** The share of A that is shown: at first, by key, by pointer. */
async function slide(page) {
  const range = page.locator("input[type=range]").first();
  if (!(await range.count())) return {};
  const share = () => page.locator(".stack").first().evaluate((stack) => getComputedStyle(stack.querySelector(".over")).clipPath);
  const shares = [await share()];
  await range.focus();
  await page.keyboard.press("Home");
  shares.push(await share());
  await page.keyboard.press("ArrowRight");
  shares.push(await share());
  const box = await page.locator(".stack").first().boundingBox();
  await page.mouse.click(box.x + box.width * 0.75, box.y + box.height / 2);
  shares.push(await share());
  return { shares, name: await range.evaluate((one) => one.labels[0]?.textContent), value: await range.inputValue() };
}

/** What is told of the cell at the first block's first layer. */
async function point(page) {
  const svg = page.locator(".map svg").first();
  if (!(await svg.count())) return {};
  const [x, y] = await page.locator(".map .cells").first().evaluate((data) => Object.keys(JSON.parse(data.textContent))[0].split(",").map(Number));
  await svg.hover({ position: { x: x + 5, y: y + 5 } });
  return { told: await page.locator(".map .told").first().textContent() };
}

/** Milliseconds to parse, lay out and paint all that the page shows; the best of a few, as others work here too. */
async function draw(page) {
  return page.evaluate(async () => {
    const main = document.querySelector("main");
    const html = main.innerHTML;
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    let best = Infinity;
    for (let turn = 0; turn < 5; turn++) {
      main.replaceChildren();
      await frame();
      const start = performance.now();
      main.innerHTML = html;
      document.querySelector("svg[data-cell]")?.scrollIntoView();
      await frame();
      best = Math.min(best, performance.now() - start);
    }
    return best;
  });
}
