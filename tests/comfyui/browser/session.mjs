// One session in the editor as a person has it; what was seen is printed as JSON for the test to judge.
import { readFileSync } from "node:fs";
import { budgeted } from "./budgeted.mjs";
import { compared } from "./compared.mjs";
import * as editor from "./editor.mjs";
import { measured, older } from "./measured.mjs";

const request = JSON.parse(readFileSync(process.argv[2]));
const { url, vue, shots } = request;
const LTX = "diffusion_models/server-ltx.safetensors";
const BROKEN = request.broken;
const nodes = {
  loader: { type: "LoadFP8Checkpoint", pos: [40, 60], widgets: { checkpoint: LTX } },
  digits: { type: "DigitsConditioning", pos: [40, 420], widgets: { digits: "01" } },
  latent: { type: "EmptyFlux2LatentImage", pos: [40, 560], widgets: { width: 64, height: 64, batch_size: 2 } },
  sampler: { type: "KSampler", pos: [380, 60], widgets: { steps: 2, control_after_generate: "fixed", cfg: 1, sampler_name: "euler", scheduler: "simple" } },
  numbers: { type: "SaveLatentNumbers", pos: [740, 60], widgets: { name: "browser" } },
  report: { type: "FP8Report", pos: [740, 200] },
};
const links = [
  ["loader", 0, "sampler", 0], ["digits", 0, "sampler", 1], ["digits", 0, "sampler", 2], ["latent", 0, "sampler", 3],
  ["sampler", 0, "numbers", 0], ["loader", 0, "report", 0], ["sampler", 0, "report", 1],
];
const settings = { "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": "en", "Comfy.ColorPalette": "dark" };
// the pictures of the documents, where they are made anew
const SCREENS = ["verdict", "panel", "panel-error", "panel-curve", "report"];
async function shot(page, name, options = {}) {
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, ...options });
  if (request.screens && SCREENS.includes(name)) await page.screenshot({ path: `${request.screens}/${name}.png`, ...options });
}
const seen = {};

const browser = await editor.launch(request);
try {
  const { page, context, noise } = await editor.open(browser, url, settings);
  await pair(page);
  await verdicts(page);
  await graph(page);
  await panel(page);
  await exports(page);
  await menu(page);
  await reload(page);
  seen.measured = await measured(page, request, shot);
  await kept(page);
  await editor.openPanel(page);
  seen.budgeted = await budgeted(page, shot);
  seen.compared = await compared(page, request, shot);
  await editor.toggle(page);
  await page.waitForSelector(".sfp8-panel", { state: "detached" });
  await many(page);
  await templates(page);
  seen.noise = noise;
  await context.close();
  await languages();
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(seen));

/** A file that is recognised beside one that is refused. */
async function pair(page) {
  const loader = (x, checkpoint) => ({ type: "LoadFP8Checkpoint", pos: [x, 60], widgets: { checkpoint } });
  await editor.build(page, { good: loader(40, LTX), bad: loader(380, BROKEN) }, []);
  await editor.verdict(page, "LTX");
  await editor.verdict(page, BROKEN.split("/").pop());
  const clip = await page.evaluate(() => {
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    const [x, y] = [made.good.pos[0] + app.canvas.ds.offset[0] + left, made.good.pos[1] + app.canvas.ds.offset[1] + top];
    const right = made.bad.pos[0] + made.bad.size[0] - made.good.pos[0];
    return { x: x - 16, y: y - 64, width: right + 32, height: made.good.size[1] + 80 };
  });
  await shot(page, "verdict", { clip });
}

async function verdicts(page) {
  await editor.build(page, nodes, links);
  await editor.choose(page, "loader", "checkpoint", LTX);
  seen.first = await editor.verdict(page, "LTX");
  await editor.choose(page, "loader", "checkpoint", BROKEN);
  seen.refused = await editor.verdict(page, BROKEN.split("/").pop());
  await shot(page, "refused");
  await editor.choose(page, "loader", "checkpoint", LTX);
  seen.accepted = await editor.verdict(page, "LTX");
}

/** The prompt with and without the pack's script: the same, and the workflow too but for what a node's box adds to its height. */
async function graph(page) {
  seen.prompt = await editor.prompt(page);
  seen.help = { en: await help(page, "loader") };
  await page.evaluate(() => app.canvas.deselectAll());
  const { page: bare, context } = await editor.open(browser, url, settings, { blocked: true });
  await editor.build(bare, nodes, links);
  seen.bare = await editor.prompt(bare);
  await context.close();
}

