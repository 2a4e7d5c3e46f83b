// What this device's kernels can do, as the doctor measured them.
import { h } from "./dom.mjs";
import { get } from "./server.mjs";
import { state } from "./state.mjs";
import { figure, t } from "./words.mjs";

/** A part of the panel that measures when it is unfolded first. */
export function device() {
  const findings = h("div", { className: "sfp8-doctor" });
  const details = h("details", { className: "sfp8-device" }, h("summary", {}, t("device")), findings);
  details.addEventListener("toggle", () => details.open && diagnose(findings));
  return details;
}

async function diagnose(findings) {
  try {
    if (!state.doctor) findings.textContent = t("measuring");
    state.doctor ??= await get("doctor");
    findings.replaceChildren(...elements(state.doctor));
  } catch (problem) {
    findings.textContent = problem.message;
  }
}

function elements({ versions, devices, kernels }) {
  const version = Object.entries(versions).map(([name, number]) => `${name} ${number}`).join(" · ");
  return [
    ...Object.entries(devices).map(([device, name]) => h("section", {}, h("h4", {}, `${device} · ${name}`),
      h("ul", {}, kernels.filter((kernel) => kernel.device === device).map(item)))),
    h("p", { className: "sfp8-hint" }, version),
  ];
}

function item({ kernel, dtype, works, error, time, reason }) {
  const mark = h("i", { className: `pi ${works ? "pi-check-circle sfp8-good" : "pi-times-circle sfp8-bad"}`, "aria-hidden": true });
  const words = works ? t("works", { error: figure(error) }) + (time ? t("time", { time: figure(time) }) : "") : reason;
  return h("li", {}, mark, h("div", {}, h("b", {}, kernel), ` ${dtype}`, h("div", { className: "sfp8-hint" }, words)));
}
