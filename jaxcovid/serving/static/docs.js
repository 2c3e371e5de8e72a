// Shows what programs can ask, from the server's own description of it.
import { ask } from "/static/server.js";

const description = await (await ask("/api/openapi.json")).json();
window.SwaggerUIBundle({ spec: description, domNode: document.getElementById("docs") });