async function panel(page) {
  await editor.openPanel(page);
  await page.waitForSelector(".sfp8-empty:not([hidden]), .sfp8-row");
  seen.promptAfter = await editor.prompt(page);
  seen.ended = await editor.run(page);
  // another session may have left a newer run on the server
  await page.waitForFunction(() => [...document.querySelectorAll(".sfp8-title option")].some((one) => one.value === "1 MODEL"));
  await page.evaluate(() => {
    const title = document.querySelector(".sfp8-title");
    title.value = "1 MODEL";
    title.dispatchEvent(new Event("change"));
  });
  await page.waitForFunction(() => /Ran/.test(document.querySelector(".sfp8-line")?.textContent));
  seen.ran = (await editor.verdict(page, "Ran")).lines;
  seen.rows = await editor.rows(page);
  seen.report = await page.evaluate(async () =>
    (await app.api.fetchApi(`/scaled_fp8/v1/report?run=${encodeURIComponent("1 MODEL")}`)).json());
  await page.locator(".sfp8-canvas").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  seen.byArrow = await page.locator(".sfp8-detail .sfp8-name").textContent();
  await page.locator(".sfp8-list").focus();
  await page.keyboard.press("End");
  seen.lastByKey = await page.locator('.sfp8-row[aria-selected="true"] .sfp8-name').textContent();
  await page.keyboard.press("Home");
  await shot(page, "panel");
  await page.locator(".sfp8-panel input[type=search]").fill("single linear2");
  seen.searched = (await editor.rows(page)).map((row) => row.layer);
  await page.locator(".sfp8-bar select").nth(1).selectOption("scale");
  await shot(page, "scale");
  seen.state = await editor.stateOf(page);
  await editor.toggle(page);
  await page.waitForSelector(".sfp8-panel", { state: "detached" });
  await editor.openPanel(page);
  seen.stateAgain = await editor.stateOf(page);
  await page.locator(".sfp8-device summary").click();
  await page.waitForSelector(".sfp8-doctor li");
  seen.doctor = await page.locator(".sfp8-doctor li b").allTextContents();
  await page.locator(".sfp8-device li").last().scrollIntoViewIfNeeded();
  await shot(page, "device");
  seen.axe = await editor.axe(page, request.playwright, ".sfp8-panel");
  await page.locator(".sfp8-device summary").click();
  seen.promptLast = await editor.prompt(page);
}

async function exports(page) {
  const button = (name) => page.locator(".sfp8-foot button", { hasText: name });
  const clipboard = () => page.evaluate(() => navigator.clipboard.readText());
  const copied = () => page.waitForFunction(() => document.querySelector(".sfp8-count").textContent === "Copied.");
  await page.locator(".sfp8-panel input[type=search]").fill("");
  await page.bringToFront();
  await button("JSON").click();
  await copied();
  seen.json = JSON.parse(await clipboard());
  await page.locator(".sfp8-panel input[type=search]").fill("double");
  await button("CSV").click();
  await copied();
  seen.csv = await clipboard();
  await page.locator(".sfp8-panel input[type=search]").fill("");
  const png = await editor.download(page, () => button("PNG").click());
  seen.png = { name: png.name, size: png.bytes.length, head: png.bytes.subarray(1, 4).toString() };
}

/** "Inspect this model" and "Show in Scaled FP8 panel", also on core's loader; nothing on a node without a model. */
async function menu(page) {
  seen.menus = await page.evaluate(async () => {
    const core = LiteGraph.createNode("UNETLoader");
    core.pos = [40, 700];
    app.graph.add(core);
    core.widgets[0].value = "digits-flux2-bf16.safetensors";
    window.made.core = core;
    const ours = (node) => app.collectNodeMenuItems(node).filter((item) => /Inspect this|Scaled FP8/.test(item?.content)).map((item) => item.content);
    return { core: ours(core), report: ours(made.latent), loader: ours(made.loader) };
  });
  const click = (name, content) => page.evaluate(([name, content]) =>
    app.collectNodeMenuItems(made[name]).find((item) => item?.content === content).callback(), [name, content]);
  await click("core", "Inspect this model");
  await page.waitForFunction(() => document.querySelector(".sfp8-title")?.selectedOptions[0]?.textContent.includes("digits-flux2-bf16"));
  seen.inspected = await page.locator(".sfp8-line").textContent();
  await page.locator(".sfp8-needs summary", { hasText: "What each method would need" }).click();
  seen.needs = await page.locator(".sfp8-needs tr").evaluateAll((all) =>
    all.map((row) => [...row.children].map((cell) => cell.textContent)));
  await shot(page, "needs");
  await click("loader", "Show in Scaled FP8 panel");
  await page.waitForFunction(() => document.querySelector(".sfp8-line")?.textContent.startsWith("Ran"));
  await page.evaluate(() => app.graph.remove(made.core));
}

