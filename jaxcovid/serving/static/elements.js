// Small helpers to make elements; texts are always texts, never markup.

/** An element with attributes, and texts or elements in it. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** A probability for people. */
export function percent(value) {
  if (value === null || value === undefined) return "…";
  const shown = 100 * value;
  return `${shown < 10 || shown > 90 ? shown.toFixed(1) : shown.toFixed(0)} %`;
}

/** Calls a function when it has not been asked for so many milliseconds. */
export function settled(milliseconds, call) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), milliseconds);
  };
}
