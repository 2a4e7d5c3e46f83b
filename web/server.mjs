// The pack's routes.
import { api } from "../../scripts/api.js";

/** JSON of a route; an Error with the server's sentence where it answers with one. */
export async function get(route, query = {}) {
  const answer = await api.fetchApi(`/scaled_fp8/v1/${route}?${new URLSearchParams(query)}`);
  const found = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw new Error(found.error ?? `${answer.status} ${answer.statusText}`);
  return found;
}

/** Every pack's strings by language, as ComfyUI serves them. */
export async function strings() {
  try {
    return await (await api.fetchApi("/i18n")).json();
  } catch {
    return {};
  }
}

export { api };
