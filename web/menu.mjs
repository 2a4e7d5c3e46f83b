// Entries in the menu of nodes that give out a model, whoever made them.
import { fromInspection } from "./layers.mjs";
import { fail, isOpen, refresh, showView, state } from "./panel.mjs";
import { get } from "./server.mjs";
import { filesOf, values } from "./verdict.mjs";
import { needTables, t, tally } from "./words.mjs";

const GIVEN = ["MODEL", "CLIP"];
// widgets of core's and others' loaders -> the folder of the files they name
const WIDGETS = { unet_name: "diffusion_models", ckpt_name: "checkpoints", clip_name: "text_encoders", clip_name1: "text_encoders" };
const TAB = "scaled_fp8";

export function menuItems(node, app) {
  if (!node.outputs?.some((output) => GIVEN.includes(output.type))) return [];
  return [
    null,
    { content: t("inspectModel"), callback: () => run(app, () => inspect(node)) },
    { content: t("showInPanel"), callback: () => run(app, () => showRun(node)) },
  ];
}

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
  for (let one = node, steps = 0; one && steps < 50; steps++) {
    yield one;
    const slot = (one.inputs ?? []).findIndex((input) => GIVEN.includes(input.type));
    one = slot < 0 ? null : one.getInputNode(slot);
  }
}

async function inspect(node) {
  const file = fileOf(node);
  if (!file) throw new Error(t("noFile"));
  const found = await get("inspect", { file, layers: 1 });
  const line = !found.accepted ? found.sentence : found.plan && Object.keys(found.plan).length
    ? t("planned", { kernels: tally(found.plan), device: found.device }) : (found.problem ?? t("unquantized"));
  showView({ title: file.split("/").pop(), line, layers: fromInspection(found), needs: needTables(found) });
}

async function showRun(node) {
  const runs = await refresh();
  const wanted = [...upstream(node)].map((one) => String(one.id));
  const run = wanted.map((id) => runs.find((one) => one.node.split(":").pop() === id)).find(Boolean);
  if (!run) throw new Error(t("notRun"));
  if (run.node !== state.node) await refresh(run.node);
}
