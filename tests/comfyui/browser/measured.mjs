// Layers with errors that a node measured: their colours, noise, the report that the node wrote, a VAE beside.
import * as editor from "./editor.mjs";

const NODES = {
  loader: { type: "LoadFP8Checkpoint", pos: [40, 60], widgets: { checkpoint: "diffusion_models/server-ltx.safetensors" } },
  errors: { type: "DigitsErrors", pos: [380, 60] },
  report: { type: "FP8Report", pos: [700, 60] },
  image: { type: "VAELoader", pos: [40, 460], widgets: { vae_name: "taef2" } },
  quantized: { type: "QuantizeVAE", pos: [380, 460] },
  seen: { type: "FP8Report", pos: [1040, 60] },
};
const LINKS = [
  ["loader", 0, "errors", 0], ["errors", 0, "report", 0], ["image", 0, "quantized", 0], ["quantized", 0, "seen", 0],
];

export async function measured(page, { playwright: modules }, shot) {
  const seen = {};
  await editor.build(page, NODES, LINKS);
  seen.ended = await editor.run(page);
  await page.waitForFunction(() => [...document.querySelectorAll(".sfp8-title option")].some((one) => /VAE/.test(one.textContent)));
  seen.runs = await page.locator(".sfp8-title option").allTextContents();
  seen.boxes = await page.locator(".sfp8-verdict").evaluateAll((all) => all.map((box) => box.textContent));
  seen.reports = await page.evaluate(() => [made.report, made.seen].map((node) => node.inputs[0].type));
  await page.locator(".sfp8-title").selectOption({ label: await page.locator(".sfp8-title option", { hasText: "DigitsErrors" }).textContent() });
  await page.locator(".sfp8-noise:not([hidden])").waitFor();
  seen.noise = await coloured(page.locator(".sfp8-noise"));
  await page.locator(".sfp8-body select").first().selectOption("error");
  await page.locator(".sfp8-body select").nth(2).selectOption("error");
  seen.legend = await page.locator(".sfp8-legend").innerText();
  seen.rows = (await editor.rows(page)).map((row) => row.layer);
  seen.cells = await cells(page);
  await page.locator('.sfp8-row[aria-posinset="1"]').click();
  seen.detail = await coloured(page.locator(".sfp8-detail .sfp8-bad"));
  await shot(page, "errors");
  seen.axe = await editor.axe(page, modules, ".sfp8-panel");
  seen.page = await report(page, modules, shot);
  return seen;
}

const coloured = (locator) => locator.evaluate((one) => ({ text: one.textContent, colour: getComputedStyle(one).color }));

/** How many pixels of the heat map have which colour, as "r,g,b". */
const cells = (page) => page.evaluate(() => {
  const canvas = document.querySelector(".sfp8-canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = {};
  for (let i = 0; i < data.length; i += 4) {
    const colour = data.slice(i, i + 3).join(",");
    if (data[i + 3] === 255) found[colour] = (found[colour] ?? 0) + 1;
  }
  return found;
});

/** The HTML report in its frame: what it says, and whether its scripts reach the editor. */
async function report(page, modules, shot) {
  await page.getByRole("button", { name: "Open the report" }).click();
  const frame = page.frameLocator(".sfp8-page iframe");
  await frame.locator("#done").waitFor();
  const said = { title: await frame.locator("h1").textContent(), done: await frame.locator("#done").textContent() };
  const axe = await editor.axe(page, modules, ".sfp8-page > header");
  await shot(page, "page");
  const saved = await editor.download(page, () => page.locator(".sfp8-page").getByRole("button", { name: "Save" }).click());
  await page.locator(".sfp8-page").getByRole("button", { name: "Close" }).click();
  await page.locator(".sfp8-page").waitFor({ state: "detached" });
  return { ...said, saved: saved.name, axe, left: await page.evaluate(() => window.reached ?? null) };
}

/** A workflow saved when FP8 Report took a MODEL only; and a CLIP given to its node afterwards. */
export async function older(page) {
  const workflow = await page.evaluate(() => app.graph.serialize());
  for (const node of workflow.nodes) if (node.type === "FP8Report") node.inputs[0].type = "MODEL";
  await page.evaluate((workflow) => app.loadGraphData(workflow), workflow);
  const again = await editor.prompt(page);
  const accepts = await page.evaluate(() => {
    const report = app.graph.nodes.find((node) => node.type === "FP8Report");
    const loader = LiteGraph.createNode("LoadFP8Checkpoint");
    app.graph.add(loader);
    return [0, 1, 2, 3].map((slot) => {
      report.disconnectInput(0);
      loader.connect(slot, report, 0);
      return report.inputs[0].link !== null;
    });
  });
  return { output: again.output, accepts };
}
