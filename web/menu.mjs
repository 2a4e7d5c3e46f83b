// Entries in the menu of nodes that give out a model, whoever made them.
import { fail, isOpen, refresh, showFile, showRun } from "./panel.mjs";
import { state } from "./state.mjs";
import { filesOf, values } from "./verdict.mjs";
import { t } from "./words.mjs";

const GIVEN = ["MODEL", "CLIP", "VAE"];
// widgets of core's and others' loaders -> the folder of the files they name
const WIDGETS = { unet_name: "diffusion_models", ckpt_name: "checkpoints", clip_name: "text_encoders", clip_name1: "text_encoders" };
const TAB = "scaled_fp8";

export function menuItems(node, app) {
  const kind = givenBy(node);
  if (!kind) return [];
  const inspect = { content: t("inspectModel"), callback: () => run(app, () => inspectNode(node)) };
  const show = { content: t("showInPanel"), callback: () => run(app, () => showNode(node)) };
  // a VAE comes from no file that this pack inspects
  return [null, ...(kind === "VAE" ? [] : [inspect]), show];
}

/** The first of a node's outputs that has layers: MODEL, CLIP or VAE. */
const givenBy = (node) => node.outputs?.map((output) => output.type).find((type) => GIVEN.includes(type));

async function run(app, action) {
  await openPanel(app);
  await action().catch(fail);
}

export async function openPanel(app) {
  if (!isOpen()) await app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${TAB}`);
}

/** The file a node's model comes from: its own, or that of the node before it. */
export function fileOf(node) {
  for (const one of upstream(node)) {
    const chosen = values(one);
    const [file] = filesOf(one);
    if (file) return file;
    const widget = Object.keys(WIDGETS).find((name) => typeof chosen[name] === "string");
    if (widget) return `${WIDGETS[widget]}/${chosen[widget]}`;
  }
  return null;
}

/** A node and those its model came through, nearest first. */
function* upstream(node) {
  const kind = givenBy(node);
  for (let one = node, steps = 0; one && steps < 50; steps++) {
    yield one;
    const slot = (one.inputs ?? []).findIndex((input) => input.type === kind);
    one = slot < 0 ? null : one.getInputNode(slot);
  }
}

async function inspectNode(node) {
  const file = fileOf(node);
  if (!file) throw new Error(t("noFile"));
  await showFile(file);
}

async function showNode(node) {
  const runs = await refresh();
  const kind = givenBy(node);
  const found = (id) => runs.find((one) => one.node.split(":").pop() === id && one.part === kind);
  const run = [...upstream(node)].map((one) => found(String(one.id))).find(Boolean);
  if (!run) throw new Error(t("notRun"));
  if (run.key !== state.run) await showRun(run.key);
}