async function reload(page) {
  const workflow = await page.evaluate(() => app.graph.serialize());
  await page.reload();
  await editor.ready(page);
  await page.evaluate((workflow) => app.loadGraphData(workflow), workflow);
  seen.reloaded = (await editor.verdict(page, "LTX")).lines;
  seen.workflowAgain = await page.evaluate(() => app.graph.serialize());
  seen.workflow = workflow;
  seen.older = await older(page);
  await editor.openPanel(page);
}

/** A page that is loaded again has the panel as it was: the run, the search, the order, the colours; also of a file. */
async function kept(page) {
  await page.locator(".sfp8-panel input[type=search]").fill("blocks");
  const before = await editor.stateOf(page);
  await again(page);
  await page.locator(".sfp8-row").first().waitFor();
  seen.kept = { before, after: await editor.stateOf(page), page: await page.getByRole("button", { name: "Open the report" }).count() };
  await editor.toggle(page);
  await page.waitForSelector(".sfp8-panel", { state: "detached" });
}

async function again(page) {
  await page.reload();
  await editor.ready(page);
  await editor.openPanel(page);
}

/** 2,000 layers: milliseconds to the first paint, and the longest task while scrolling. */
async function many(page) {
  const layers = Array.from({ length: 2000 }, (_, i) => ({
    layer: `transformer_blocks.${Math.floor(i / 40)}.part${Math.floor((i % 40) / 8)}.linear${i % 8}`,
    kernel: i % 7 ? "scaled_mm per-row" : "upcast", reason: i % 7 ? "proven here" : `odd shape ${i % 3}`,
    format: "float8_e4m3fn", granularity: i % 5 ? "per-row" : "per-tensor", shape: [4096, 4096 + i], activation: "dynamic",
    calls: i, ran: {}, scale: 2 ** -(i % 12), error: 20 + (i % 17), noise: false,
  }));
  const run = { key: "1 MODEL", part: "MODEL", node: "1", type: "LoadFP8Checkpoint", file: "diffusion_models/large.safetensors", device: "GPU", count: 2000, calls: 1, kernels: { "scaled_mm per-row": 1714, upcast: 286 }, reasons: {} };
  await page.route("**/scaled_fp8/v1/report**", (route) =>
    route.fulfill({ json: route.request().url().includes("run=") ? { ...run, layers } : { runs: [run] } }));
  await editor.openPanel(page);
  await page.locator(".sfp8-panel input[type=search]").fill("");
  await page.getByRole("button", { name: "Ask again" }).click();
  await page.waitForFunction(() => document.querySelector(".sfp8-count")?.textContent.includes("2000 of 2000"));
  await shot(page, "many");
  await editor.toggle(page);
  await page.waitForSelector(".sfp8-panel", { state: "detached" });
  seen.paint = await page.evaluate(async () => {
    const start = performance.now();
    const done = app.extensionManager.command.execute("Workspace.ToggleSidebarTab.scaled_fp8");
    while (!document.querySelector(".sfp8-row")) await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    await done;
    return performance.now() - start;
  });
  seen.scroll = await page.evaluate(async () => {
    const list = document.querySelector(".sfp8-list");
    const found = { frames: 0, longest: [], rows: 0 };
    for (let pass = 0; pass < 3; pass++) {
      const tasks = [];
      const observer = new PerformanceObserver((seen) => tasks.push(...seen.getEntries().map((entry) => entry.duration)));
      observer.observe({ type: "longtask" });
      for (let top = 0; top < list.scrollHeight; top += 400, found.frames++) {
        list.scrollTop = top;
        await new Promise(requestAnimationFrame);
        found.rows = Math.max(found.rows, list.querySelectorAll(".sfp8-row").length);
      }
      tasks.push(...observer.takeRecords().map((entry) => entry.duration));
      observer.disconnect();
      found.longest.push(Math.max(0, ...tasks));
    }
    return found;
  });
  seen.colourings = await page.locator(".sfp8-body select").first().locator("option").evaluateAll((all) => all.map((one) => one.value));
  seen.drawn = await page.evaluate(async () => {
    const [by] = document.querySelectorAll(".sfp8-body select");
    const fill = CanvasRenderingContext2D.prototype.fillRect;
    let cells = 0;
    CanvasRenderingContext2D.prototype.fillRect = function (...box) {
      cells++;
      return fill.apply(this, box);
    };
    const found = [];
    for (const name of ["kernel", "error", "kernel", "error"]) {
      [by.value, cells] = [name, 0];
      const start = performance.now();
      by.dispatchEvent(new Event("change"));
      found.push({ name, cells, ms: performance.now() - start });
    }
    CanvasRenderingContext2D.prototype.fillRect = fill;
    return found;
  });
  await page.unroute("**/scaled_fp8/v1/report**");
}

