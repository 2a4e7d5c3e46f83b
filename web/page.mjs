// The HTML report that a node wrote, shown in a frame that has nothing of the editor's.
import { download, h } from "./dom.mjs";
import { api } from "./server.mjs";
import { t } from "./words.mjs";

/** Show a file of ComfyUI's folders, {filename, subfolder, type}. */
export async function showPage(file) {
  const answer = await api.fetchApi(`/view?${new URLSearchParams(file)}`);
  if (!answer.ok) throw new Error(t("noPage", { file: file.filename }));
  const text = await answer.text();
  const dialog = h("dialog", { className: "sfp8-panel sfp8-page", "aria-label": t("page") }, head(file, text), frame(text));
  dialog.addEventListener("close", () => dialog.remove());
  // the editor's shortcuts must not fire behind it
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  document.body.append(dialog);
  dialog.showModal();
}

function head(file, text) {
  const save = () => download(file.filename, new Blob([text], { type: "text/html" }));
  const close = (event) => event.target.closest("dialog").close();
  return h("header", { className: "sfp8-bar" },
    h("b", { className: "sfp8-title" }, file.filename),
    h("button", { type: "button", onclick: save }, t("savePage")),
    h("button", { type: "button", onclick: close, autofocus: true }, t("closePage")));
}

/** Scripts of the page run, in an origin of their own: ComfyUI would be at the mercy of whoever writes to its output folder. */
function frame(text) {
  const element = h("iframe", { title: t("page") });
  element.setAttribute("sandbox", "allow-scripts");
  element.srcdoc = text;
  return element;
}
