// A model quantized for a budget in the editor: the curve of its plan in the panel, and what each point is called.
import * as editor from "./editor.mjs";

const NODES = {
  bf16: { type: "UNETLoader", pos: [40, 0], widgets: { unet_name: "digits-flux2-bf16.safetensors" } },
  quantize: { type: "QuantizeModel", pos: [400, 0], widgets: { method: "budget", budget: "6 bits", formats: "nvfp4,int4,int8" } },
  report: { type: "FP8Report", pos: [800, 0] },
};
const LINKS = [["bf16", 0, "quantize", "model"], ["quantize", 0, "report", "model"]];

export async function budgeted(page, shot) {
  await editor.build(page, NODES, LINKS);
  const seen = { ended: await editor.run(page) };
  const option = page.locator(".sfp8-title option", { hasText: "QuantizeModel" });
  await option.waitFor({ state: "attached" });
  await page.locator(".sfp8-title").selectOption({ label: await option.textContent() }, { force: true });
  const part = page.locator("details", { has: page.locator(".sfp8-curve") });
  await part.locator("summary").click();
  await part.locator(".sfp8-chosen").waitFor();
  seen.said = await part.locator(".sfp8-curve").getAttribute("aria-label");
  seen.dots = await part.locator(".sfp8-dot").evaluateAll((all) => all.map((dot) => ({
    kind: dot.className, x: parseFloat(dot.style.left), y: parseFloat(dot.style.bottom), title: dot.title,
  })));
  await part.scrollIntoViewIfNeeded();
  await shot(page, "panel-curve", { clip: { x: 0, y: 36, width: 760, height: 864 } });
  await part.locator("summary").click();
  return seen;
}
