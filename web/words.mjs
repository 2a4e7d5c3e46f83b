// Everything shown in words: strings of locales/*/main.json, numbers, the sentences made of them.
import { decibel } from "./layers.mjs";

let strings = {};

/** Take the strings of a language; those it lacks come from English. */
export function speak(all, language) {
  const of = (name) => all?.[name]?.scaled_fp8 ?? {};
  strings = { ...of("en"), ...of(language.split("-")[0]), ...of(language) };
}

/** The string of a key, with {name} replaced. */
export function t(key, values = {}) {
  const text = strings[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Bytes for people: 24.4 GB. */
export function bytes(count) {
  if (!(count >= 0)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const unit = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** unit;
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A number with as many digits as people compare. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0 || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 0.001 && size < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
}

/** A signal to quantization noise: "31.4 dB", or that there is none. */
export function decibels(value) {
  return value === Infinity ? t("identical") : t("decibel", { value: Number.isFinite(value) ? value.toFixed(1) : String(value) });
}

const NAMED = 5; // layers in a sentence

/** Which of the measured layers are noise, "" where none is. */
export function noiseLine(layers) {
  const noisy = layers.filter((layer) => layer.noise).map((layer) => layer.layer);
  if (!noisy.length) return "";
  const named = noisy.slice(0, NAMED).join(", ");
  const measured = layers.filter((layer) => decibel(layer) !== null).length;
  const values = { count: noisy.length, all: measured, layers: named, more: noisy.length - NAMED };
  return t(noisy.length > NAMED ? "noiseMany" : "noise", values);
}

/** {name: count} as "160 upcast, 8 scaled_mm"; the name alone where there is one. */
export function tally(counts) {
  const pairs = Object.entries(counts ?? {});
  if (pairs.length === 1) return pairs[0][0];
  return pairs.map(([name, count]) => `${count} ${name}`).join(", ");
}

/** What a file is, in lines: [{kind: "good" | "bad" | "plain" | "plan", text}]. */
export function verdictLines(found) {
  if (found.error) return [{ kind: "bad", text: found.error }];
  if (!found.accepted) return [{ kind: "bad", text: found.sentence }];
  const layers = found.totals ?? {};
  const count = (layers.scaled ?? 0) + (layers["plain cast"] ?? 0);
  const size = t("size", { size: bytes(found.size), memory: bytes(found.memory), free: bytes(found.free) });
  if (!count) return [{ kind: "plain", text: t("unquantized") }, { kind: "plain", text: size }];
  const what = { count, granularity: tally(found.granularities), dialect: found.dialect, format: tally(found.formats) };
  const lines = [{ kind: "good", text: t("layers", what) }];
  if (layers["plain cast"]) lines.push({ kind: "plain", text: t("plainCasts", { count: layers["plain cast"] }) });
  if (found.problem) lines.push({ kind: "bad", text: found.problem });
  else lines.push({ kind: "plan", text: t("plan", { kernels: tally(found.plan), device: found.device }) });
  lines.push({ kind: "plain", text: `${size} · ${t("others", { count: layers["other tensors"] ?? 0 })}` });
  return lines;
}

/** What each method would need of a file's parts beside what is free: [{title, rows: [{method, size, fits, text}]}]. */
export function needTables(found) {
  const { free } = found;
  return Object.entries(found.needs ?? {}).map(([component, rows]) => ({
    title: t("needsOf", { component, free: bytes(free) }),
    rows: rows.map(({ method, peak }) => {
      const fits = peak <= free;
      return { method, size: bytes(peak), fits, text: fits ? t("fits") : t("tooMuch", { size: bytes(peak - free) }) };
    }),
  }));
}

/** What ran, in one line. */
export function runLine(run) {
  const values = { count: run.count, kernels: tally(run.kernels), calls: run.calls, device: run.device };
  if (!run.count) return t("ranNone");
  return t(run.calls ? "ran" : "ready", values);
}