/** The help page as it opens from the node's own button. */
async function help(page, name) {
  await page.evaluate((name) => {
    app.canvas.deselectAll();
    app.canvas.selectNode(made[name]);
  }, name);
  const asked = page.waitForResponse((answer) => /\/docs\/LoadFP8Checkpoint\//.test(answer.url()));
  await page.locator(`[data-testid="info-button"]`).click();
  const answer = await asked;
  const [title] = (await answer.text()).split("\n");
  await page.getByRole("heading", { name: title.slice(2) }).first().waitFor();
  return { path: new URL(answer.url()).pathname, title };
}

/** Every template of the pack as the template browser opens it; pairs of nodes that overlap. */
async function templates(page) {
  seen.templates = {};
  await editor.toggle(page);
  await page.waitForSelector(".sfp8-panel", { state: "detached" });
  for (const name of request.templates) {
    await page.evaluate(async (name) => {
      const workflow = await (await app.api.fetchApi(`/workflow_templates/scaled-fp8/${name}.json`)).json();
      await app.loadGraphData(workflow, true, true, name);
      app.canvas.fitViewToSelectionAnimated ? app.extensionManager.command.execute("Comfy.Canvas.FitView") : null;
    }, name);
    await page.waitForFunction(() => [...document.querySelectorAll(".sfp8-verdict")].every((box) => box.textContent && !/Looking/.test(box.textContent)));
    seen.templates[name] = await page.evaluate(() => ({
      unknown: app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type] && !/Note$/.test(node.type)).map((node) => node.type),
      overlaps: app.graph.nodes.flatMap((a) => app.graph.nodes
        .filter((b) => a.id < b.id && a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0]
          && a.pos[1] - 30 < b.pos[1] + b.size[1] && b.pos[1] - 30 < a.pos[1] + a.size[1])
        .map((b) => `${a.type} ${b.type}`)),
    }));
    await shot(page, `template-${name}`);
  }
}

/** The same in Chinese and in the light theme, in a narrow window at 125 %. */
async function languages() {
  const other = { ...settings, "Comfy.Locale": "zh", "Comfy.ColorPalette": "light" };
  const { page, context, noise } = await editor.open(browser, url, other, { viewport: { width: 1120, height: 720 } });
  await editor.build(page, nodes, links);
  await editor.choose(page, "loader", "checkpoint", LTX);
  seen.chinese = { verdict: (await editor.verdict(page, "层")).lines[0].text };
  seen.help.zh = await help(page, "loader");
  await shot(page, "help-chinese");
  await page.evaluate(() => app.canvas.deselectAll());
  await editor.openPanel(page);
  await page.waitForSelector(".sfp8-row");
  seen.chinese.title = await page.evaluate(() => made.loader.title);
  seen.chinese.line = await page.locator(".sfp8-line").textContent();
  seen.axeLight = await editor.axe(page, request.playwright, ".sfp8-panel");
  await shot(page, "panel-light-zh");
  seen.noise.push(...noise);
  await context.close();
}
