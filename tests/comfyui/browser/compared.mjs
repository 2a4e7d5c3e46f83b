// Two models compared in the editor: both pictures under core's slider, each layer's error in the panel, the report.
import * as editor from "./editor.mjs";

const FP8 = "diffusion_models/server-ltx.safetensors";
const SAMPLING = { seed: 7, control_after_generate: "fixed", steps: 2, cfg: 1, sampler_name: "euler", scheduler: "simple" };
const NODES = {
  bf16: { type: "UNETLoader", pos: [40, 0], widgets: { unet_name: "digits-flux2-bf16.safetensors" } },
  fp8: { type: "LoadFP8Checkpoint", pos: [40, 130], widgets: { checkpoint: FP8, compute: "upcast" } },
  digits: { type: "DigitsConditioning", pos: [40, 480], widgets: { digits: "7" } },
  latent: { type: "EmptyFlux2LatentImage", pos: [40, 600], widgets: { width: 64, height: 64, batch_size: 1 } },
  vae: { type: "VAELoader", pos: [40, 760], widgets: { vae_name: "taef2" } },
  compare: { type: "CompareModels", pos: [400, 0], widgets: { ...SAMPLING, images: 1, attribute: "always" } },
  slider: { type: "ImageCompare", pos: [740, 0] },
};
const LINKS = [
  ["bf16", 0, "compare", "model_a"], ["fp8", 0, "compare", "model_b"], ["digits", 0, "compare", "positive"],
  ["digits", 0, "compare", "negative"], ["latent", 0, "compare", "latent"], ["vae", 0, "compare", "vae"],
  ["compare", 0, "slider", "image_a"], ["compare", 1, "slider", "image_b"],
];

export async function compared(page, { playwright: modules }, shot) {
  await editor.build(page, NODES, LINKS);
  const seen = { ended: await editor.run(page) };
  const option = page.locator(".sfp8-title option", { hasText: "CompareModels" });
  await option.waitFor({ state: "attached" });
  await page.locator(".sfp8-title").selectOption({ label: await option.textContent() });
  await page.waitForFunction(() => /in 23 layers/.test(document.querySelector(".sfp8-line").textContent));
  await page.locator(".sfp8-body select").first().selectOption("error");
  await page.locator(".sfp8-body select").nth(2).selectOption("error");
  seen.layers = await page.evaluate(async () => {
    const run = document.querySelector(".sfp8-title").value;
    const { layers } = await (await app.api.fetchApi(`/scaled_fp8/v1/report?run=${encodeURIComponent(run)}`)).json();
    return layers.map(({ layer, error }) => [layer, error]);
  });
  await page.locator('.sfp8-row[aria-posinset="1"]').click();
  await shot(page, "panel-error");
  await page.getByRole("button", { name: "Open the report" }).click();
  const frame = page.frameLocator(".sfp8-page iframe");
  await frame.locator("h1").waitFor();
  seen.page = await frame.locator("body").innerText();
  seen.json = await page.evaluate(async () => {
    const [, file] = app.nodeOutputs[made.compare.id].scaled_fp8_report;
    return (await app.api.fetchApi(`/view?${new URLSearchParams(file)}`)).json();
  });
  await shot(page, "report");
  await page.locator(".sfp8-page").getByRole("button", { name: "Close" }).click();
  return seen;
}
