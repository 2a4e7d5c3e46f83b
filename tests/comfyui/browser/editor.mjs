// The editor in a real browser: opened, driven and read. Waits for conditions, never for time.
import { createRequire } from "node:module";

// ms that a page may need on a machine with other work; nothing waits longer than it must
const PATIENCE = 120_000;

export async function launch({ playwright, chromium }) {
  const { chromium: engine } = createRequire(`${playwright}/`)("playwright-core");
  return engine.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] });
}

/** A page with the editor ready; settings: ComfyUI's own; noise: what the pack's files wrote to the console. */
export async function open(browser, url, settings, { blocked = false, viewport = { width: 1400, height: 900 } } = {}) {
  const context = await browser.newContext({ viewport, permissions: ["clipboard-read", "clipboard-write"], acceptDownloads: true });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const noise = [];
  page.on("console", (message) => {
    const where = `${message.location().url} ${message.text()}`;
    if (["error", "warning"].includes(message.type()) && /extensions\/scaled|scaled_fp8|Scaled FP8/i.test(where)) noise.push(where);
  });
  page.on("pageerror", (error) => noise.push(`${error.message} ${error.stack}`));
  if (blocked) await page.route("**/scaled_fp8.js*", (route) => route.fulfill({ contentType: "text/javascript", body: "" }));
  await fetch(`${url}/api/settings`, {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ "Comfy.TutorialCompleted": true, "Comfy.Workflow.Persist": false, ...settings }),
  });
  await page.goto(url);
  await ready(page);
  return { page, context, noise };
}

export async function ready(page) {
  await page.waitForFunction(() => window.app?.extensionManager && window.LiteGraph?.registered_node_types?.FP8Report);
  await page.waitForFunction(() => document.querySelector("#graph-canvas, canvas.graph-canvas") && window.app.canvas?.graph);
  // the editor opens with a workflow of its own, which must be there before it is replaced
  await page.waitForFunction(() => app.extensionManager.workflow?.activeWorkflow);
  await page.waitForLoadState("networkidle");
}

/** Fill the graph with nodes {type, pos, widgets} by name, linked [from, output, to, input]. */
export function build(page, nodes, links) {
  return page.evaluate(async ([nodes, links]) => {
    app.graph.clear();
    // Nodes 2.0 keeps what it drew of a number that is taken again before it has drawn
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    window.made = {};
    for (const [name, { type, pos, widgets = {} }] of Object.entries(nodes)) {
      const node = LiteGraph.createNode(type);
      node.pos = pos;
      app.graph.add(node);
      made[name] = node;
      for (const [key, value] of Object.entries(widgets)) {
        const widget = node.widgets.find((one) => one.name === key);
        widget.value = value;
        widget.callback?.(value);
      }
    }
    for (const [from, output, to, input] of links) made[from].connect(output, made[to], input);
    app.canvas.ds.offset = [60, 150];
    app.canvas.ds.scale = 1;
    app.graph.setDirtyCanvas(true, true);
  }, [nodes, links]);
}

export function choose(page, name, widget, value) {
  return page.evaluate(([name, widget, value]) => {
    const one = made[name].widgets.find((w) => w.name === widget);
    one.value = value;
    one.callback?.(value);
    window.chosenAt = performance.now();
  }, [name, widget, value]);
}

/** The lines of the box in a node, once one of them holds a text; ms since the file was chosen. */
export async function verdict(page, text) {
  const handle = await page.waitForFunction((text) => {
    const box = [...document.querySelectorAll(".sfp8-verdict")].find((one) => one.textContent.includes(text));
    if (!box) return false;
    const lines = [...box.children].map((line) => ({ kind: line.className, text: line.textContent, colour: getComputedStyle(line).color }));
    return { lines, ms: performance.now() - (window.chosenAt ?? 0) };
  }, text);
  return handle.jsonValue();
}

export const prompt = (page) => page.evaluate(async () => JSON.parse(JSON.stringify(await app.graphToPrompt())));

/** Queue what is in the graph and wait for its end: "success", or the error. */
export function run(page) {
  return page.evaluate(() => new Promise((resolve) => {
    const done = (how) => ({ detail }) => resolve(how === "success" ? how : JSON.stringify(detail));
    app.api.addEventListener("execution_success", done("success"), { once: true });
    app.api.addEventListener("execution_error", done("error"), { once: true });
    app.queuePrompt(0);
  }));
}

export const toggle = (page) => page.evaluate(() => app.extensionManager.command.execute("Workspace.ToggleSidebarTab.scaled_fp8"));

export async function openPanel(page) {
  await toggle(page);
  await page.waitForSelector(".sfp8-panel");
}

/** Names of the rows in the list, from the first to the last, by scrolling through it. */
export async function rows(page) {
  return page.evaluate(async () => {
    const list = document.querySelector(".sfp8-list");
    const found = new Map();
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    for (let top = 0; ; top += list.clientHeight) {
      list.scrollTop = top;
      await frame();
      for (const row of list.querySelectorAll(".sfp8-row")) {
        const [kernel] = row.querySelector(".sfp8-facts").textContent.split(" · ");
        found.set(Number(row.ariaPosInSet ?? row.getAttribute("aria-posinset")), {
          layer: row.querySelector(".sfp8-name").textContent, kernel, calls: parseInt(row.querySelector(".sfp8-calls").textContent, 10),
        });
      }
      if (top + list.clientHeight >= list.scrollHeight) break;
    }
    list.scrollTop = 0;
    await frame();
    return [...found].sort((a, b) => a[0] - b[0]).map(([, row]) => row);
  });
}

export async function download(page, click) {
  const [file] = await Promise.all([page.waitForEvent("download"), click()]);
  const chunks = [];
  for await (const chunk of await file.createReadStream()) chunks.push(chunk);
  return { name: file.suggestedFilename(), bytes: Buffer.concat(chunks) };
}

/** What is chosen in the panel: search, selects, count, and which run is shown. */
export function stateOf(page) {
  return page.evaluate(() => [
    document.querySelector(".sfp8-panel input[type=search]").value,
    ...[...document.querySelectorAll(".sfp8-body select")].map((select) => select.value),
    document.querySelector(".sfp8-count").textContent,
    document.querySelector(".sfp8-title").value,
  ]);
}

/** What axe finds wrong in a part of the page: names, roles, contrast; by WCAG 2.1 A and AA. */
export async function axe(page, modules, selector) {
  if (!(await page.evaluate(() => "axe" in window))) await page.addScriptTag({ path: `${modules}/axe-core/axe.min.js` });
  return page.evaluate(async (selector) => {
    const { violations, passes } = await window.axe.run(selector, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] });
    const told = violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => ({ id, html, failureSummary })));
    return { violations: told, passed: passes.map(({ id }) => id) };
  }, selector);
}
