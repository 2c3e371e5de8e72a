// Pictures that the server draws, in the images of the page.

import { ask } from "/static/server.js";

/** The address of a picture that the server draws; null where it has none. */
export async function load(path) {
  const answer = await ask(path).catch(() => null);
  return answer && URL.createObjectURL(await answer.blob());
}

/** Shows a loaded picture, or none; what no image shows any more is given back. */
export function put(image, url) {
  const old = image.dataset.url;
  if (url) image.src = url;
  else image.removeAttribute("src");
  image.dataset.url = url ?? "";
  if (old && old !== url && ![...document.images].some((each) => each.dataset.url === old)) URL.revokeObjectURL(old);
}

/** Takes a layer away. */
export function hide(layer) {
  layer.hidden = true;
  layer.dataset.shows = "";
}

/** Shows a picture as a layer, unless it is there already; `current` says whether it is still asked for. */
export async function showLayer(layer, address, current) {
  if ((layer.dataset.shows ?? "") === address) return;
  const url = address ? await load(address) : null;
  if (!current()) return;
  put(layer, url);
  layer.hidden = url === null;
  layer.dataset.shows = url === null ? "" : address;
}
