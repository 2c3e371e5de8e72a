// Asks the server. The token, where there is one, comes behind the "#" of the address that the
// server printed; it stays in this tab.

const KEY = "jaxcovid-token";

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEY);
}

const secret = token();

/** The answer to a request; throws an Error with the server's own words if it refuses. */
export async function ask(path, options = {}) {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) {
    let detail = answer.statusText;
    try {
      detail = (await answer.json()).detail;
    } catch {
      // no JSON: the status says enough
    }
    const error = new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
    error.status = answer.status;
    throw error;
  }
  return answer;
}

/** Saves what the server answers under a name. */
export async function save(path, name) {
  const url = URL.createObjectURL(await (await ask(path)).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
