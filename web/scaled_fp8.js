// The one file that ComfyUI loads: ties the modules beside it to the editor.
import { app } from "../../scripts/app.js";
import { style } from "./dom.mjs";
import { menuItems } from "./menu.mjs";
import { close, isOpen, leave, open, pageWritten, refresh } from "./panel.mjs";
import { api, get, strings } from "./server.mjs";
import { recall, state } from "./state.mjs";
import { attach, refresh as inspect, showRun } from "./verdict.mjs";
import { speak } from "./words.mjs";

/** The node of an execution id; "5:3" is node 3 in the subgraph of node 5. */
function nodeOf(id) {
  return id.split(":").reduce((graph, part, i, all) => {
    const node = graph?.getNodeById(/^\d+$/.test(part) ? Number(part) : part);
    return i === all.length - 1 ? node : node?.subgraph;
  }, app.rootGraph ?? app.graph);
}

async function afterRun() {
  try {
    const runs = isOpen() || state.view ? await refresh() : (await get("report")).runs;
    for (const run of runs) {
      const node = nodeOf(run.node);
      if (node) showRun(node, run);
    }
  } catch (problem) {
    console.warn("Scaled FP8:", problem.message);
  }
}

app.registerExtension({
  name: "ScaledFP8.Views",
  async init() {
    style();
    recall();
    addEventListener("pagehide", leave);
    const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? navigator.language;
    speak(await strings(), language ?? "en");
  },
  setup() {
    app.extensionManager.registerSidebarTab({
      id: "scaled_fp8",
      icon: "pi pi-gauge",
      title: "Scaled FP8",
      tooltip: "Scaled FP8",
      type: "custom",
      render: open,
      destroy: close,
    });
    api.addEventListener("execution_success", afterRun);
    api.addEventListener("executed", ({ detail }) => {
      const [file] = detail.output?.scaled_fp8_report ?? [];
      if (file) pageWritten(detail.node, file);
    });
    api.addEventListener("scaled_fp8.report", ({ detail }) => {
      const node = nodeOf(detail.node);
      if (node) showRun(node, detail);
    });
  },
  nodeCreated: attach,
  loadedGraphNode: (node) => void inspect(node),
  getNodeMenuItems: (node) => menuItems(node, app),
});
